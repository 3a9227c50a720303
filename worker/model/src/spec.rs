//! The parameters of captioners, two-tower models and classifiers: their names in the authors' tree, shapes and initialisers.
//!
//! E encoder width, F decoder width, H heads, D head dim, M hidden width of an MLP, P patches,
//! L text length, V vocabulary.

use crate::architecture::ImageNetwork;
use crate::classifier::ClassifierConfig;
use crate::config::{ModelConfig, PositionEmbedding, VisionConfig};
use crate::contrastive::{ContrastiveConfig, Pooling, TowerConfig};

/// How a parameter starts (golden `init_stats.json` describes each).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// All of one value.
    Constant(f64),
    /// Normal of this standard deviation.
    Normal(f64),
    /// Uniform within ±√(6 / (fan in + fan out)).
    GlorotUniform {
        /// Inputs of one output.
        fan_in: i64,
        /// Outputs of one input.
        fan_out: i64,
    },
    /// Normal of variance 1 / fan in, cut at two sigma and rescaled to keep its variance.
    LecunNormal {
        /// Inputs of one output.
        fan_in: i64,
    },
}

impl Init {
    /// The largest |value| that can be drawn, where there is one.
    #[must_use]
    pub fn limit(self) -> Option<f64> {
        match self {
            Self::Zeros => Some(0.0),
            Self::Ones => Some(1.0),
            Self::Constant(value) => Some(value.abs()),
            Self::Normal(_) => None,
            Self::GlorotUniform { fan_in, fan_out } => Some((6.0 / (fan_in + fan_out) as f64).sqrt()),
            Self::LecunNormal { fan_in } => Some(2.0 * lecun_std(fan_in)),
        }
    }
}

/// The standard deviation of a standard normal cut at ±2.
const CUT_NORMAL_STD: f64 = 0.879_625_661_034_239_8;

/// The standard deviation that, cut at two sigma, leaves variance 1 / fan in.
pub(crate) fn lecun_std(fan_in: i64) -> f64 {
    (1.0 / fan_in as f64).sqrt() / CUT_NORMAL_STD
}

/// One parameter before it exists.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// Path in the authors' tree, joined by `/`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its initialiser.
    pub init: Init,
}

/// The parameters of a captioner, in the order in which the forward pass uses them.
#[must_use]
pub fn captioner(config: &ModelConfig) -> Vec<ParamSpec> {
    let mut specs = Specs::default();
    encoder(&mut specs, "encoder", &config.vision());
    decoder(&mut specs, config);
    specs.0
}

/// The parameters of a two-tower model, in the order in which the forward pass uses them.
#[must_use]
pub fn two_tower(config: &ContrastiveConfig) -> Vec<ParamSpec> {
    let mut specs = Specs::default();
    encoder(&mut specs, "img", &config.vision());
    // Not zero, as a classifier's head starts: an embedding of length 0 has no direction.
    let projection = |width| Init::LecunNormal { fan_in: width };
    specs.head("img", &config.image, config.embedding, projection(config.image.width));
    let text = &config.text;
    specs.add("txt/Embed_0/embedding", &[config.vocab, text.width], position_init(text.width));
    specs.add("txt/pos_embedding", &[1, config.text_length, text.width], position_init(text.width));
    specs.transformer("txt/Encoder_0", [text.width, text.mlp], text.layers, text.heads);
    specs.head("txt", text, config.embedding, projection(text.width));
    specs.add("t", &[1], Init::Constant(config.temperature.ln()));
    if let Some(bias) = config.bias {
        specs.add("b", &[1], Init::Constant(bias));
    }
    specs.0
}

/// The parameters of a classifier, in the order in which the forward pass uses them.
#[must_use]
pub fn classifier(config: &ClassifierConfig) -> Vec<ParamSpec> {
    let mut specs = Specs::default();
    encoder(&mut specs, "img", &config.vision());
    specs.head("img", &config.image, config.classes, Init::Zeros);
    specs.0
}

/// The parameters of an encoder with what pools it, as far as it has that.
pub(crate) fn image(network: &ImageNetwork) -> Vec<ParamSpec> {
    let mut specs = Specs::default();
    let root = network.root;
    encoder(&mut specs, root, &network.vision());
    specs.pooling(root, &network.tower);
    if let Some(outputs) = network.outputs {
        specs.dense(&format!("{root}/head"), [network.tower.width, outputs], Init::Zeros);
    }
    specs.0
}

fn encoder(specs: &mut Specs, name: &str, c: &VisionConfig) {
    let e = c.width;
    let [ph, pw] = c.patch;
    specs.add(&format!("{name}/embedding/kernel"), &[ph, pw, 3, e], Init::LecunNormal { fan_in: ph * pw * 3 });
    specs.add(&format!("{name}/embedding/bias"), &[e], Init::Zeros);
    if c.position == PositionEmbedding::Learn {
        specs.add(&format!("{name}/pos_embedding"), &[1, c.patches(), e], position_init(e));
    }
    specs.transformer(&format!("{name}/Transformer"), [e, c.mlp], c.layers, c.heads);
}

fn decoder(specs: &mut Specs, c: &ModelConfig) {
    let f = c.decoder_width;
    let rows = c.vocab + i64::from(c.mask_token().is_some());
    specs.add("decoder/EmbedTargets/embedding", &[rows, f], Init::Normal(1.0));
    if c.position == PositionEmbedding::Learn {
        specs.add("pos_embedding_decoder", &[1, c.text_length, f], position_init(f));
    }
    for i in 0..c.decoder_layers {
        let block = format!("decoder/EncDecBlock{i}");
        specs.layer_norm(&format!("{block}/LayerNorm1"), f, c.decoder_bias);
        specs.attention(&format!("{block}/SelfAttn"), [f, f], c.decoder_heads, f, AttentionInit::Decoder);
        specs.layer_norm(&format!("{block}/LayerNorm2"), f, c.decoder_bias);
        specs.attention(&format!("{block}/CrossAttn"), [f, c.width], c.decoder_heads, f, AttentionInit::Decoder);
        specs.layer_norm(&format!("{block}/LayerNorm3"), f, c.decoder_bias);
        specs.mlp(&format!("{block}/MLP"), f, c.decoder_mlp, c.decoder_bias);
    }
    specs.layer_norm("decoder/LayerNorm", f, true);
    // Zero, so that the first loss is exactly log V.
    specs.add("decoder/LogitsDense/kernel", &[f, c.vocab], Init::Zeros);
    specs.add("decoder/LogitsDense/bias", &[c.vocab], Init::Zeros);
}

fn position_init(width: i64) -> Init {
    Init::Normal(1.0 / (width as f64).sqrt())
}

/// The encoder's attention has biases and Glorot kernels, the decoder's neither.
#[derive(Clone, Copy)]
enum AttentionInit {
    Encoder,
    Decoder,
}

#[derive(Default)]
struct Specs(Vec<ParamSpec>);

impl Specs {
    fn add(&mut self, name: &str, shape: &[i64], init: Init) {
        self.0.push(ParamSpec { name: name.to_owned(), shape: shape.to_vec(), init });
    }

    /// Pre-norm blocks with biases everywhere, and a final layer norm.
    fn transformer(&mut self, name: &str, [width, mlp]: [i64; 2], layers: i64, heads: i64) {
        for i in 0..layers {
            let block = format!("{name}/encoderblock_{i}");
            self.layer_norm(&format!("{block}/LayerNorm_0"), width, true);
            let attention = format!("{block}/MultiHeadDotProductAttention_0");
            self.attention(&attention, [width, width], heads, width, AttentionInit::Encoder);
            self.layer_norm(&format!("{block}/LayerNorm_1"), width, true);
            self.mlp(&format!("{block}/MlpBlock_0"), width, mlp, true);
        }
        self.layer_norm(&format!("{name}/encoder_norm"), width, true);
    }

    /// What makes one vector of a tower's tokens: the pooling's parameters, and a projection.
    fn head(&mut self, name: &str, tower: &TowerConfig, embedding: i64, init: Init) {
        self.pooling(name, tower);
        self.dense(&format!("{name}/head"), [tower.width, embedding], init);
    }

    fn pooling(&mut self, name: &str, tower: &TowerConfig) {
        let width = tower.width;
        if tower.pooling == Pooling::Map {
            let map = format!("{name}/MAPHead_0");
            self.add(&format!("{map}/probe"), &[1, 1, width], Init::GlorotUniform { fan_in: 1, fan_out: width });
            let attention = format!("{map}/MultiHeadDotProductAttention_0");
            self.attention(&attention, [width, width], tower.heads, width, AttentionInit::Encoder);
            self.layer_norm(&format!("{map}/LayerNorm_0"), width, true);
            self.mlp(&format!("{map}/MlpBlock_0"), width, tower.mlp, true);
        }
    }

    fn dense(&mut self, name: &str, [inputs, outputs]: [i64; 2], init: Init) {
        self.add(&format!("{name}/kernel"), &[inputs, outputs], init);
        self.add(&format!("{name}/bias"), &[outputs], Init::Zeros);
    }

    fn layer_norm(&mut self, name: &str, width: i64, bias: bool) {
        self.add(&format!("{name}/scale"), &[width], Init::Ones);
        if bias {
            self.add(&format!("{name}/bias"), &[width], Init::Zeros);
        }
    }

    /// Kernels of width × heads × head dim; the fans are those of the flattened matrix.
    fn attention(&mut self, name: &str, [query_in, memory_in]: [i64; 2], heads: i64, width: i64, kind: AttentionInit) {
        let dim = width / heads;
        let kernel = |fan_in: i64| match kind {
            AttentionInit::Encoder => Init::GlorotUniform { fan_in, fan_out: width },
            AttentionInit::Decoder => Init::LecunNormal { fan_in },
        };
        for (part, from) in [("query", query_in), ("key", memory_in), ("value", memory_in)] {
            self.add(&format!("{name}/{part}/kernel"), &[from, heads, dim], kernel(from));
            if matches!(kind, AttentionInit::Encoder) {
                self.add(&format!("{name}/{part}/bias"), &[heads, dim], Init::Zeros);
            }
        }
        self.add(&format!("{name}/out/kernel"), &[heads, dim, width], kernel(width));
        if matches!(kind, AttentionInit::Encoder) {
            self.add(&format!("{name}/out/bias"), &[width], Init::Zeros);
        }
    }

    fn mlp(&mut self, name: &str, width: i64, hidden: i64, bias: bool) {
        for (layer, [fan_in, fan_out]) in [("Dense_0", [width, hidden]), ("Dense_1", [hidden, width])] {
            self.add(&format!("{name}/{layer}/kernel"), &[fan_in, fan_out], Init::GlorotUniform { fan_in, fan_out });
            if bias {
                self.add(&format!("{name}/{layer}/bias"), &[fan_out], Init::Normal(1e-6));
            }
        }
    }
}
