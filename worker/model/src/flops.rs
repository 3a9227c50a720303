//! Work of one training step, for model FLOP utilisation.

use crate::config::VisionConfig;
use crate::{ClassifierConfig, ContrastiveConfig, ModelConfig, Pooling, TowerConfig};

/// Matrix-product FLOP of forward and backward (3 × forward) of a captioner for one image-text pair,
/// attention included, counted as if every text had full length.
#[must_use]
pub fn flop_per_image(config: &ModelConfig) -> f64 {
    let c = config;
    let (p, n, e, f) = (c.patches(), c.text_length, c.width, c.decoder_width);
    let text = 2 * n * (4 * f * f + 2 * f * f + 2 * f * c.decoder_mlp);
    let memory = 2 * p * 2 * e * f;
    let decoder = c.decoder_layers * (text + memory + 4 * n * n * f + 4 * n * p * f);
    3.0 * (encoder(&c.vision()) + decoder + 2 * n * f * c.vocab) as f64
}

/// The same of two towers, without the products of the pairs, which are few beside them.
#[must_use]
pub fn flop_per_pair(config: &ContrastiveConfig) -> f64 {
    let (text, n) = (&config.text, config.text_length);
    let image = encoder(&config.vision()) + head(&config.image, config.vision().patches(), config.embedding);
    let text = text.layers * block(n, text.width, text.mlp) + head(text, n, config.embedding);
    3.0 * (image + text) as f64
}

/// The same of a classifier.
#[must_use]
pub fn flop_per_classified(config: &ClassifierConfig) -> f64 {
    3.0 * (encoder(&config.vision()) + head(&config.image, config.vision().patches(), config.classes)) as f64
}

/// 2 FLOP per multiplication and addition; attention has the products q·k and weights·v.
const fn block(tokens: i64, width: i64, mlp: i64) -> i64 {
    2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width
}

fn encoder(c: &VisionConfig) -> i64 {
    let pixels = 3 * c.patch[0] * c.patch[1];
    2 * c.patches() * pixels * c.width + c.layers * block(c.patches(), c.width, c.mlp)
}

/// Pooling and projection.
fn head(c: &TowerConfig, tokens: i64, embedding: i64) -> i64 {
    let map = 2 * (2 * tokens * c.width * c.width + 2 * c.width * c.width + 2 * c.width * c.mlp) + 4 * tokens * c.width;
    let pool = if c.pooling == Pooling::Map { map } else { 0 };
    pool + 2 * c.width * embedding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_preset_needs_what_the_reference_formula_says() {
        assert!((flop_per_image(&ModelConfig::tiny()) / 1e9 - 0.444).abs() < 5e-4);
    }
}
