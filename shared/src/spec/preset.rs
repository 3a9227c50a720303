//! The networks of the paper (arXiv 2306.07915, section 4.1 and appendix A), and a small one for laptops and tests.

use super::raw::Preset;
use super::{Model, PositionEmbedding};

/// A preset's sizes, and the input that it is made for.
pub(super) struct Sizes {
    pub(super) model: Model,
    pub(super) image_size: u32,
    pub(super) text_length: u32,
}

impl Preset {
    pub(super) fn sizes(self) -> Sizes {
        // Name, image, patch, width, encoder and decoder blocks, heads, text length, vocabulary.
        let (name, image_size, patch, width, layers, decoder_layers, heads, text_length, vocabulary) = match self {
            Preset::Tiny => ("tiny", 64, 8, 128, 4, 2, 4, 24, 512),
            Preset::S16 => ("S/16", 224, 16, 384, 12, 6, 6, 64, 32_000),
            Preset::M16 => ("M/16", 224, 16, 512, 12, 6, 8, 64, 32_000),
            Preset::B16 => ("B/16", 224, 16, 768, 12, 6, 12, 64, 32_000),
            Preset::L14 => ("L/14", 224, 14, 1024, 24, 12, 16, 64, 32_000),
        };
        let model = Model {
            preset: name.into(),
            patch,
            width,
            layers,
            decoder_layers,
            heads,
            mlp: 4 * width,
            vocabulary,
            position: PositionEmbedding::Learn,
            decoder_bias: false,
        };
        Sizes { model, image_size, text_length }
    }
}
