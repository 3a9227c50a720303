//! The shape of a captioner: everything a network needs to be built.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How positions are told to a transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    /// A learned table, a parameter.
    Learn,
    /// A fixed table of sines and cosines of column and row.
    Sincos2d,
}

/// A vision transformer without class token and head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VisionConfig {
    pub(crate) image_size: [i64; 2],
    pub(crate) patch: [i64; 2],
    pub(crate) width: i64,
    pub(crate) layers: i64,
    pub(crate) heads: i64,
    pub(crate) mlp: i64,
    pub(crate) position: PositionEmbedding,
}

impl VisionConfig {
    /// Rows and columns of patches.
    pub(crate) const fn grid(&self) -> [i64; 2] {
        [self.image_size[0] / self.patch[0], self.image_size[1] / self.patch[1]]
    }

    /// P: patches of an image.
    pub(crate) const fn patches(&self) -> i64 {
        self.grid()[0] * self.grid()[1]
    }

    /// Checks that the sizes describe a network.
    pub(crate) fn validate(&self) -> Result<(), ModelError> {
        let sizes = [
            ("image height", self.image_size[0]),
            ("image width", self.image_size[1]),
            ("patch height", self.patch[0]),
            ("patch width", self.patch[1]),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("mlp", self.mlp),
        ];
        check_sizes(&sizes)?;
        let ([height, width], [patch_height, patch_width]) = (self.image_size, self.patch);
        check("patch height", patch_height, height % patch_height == 0, "it must divide the image height")?;
        check("patch width", patch_width, width % patch_width == 0, "it must divide the image width")?;
        check("heads", self.heads, self.width % self.heads == 0, "it must divide width")?;
        match self.position {
            PositionEmbedding::Learn => Ok(()),
            PositionEmbedding::Sincos2d => check_sincos2d("width", self.width),
        }
    }
}

/// An encoder-decoder captioner (Tschannen et al., arXiv 2306.07915, section 3).
///
/// All sizes are in elements. Use [`ModelConfig::validate`] before trusting values from outside;
/// [`crate::Captioner::new`] does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Height and width of the images, in pixels.
    pub image_size: [i64; 2],
    /// Height and width of a patch, in pixels.
    pub patch: [i64; 2],
    /// E: width of the encoder.
    pub width: i64,
    /// Encoder blocks.
    pub layers: i64,
    /// H: attention heads of the encoder.
    pub heads: i64,
    /// Hidden width of the encoder's MLPs.
    pub mlp: i64,
    /// E of the decoder.
    pub decoder_width: i64,
    /// Decoder blocks.
    pub decoder_layers: i64,
    /// H of the decoder.
    pub decoder_heads: i64,
    /// Hidden width of the decoder's MLPs.
    pub decoder_mlp: i64,
    /// Whether the decoder blocks' layer norms and MLPs have biases (its attention never has any).
    pub decoder_bias: bool,
    /// V: number of tokens that can be predicted.
    pub vocab: i64,
    /// L: longest text, in tokens.
    pub text_length: i64,
    /// Positions of both stacks.
    pub position: PositionEmbedding,
    /// Share of examples trained by parallel prediction. Above 0, the token table has one more
    /// row, the mask token.
    pub masked_pred_prob: f64,
    /// Share of the tokens hidden from an example that is predicted in parallel (1: all).
    pub masking_ratio: f64,
}

impl ModelConfig {
    /// 64 px, patch 8, vocabulary 512: trains on a laptop.
    #[must_use]
    pub const fn tiny() -> Self {
        let small = Self::vit(64, 8, 128, 4, 4, 512, 2);
        Self { vocab: 512, text_length: 24, ..small }
    }

    /// S/16 of the paper, with a decoder of 6 layers.
    #[must_use]
    pub const fn s16() -> Self {
        Self::vit(224, 16, 384, 12, 6, 1536, 6)
    }

    /// M/16 of the paper, with a decoder of 6 layers.
    #[must_use]
    pub const fn m16() -> Self {
        Self::vit(224, 16, 512, 12, 8, 2048, 6)
    }

    /// B/16 of the paper, with a decoder of 6 layers.
    #[must_use]
    pub const fn b16() -> Self {
        Self::vit(224, 16, 768, 12, 12, 3072, 6)
    }

    /// L/14 of the paper, with a decoder of 12 layers.
    #[must_use]
    pub const fn l14() -> Self {
        Self::vit(224, 14, 1024, 24, 16, 4096, 12)
    }

    /// The preset of that name: `tiny`, `S/16`, `M/16`, `B/16`, `L/14` (also `s16` and so on).
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().replace('/', "").as_str() {
            "tiny" => Some(Self::tiny()),
            "s16" => Some(Self::s16()),
            "m16" => Some(Self::m16()),
            "b16" => Some(Self::b16()),
            "l14" => Some(Self::l14()),
            _ => None,
        }
    }

    const fn vit(image: i64, patch: i64, width: i64, layers: i64, heads: i64, mlp: i64, decoder_layers: i64) -> Self {
        Self {
            image_size: [image, image],
            patch: [patch, patch],
            width,
            layers,
            heads,
            mlp,
            decoder_width: width,
            decoder_layers,
            decoder_heads: heads,
            decoder_mlp: mlp,
            decoder_bias: false,
            vocab: 32_000,
            text_length: 64,
            position: PositionEmbedding::Learn,
            masked_pred_prob: 0.75,
            masking_ratio: 1.0,
        }
    }

    /// The encoder alone.
    pub(crate) const fn vision(&self) -> VisionConfig {
        let &Self { image_size, patch, width, layers, heads, mlp, position, .. } = self;
        VisionConfig { image_size, patch, width, layers, heads, mlp, position }
    }

    /// Rows and columns of patches.
    #[must_use]
    pub const fn grid(&self) -> [i64; 2] {
        self.vision().grid()
    }

    /// P: patches of an image.
    #[must_use]
    pub const fn patches(&self) -> i64 {
        self.vision().patches()
    }

    /// The id of the mask token, where the model has one.
    #[must_use]
    pub fn mask_token(&self) -> Option<i64> {
        (self.masked_pred_prob > 0.0).then_some(self.vocab)
    }

    /// Checks that the sizes describe a network.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.vision().validate()?;
        let sizes = [
            ("decoder_width", self.decoder_width),
            ("decoder_layers", self.decoder_layers),
            ("decoder_heads", self.decoder_heads),
            ("decoder_mlp", self.decoder_mlp),
            ("vocab", self.vocab),
            ("text_length", self.text_length),
        ];
        check_sizes(&sizes)?;
        let divides = self.decoder_width % self.decoder_heads == 0;
        check("decoder_heads", self.decoder_heads, divides, "it must divide decoder_width")?;
        if self.position == PositionEmbedding::Sincos2d {
            check_sincos2d("decoder_width", self.decoder_width)?;
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        check("masked_pred_prob", self.masked_pred_prob, share(self.masked_pred_prob), "use a share from 0 to 1")?;
        check("masking_ratio", self.masking_ratio, share(self.masking_ratio), "use a share from 0 to 1")
    }
}

/// Every size is at least 1.
pub(crate) fn check_sizes(sizes: &[(&'static str, i64)]) -> Result<(), ModelError> {
    sizes.iter().try_for_each(|&(field, value)| check(field, value, value > 0, "use at least 1"))
}

/// Four quarters, and the frequencies' exponents divide by width / 4 - 1.
fn check_sincos2d(field: &'static str, width: i64) -> Result<(), ModelError> {
    check(field, width, width % 4 == 0 && width > 4, "sincos2d needs a multiple of 4 above 4")
}

pub(crate) fn check(
    field: &'static str,
    value: impl ToString,
    holds: bool,
    remedy: &'static str,
) -> Result<(), ModelError> {
    if holds { Ok(()) } else { Err(ModelError::Config { field, value: value.to_string(), remedy }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for name in ["tiny", "S/16", "M/16", "B/16", "L/14"] {
            ModelConfig::preset(name).expect(name).validate().expect(name);
        }
        assert_eq!(ModelConfig::preset("XL/7"), None);
    }

    #[test]
    fn heads_that_do_not_divide_the_width_are_refused() {
        let config = ModelConfig { decoder_heads: 3, ..ModelConfig::tiny() };
        let error = config.validate().unwrap_err();
        assert_eq!(error.to_string(), "decoder_heads is 3: it must divide decoder_width");
    }
}
