//! Work of one training step, for model FLOP utilisation.

use crate::ModelConfig;

/// Matrix-product FLOP of forward and backward (3 × forward) for one image-text pair, attention
/// included, counted as if every text had full length.
#[must_use]
pub fn flop_per_image(config: &ModelConfig) -> f64 {
    let c = config;
    let (p, n, e, f) = (c.patches(), c.text_length, c.width, c.decoder_width);
    let pixels = 3 * c.patch[0] * c.patch[1];
    // 2 FLOP per multiplication and addition; attention has the products q·k and weights·v.
    let encoder_block = 2 * p * (4 * e * e + 2 * e * c.mlp) + 4 * p * p * e;
    let encoder = 2 * p * pixels * e + c.layers * encoder_block;
    let text = 2 * n * (4 * f * f + 2 * f * f + 2 * f * c.decoder_mlp);
    let memory = 2 * p * 2 * e * f;
    let decoder = c.decoder_layers * (text + memory + 4 * n * n * f + 4 * n * p * f);
    3.0 * (encoder + decoder + 2 * n * f * c.vocab) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_preset_needs_what_the_reference_formula_says() {
        assert!((flop_per_image(&ModelConfig::tiny()) / 1e9 - 0.444).abs() < 5e-4);
    }
}
