//! Networks for other programs: weights under the names, in the layouts and with the settings by which timm, transformers and
//! open_clip load them without our code.
//!
//! All have the same image encoder under other names: pre-norm blocks with biases, tanh GELU, layer norm epsilon 1e-6, no class
//! token. They differ in what comes after it: a captioner's representation is the mean over patches *after* the final layer
//! norm; two towers pool by attention, and project.

use std::collections::HashMap;
use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::config::{PositionEmbedding, VisionConfig, check};
use crate::layout::{self, ImageTower, Layout};
use crate::{Captioner, Classifier, ContrastiveConfig, ModelError, ParamTable, Pooling, TwoTower, position};

/// Whose names and layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// timm's `VisionTransformer` (`vit_*`), with `timm.create_model("local-dir:DIR")`.
    Timm,
    /// transformers' `SiglipVisionModel`, with `SiglipVisionModel.from_pretrained(DIR)`.
    Transformers,
    /// open_clip's `CustomTextCLIP`, both towers, with `open_clip.create_model("local-dir:DIR")`.
    OpenClip {
        /// Where the folder will lie, as an absolute path: the config tells open_clip the image tower's sizes by it.
        folder: PathBuf,
    },
}

/// A network as another program loads it: the contents of a folder.
#[derive(Debug)]
pub struct Exported {
    /// f32, on the host, contiguous.
    pub tensors: Vec<(String, Tensor)>,
    /// The file of the tensors.
    pub weights: &'static str,
    /// JSON files by their path in the folder: the network's sizes, and how pictures are prepared.
    pub documents: Vec<(&'static str, Value)>,
}

impl Exported {
    /// Path and content of every file of the folder.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![(self.weights, self.safetensors())];
        files.extend(self.documents.iter().map(|(name, document)| (*name, format!("{document:#}\n").into_bytes())));
        files
    }

    fn safetensors(&self) -> Vec<u8> {
        let raw = self.tensors.iter().map(|(name, tensor)| {
            let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            let shape = tensor.size().into_iter().map(|n| usize::try_from(n).expect("sizes are not negative"));
            (name, shape.collect::<Vec<_>>(), bytes)
        });
        let raw: Vec<_> = raw.collect();
        let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        let views = raw
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), view(shape, bytes).expect("a shape and what fills it")));
        // transformers asks for whom a file was written.
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views.collect::<Vec<_>>(), Some(format)).expect("tensors with names of their own")
    }
}

impl Captioner {
    /// The encoder, with mean pooling.
    ///
    /// # Errors
    /// Images or patches are not square, or the format wants two towers.
    pub fn export(&self, format: &Format) -> Result<Exported, ModelError> {
        Encoder { params: self.params(), root: "encoder", vision: self.config().vision(), head: None }.export(format)
    }
}

impl TwoTower {
    /// The image tower with its pooling. timm gets the projection too, as its head; transformers has no place for one, so
    /// there the representation is that before it. open_clip gets both towers.
    ///
    /// # Errors
    /// Images or patches are not square, or open_clip can't pool texts as the network does.
    pub fn export(&self, format: &Format) -> Result<Exported, ModelError> {
        let config = self.config();
        let head = Some(Head { pooling: config.image.pooling, outputs: config.embedding });
        let encoder = Encoder { params: self.params(), root: "img", vision: config.vision(), head };
        match format {
            Format::OpenClip { folder } => encoder.open_clip(config, folder),
            Format::Timm | Format::Transformers => encoder.export(format),
        }
    }
}

impl Classifier {
    /// The encoder with its pooling; timm gets the classes too, as its head.
    ///
    /// # Errors
    /// Images or patches are not square, or the format wants two towers.
    pub fn export(&self, format: &Format) -> Result<Exported, ModelError> {
        let config = self.config();
        let head = Some(Head { pooling: config.image.pooling, outputs: config.classes });
        Encoder { params: self.params(), root: "img", vision: config.vision(), head }.export(format)
    }
}

struct Encoder<'a> {
    params: &'a ParamTable,
    root: &'static str,
    vision: VisionConfig,
    head: Option<Head>,
}

#[derive(Clone, Copy)]
struct Head {
    pooling: Pooling,
    outputs: i64,
}

/// The image tower's settings in an export for open_clip.
const IMAGE_TOWER: &str = "image-tower";

impl Encoder<'_> {
    fn export(&self, format: &Format) -> Result<Exported, ModelError> {
        self.check()?;
        let tower = self.tower();
        let (layout, documents) = match format {
            Format::Timm => (layout::timm("", tower), vec![("config.json", self.timm_config())]),
            Format::Transformers => (
                layout::transformers(tower),
                vec![
                    ("config.json", self.transformers_config()),
                    ("preprocessor_config.json", self.transformers_preparation()),
                ],
            ),
            Format::OpenClip { .. } => return Err(ModelError::NoTowers),
        };
        Ok(Exported { tensors: self.tensors(&[layout]), weights: "model.safetensors", documents })
    }

    fn open_clip(&self, config: &ContrastiveConfig, folder: &std::path::Path) -> Result<Exported, ModelError> {
        self.check()?;
        let pooling = serde_json::to_value(config.text.pooling).expect("a word");
        let remedy = "open_clip pools texts at their last token only: train with objective.text_pooling `last`";
        check("text pooling", pooling, config.text.pooling == Pooling::Last, remedy)?;
        let has_bias = self.params.get("b").is_some();
        // Its adapter of timm has a projection of its own.
        let trunk = Self { head: self.head.map(|head| Head { outputs: 0, ..head }), ..*self };
        let image = layout::timm("visual.trunk.", ImageTower { has_head: false, ..self.tower() });
        let text = layout::open_clip_text(config.text.layers, has_bias);
        let tower = folder.join(IMAGE_TOWER);
        Ok(Exported {
            tensors: self.tensors(&[image, text]),
            weights: "open_clip_model.safetensors",
            documents: vec![
                ("open_clip_config.json", self.open_clip_config(config, &tower)),
                ("image-tower/config.json", trunk.timm_config()),
            ],
        })
    }

    fn check(&self) -> Result<(), ModelError> {
        let VisionConfig { image_size: [height, width], patch: [rows, columns], .. } = self.vision;
        check("image height", height, height == width, "exported encoders take square images")?;
        check("patch height", rows, rows == columns, "exported encoders take square patches")
    }

    fn tower(&self) -> ImageTower<'_> {
        ImageTower {
            root: self.root,
            layers: self.vision.layers,
            has_map: self.has_attention_pooling(),
            has_head: self.head.is_some(),
        }
    }

    fn has_attention_pooling(&self) -> bool {
        self.head.is_some_and(|head| head.pooling == Pooling::Map)
    }

    /// The tensors of some layouts: f32, on the host, contiguous.
    fn tensors(&self, layouts: &[Layout]) -> Vec<(String, Tensor)> {
        let _no_grad = tch::no_grad_guard();
        let entries = layouts.iter().flat_map(|layout| &layout.0);
        let tensor = |entry: &layout::Entry| {
            let ours: Vec<_> = entry.ours.iter().map(|name| self.param(name)).collect();
            let theirs = entry.form.theirs(&ours).to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous();
            (entry.theirs.clone(), theirs)
        };
        entries.map(tensor).collect()
    }

    fn param(&self, name: &str) -> Tensor {
        match (self.params.get(name), self.vision.position) {
            (Some(param), _) => param.detach(),
            // Other programs have a table where ours is fixed.
            (None, PositionEmbedding::Sincos2d) => {
                position::sincos2d(self.vision.grid(), self.vision.width, tch::Device::Cpu)
            }
            (None, PositionEmbedding::Learn) => unreachable!("a network without {name}"),
        }
    }

    /// As timm's models on the hub have it.
    fn timm_config(&self) -> Value {
        let VisionConfig { image_size: [image, _], patch: [patch, _], width, layers, heads, mlp, .. } = self.vision;
        let pool = if self.has_attention_pooling() { "map" } else { "avg" };
        let classes = self.head.map_or(0, |head| head.outputs);
        json!({
            "architecture": "vit_base_patch16_224",
            "num_classes": classes,
            "num_features": width,
            "global_pool": pool,
            "model_args": {
                "img_size": image, "patch_size": patch, "embed_dim": width, "depth": layers, "num_heads": heads,
                "mlp_ratio": mlp_ratio(mlp, width), "class_token": false, "global_pool": pool, "fc_norm": false,
                "act_layer": "gelu_tanh",
            },
            "pretrained_cfg": {
                "input_size": [3, image, image], "fixed_input_size": true, "interpolation": "bilinear",
                "crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                "first_conv": "patch_embed.proj", "classifier": "head", "num_classes": classes,
            },
        })
    }

    fn transformers_config(&self) -> Value {
        let VisionConfig { image_size: [image, _], patch: [patch, _], width, layers, heads, mlp, .. } = self.vision;
        json!({
            "architectures": ["SiglipVisionModel"],
            "model_type": "siglip_vision_model",
            "image_size": image, "patch_size": patch, "num_channels": 3, "hidden_size": width,
            "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
            "vision_use_head": self.has_attention_pooling(),
        })
    }

    fn transformers_preparation(&self) -> Value {
        let [height, width] = self.vision.image_size;
        let bilinear = 2;
        json!({
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": true, "size": { "height": height, "width": width }, "resample": bilinear,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0,
            "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        })
    }

    /// `tower` is the folder with the image tower's settings, which timm reads.
    fn open_clip_config(&self, config: &ContrastiveConfig, tower: &std::path::Path) -> Value {
        let size = self.vision.image_size[0];
        let text = &config.text;
        let pool = if self.has_attention_pooling() { "map" } else { "avg" };
        let mut model = json!({
            "embed_dim": config.embedding,
            "custom_text": true,
            "vision_cfg": {
                "image_size": size, "timm_model_name": format!("local-dir:{}", tower.display()),
                "timm_model_pretrained": false, "timm_pool": pool, "timm_proj": "linear", "timm_proj_bias": true,
            },
            "text_cfg": {
                "context_length": config.text_length, "vocab_size": config.vocab, "width": text.width,
                "heads": text.heads, "layers": text.layers, "mlp_ratio": mlp_ratio(text.mlp, text.width),
                "no_causal_mask": true, "pool_type": "last", "proj_bias": true,
                "act_kwargs": { "approximate": "tanh" }, "norm_kwargs": { "eps": 1e-6 },
            },
        });
        if let Some(bias) = config.bias {
            model["init_logit_bias"] = bias.into();
        }
        let half = [0.5, 0.5, 0.5];
        json!({
            "model_cfg": model,
            "preprocess_cfg": {
                "size": size, "mode": "RGB", "mean": half, "std": half, "interpolation": "bilinear",
                "resize_mode": "squash",
            },
        })
    }
}

/// Other programs take the whole part of width · ratio.
fn mlp_ratio(mlp: i64, width: i64) -> f64 {
    if mlp % width == 0 { (mlp / width) as f64 } else { (mlp as f64 + 0.5) / width as f64 }
}
