//! Small batches for the tests.

use cappa_model::spec::{Init, ParamSpec};
use cappa_model::{Batch, ContrastiveConfig, END_OF_TEXT, ModelConfig, PAD, Pooling, TowerConfig, initial_value};
use tch::{Device, Kind, Tensor};

/// A network that is quick on the CPU.
#[allow(dead_code, reason = "only some test files want a small one")]
pub(crate) fn config() -> ModelConfig {
    ModelConfig { layers: 2, width: 64, mlp: 128, decoder_width: 64, decoder_mlp: 128, ..ModelConfig::tiny() }
}

/// Two small towers for the pictures and texts of [`config`].
#[allow(dead_code, reason = "only some test files want towers")]
pub(crate) fn towers(image: Pooling, text: Pooling, bias: Option<f64>) -> ContrastiveConfig {
    let c = config();
    let tower = TowerConfig { width: c.width, layers: c.layers, heads: c.heads, mlp: c.mlp, pooling: image };
    ContrastiveConfig {
        image_size: c.image_size,
        patch: c.patch,
        position: c.position,
        image: tower,
        text: TowerConfig { pooling: text, ..tower },
        vocab: c.vocab,
        text_length: c.text_length,
        embedding: 40,
        temperature: 10.0,
        bias,
    }
}

/// Noise with captions of 1 to 12 tokens, every second example parallel.
pub(crate) fn batch(config: &ModelConfig, rows: i64) -> Batch {
    tch::set_num_threads(1);
    let [height, width] = config.image_size;
    let tokens = integers("tokens", &[rows, config.text_length], config.vocab - 2).to_kind(Kind::Int64) + 2;
    for row in 0..rows {
        let caption = tokens.get(row);
        let _ = caption.get(row % 12).fill_(END_OF_TEXT);
        let _ = caption.narrow(0, row % 12 + 1, config.text_length - row % 12 - 1).fill_(PAD);
    }
    Batch {
        images: integers("images", &[rows, height, width, 3], 256).to_kind(Kind::Uint8),
        tokens,
        parallel: (0..rows).map(|row| row % 2 == 1).collect(),
        causal_length: config.text_length,
        prefix: None,
        mask_locations: None,
        weights: Tensor::ones([rows], (Kind::Float, Device::Cpu)),
    }
}

/// Normal noise that depends on the name alone: tests of one process share libtorch's generator.
pub(crate) fn noise(name: &str, shape: &[i64], std: f64) -> Tensor {
    initial_value(&ParamSpec { name: name.to_owned(), shape: shape.to_vec(), init: Init::Normal(std) }, 7)
}

/// Whole numbers in 0..below, as floats.
fn integers(name: &str, shape: &[i64], below: i64) -> Tensor {
    noise(name, shape, 1e4).abs().floor().remainder(below)
}

/// The largest difference of two tensors.
#[allow(dead_code, reason = "only some test files compare tensors")]
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}
