//! Which network parameters belong to, told by their names and shapes alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::VisionConfig;
use crate::spec::{self, ParamSpec};
use crate::{ContrastiveConfig, ModelConfig, ModelError, Pooling, PositionEmbedding, TowerConfig};

/// Shapes of parameters by their names in the authors' tree.
pub(crate) type Shapes = BTreeMap<String, Vec<i64>>;

/// A network and its sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// Encoder and decoder.
    Captioner(ModelConfig),
    /// Image and text tower.
    TwoTower(ContrastiveConfig),
    /// Images only.
    Image(ImageNetwork),
}

/// An encoder, by itself or with what pools its patches; sizes are in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageNetwork {
    /// What its parameters' names begin with: `encoder` as a captioner's, or `img` as an image tower's, where what pools has its place.
    pub root: &'static str,
    /// Height and width of the images, in pixels.
    pub image_size: [i64; 2],
    /// Height and width of a patch, in pixels.
    pub patch: [i64; 2],
    /// How positions are told.
    pub position: PositionEmbedding,
    /// The encoder; mean pooling where there are no parameters of another.
    pub tower: TowerConfig,
    /// Classes, or width of the projection, where there is a last layer.
    pub outputs: Option<i64>,
}

/// What no shape tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given {
    /// Height and width of the images.
    pub(crate) image_size: Option<i64>,
    /// Length of the texts.
    pub(crate) text_length: Option<i64>,
}

/// Of a captioner whose positions are fixed, which has no parameter of that length: the paper's.
const TEXT_LENGTH: i64 = 64;
/// What a new network's similarities are scaled by and have added (the authors' settings); parameters say otherwise.
const TEMPERATURE: f64 = 10.0;
const BIAS: f64 = -10.0;

impl Architecture {
    /// The network that these parameters are all of.
    ///
    /// # Errors
    /// What is missing, besides, or of another shape, a sentence for each.
    pub(crate) fn of(shapes: &Shapes, given: Given) -> Result<Self, Vec<String>> {
        let reader = Reader { shapes, given };
        let network = reader.network().map_err(|difference| vec![difference])?;
        network.validate().map_err(|error| vec![error.to_string()])?;
        let differences = network.differences(shapes);
        if differences.is_empty() { Ok(network) } else { Err(differences) }
    }

    fn validate(&self) -> Result<(), ModelError> {
        match self {
            Self::Captioner(config) => config.validate(),
            Self::TwoTower(config) => config.validate(),
            Self::Image(network) => network.vision().validate(),
        }
    }

    fn specs(&self) -> Vec<ParamSpec> {
        match self {
            Self::Captioner(config) => spec::captioner(config),
            Self::TwoTower(config) => spec::two_tower(config),
            Self::Image(network) => spec::image(network),
        }
    }

    fn differences(&self, shapes: &Shapes) -> Vec<String> {
        let mut differences = Vec::new();
        let specs = self.specs();
        for spec in &specs {
            match shapes.get(&spec.name) {
                None => differences.push(format!("it has no {}", spec.name)),
                Some(shape) if *shape != spec.shape => {
                    differences.push(format!("its {} has shape {shape:?}, here {:?}", spec.name, spec.shape));
                }
                Some(_) => {}
            }
        }
        let known: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let unknown = shapes.keys().filter(|name| !known.contains(name.as_str()));
        differences.extend(unknown.map(|name| format!("it has {name}, networks here do not")));
        differences
    }
}

impl ImageNetwork {
    pub(crate) const fn vision(&self) -> VisionConfig {
        let &Self { image_size, patch, position, tower: TowerConfig { width, layers, heads, mlp, .. }, .. } = self;
        VisionConfig { image_size, patch, width, layers, heads, mlp, position }
    }
}

struct Reader<'a> {
    shapes: &'a Shapes,
    given: Given,
}

const ATTENTION: &str = "MultiHeadDotProductAttention_0/query/kernel";

impl Reader<'_> {
    fn network(&self) -> Result<Architecture, String> {
        if self.has("decoder/LogitsDense/kernel") {
            Ok(Architecture::Captioner(self.captioner()?))
        } else if self.has("txt/Embed_0/embedding") {
            Ok(Architecture::TwoTower(self.two_tower()?))
        } else {
            let root = if self.has("img/embedding/kernel") { "img" } else { "encoder" };
            let VisionConfig { image_size, patch, position, .. } = self.vision(root)?;
            let tower = self.tower(root, &format!("{root}/Transformer"), Pooling::Mean)?;
            let outputs = self.find(&format!("{root}/head/kernel"), 1);
            Ok(Architecture::Image(ImageNetwork { root, image_size, patch, position, tower, outputs }))
        }
    }

    fn captioner(&self) -> Result<ModelConfig, String> {
        let vision = self.vision("encoder")?;
        let (logits, block) = ("decoder/LogitsDense/kernel", "decoder/EncDecBlock");
        let vocab = self.size(logits, 1)?;
        let has_mask = self.size("decoder/EmbedTargets/embedding", 0)? > vocab;
        let stored = self.find("pos_embedding_decoder", 1);
        Ok(ModelConfig {
            image_size: vision.image_size,
            patch: vision.patch,
            width: vision.width,
            layers: vision.layers,
            heads: vision.heads,
            mlp: vision.mlp,
            decoder_width: self.size(logits, 0)?,
            decoder_layers: self.count(block, "/LayerNorm1/scale"),
            decoder_heads: self.size(&format!("{block}0/SelfAttn/query/kernel"), 1)?,
            decoder_mlp: self.size(&format!("{block}0/MLP/Dense_0/kernel"), 1)?,
            decoder_bias: self.has(&format!("{block}0/LayerNorm1/bias")),
            vocab,
            text_length: stored.or(self.given.text_length).unwrap_or(TEXT_LENGTH),
            position: vision.position,
            masked_pred_prob: if has_mask { ModelConfig::b16().masked_pred_prob } else { 0.0 },
            masking_ratio: 1.0,
        })
    }

    fn two_tower(&self) -> Result<ContrastiveConfig, String> {
        let VisionConfig { image_size, patch, position, .. } = self.vision("img")?;
        Ok(ContrastiveConfig {
            image_size,
            patch,
            position,
            image: self.tower("img", "img/Transformer", Pooling::Mean)?,
            // The mean has no parameters either; the authors' default is the last token.
            text: self.tower("txt", "txt/Encoder_0", Pooling::Last)?,
            vocab: self.size("txt/Embed_0/embedding", 0)?,
            text_length: self.size("txt/pos_embedding", 1)?,
            embedding: self.size("txt/head/kernel", 1)?,
            temperature: TEMPERATURE,
            bias: self.has("b").then_some(BIAS),
        })
    }

    fn vision(&self, root: &str) -> Result<VisionConfig, String> {
        let kernel = format!("{root}/embedding/kernel");
        let patch = [self.size(&kernel, 0)?, self.size(&kernel, 1)?];
        let TowerConfig { width, layers, heads, mlp, .. } =
            self.tower(root, &format!("{root}/Transformer"), Pooling::Mean)?;
        let patches = self.find(&format!("{root}/pos_embedding"), 1);
        let position = if patches.is_some() { PositionEmbedding::Learn } else { PositionEmbedding::Sincos2d };
        let image_size = match (self.given.image_size, patches) {
            (Some(size), _) => [size, size],
            (None, Some(patches)) => {
                let side = patches.isqrt();
                if side * side != patches {
                    return Err(format!("its {patches} positions are no square grid: name the images' size"));
                }
                [side * patch[0], side * patch[1]]
            }
            (None, None) => return Err("its positions are fixed, so nothing tells the images' size: name it".into()),
        };
        Ok(VisionConfig { image_size, patch, width, layers, heads, mlp, position })
    }

    /// A tower whose blocks are below a path; `pooling` where it has no attention pooling.
    fn tower(&self, root: &str, path: &str, pooling: Pooling) -> Result<TowerConfig, String> {
        let block = format!("{path}/encoderblock_");
        let attention = format!("{block}0/{ATTENTION}");
        let has_map = self.has(&format!("{root}/MAPHead_0/probe"));
        Ok(TowerConfig {
            width: self.size(&attention, 0)?,
            layers: self.count(&block, "/LayerNorm_0/scale"),
            heads: self.size(&attention, 1)?,
            mlp: self.size(&format!("{block}0/MlpBlock_0/Dense_0/kernel"), 1)?,
            pooling: if has_map { Pooling::Map } else { pooling },
        })
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    fn find(&self, name: &str, place: usize) -> Option<i64> {
        self.shapes.get(name)?.get(place).copied()
    }

    fn size(&self, name: &str, place: usize) -> Result<i64, String> {
        self.find(name, place).ok_or_else(|| format!("it has no {name}"))
    }

    /// How many blocks there are.
    fn count(&self, before: &str, after: &str) -> i64 {
        let is_one = |name: &&String| name.starts_with(before) && name.ends_with(after);
        self.shapes.keys().filter(is_one).count() as i64
    }
}
