//! The vision transformer that training is for.
//!
//! B batch, P patches, E width.

use tch::{Device, Kind, Tensor};

use crate::config::{PositionEmbedding, VisionConfig};
use crate::layers::{Dense, Precision, Scope};
use crate::tap::Tap;
use crate::transformer::Transformer;
use crate::{ModelError, position};

/// Patches, positions, pre-norm blocks and a final layer norm; no class token.
#[derive(Debug)]
pub(crate) struct Encoder {
    image_size: [i64; 2],
    patch: [i64; 2],
    embedding: Dense,
    positions: Tensor,
    transformer: Transformer,
}

impl Encoder {
    /// The encoder whose parameters lie in the scope.
    pub(crate) fn new(config: &VisionConfig, scope: &Scope, device: Device) -> Result<Self, ModelError> {
        let positions = match config.position {
            PositionEmbedding::Learn => scope.get("pos_embedding")?,
            PositionEmbedding::Sincos2d => position::sincos2d(config.grid(), config.width, device),
        };
        Ok(Self {
            image_size: config.image_size,
            patch: config.patch,
            embedding: Dense::new(&scope.at("embedding"))?,
            positions,
            transformer: Transformer::new(&scope.at("Transformer"), config.layers, config.heads)?,
        })
    }

    /// Images `[B, height, width, 3]`, u8 or f32 in [-1, 1], → `[B, P, E]`.
    pub(crate) fn forward<'a>(
        &'a self,
        images: &Tensor,
        precision: Precision,
        tap: &mut impl Tap<'a>,
    ) -> Result<Tensor, ModelError> {
        let patches = self.patchify(images)?;
        let stem = self.embedding.forward(&patches, precision);
        tap.see(|| "stem".to_owned(), &stem);
        let x = stem + &self.positions;
        tap.see(|| "with_posemb".to_owned(), &x);
        Ok(self.transformer.forward(x, precision, tap))
    }

    /// `[B, height, width, 3]` → `[B, P, patch height · patch width · 3]`, f32 in [-1, 1]: the
    /// embedding, a convolution whose stride is its size, is then a matrix product.
    fn patchify(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let ([height, width], [ph, pw]) = (self.image_size, self.patch);
        match images.size()[..] {
            [_, h, w, 3] if [h, w] == [height, width] => {}
            _ => return Err(ModelError::shape("images", images, ["B", &height.to_string(), &width.to_string(), "3"])),
        }
        let (rows, columns) = (height / ph, width / pw);
        let patches = images.view([-1, rows, ph, columns, pw, 3]).permute([0, 1, 3, 2, 4, 5]);
        let patches = patches.reshape([-1, rows * columns, ph * pw * 3]);
        Ok(value_range(&patches))
    }
}

/// Pixels in the network's range, f32: bytes from 0..=255 to [-1, 1], floats as they are.
pub(crate) fn value_range(pixels: &Tensor) -> Tensor {
    match pixels.kind() {
        Kind::Uint8 => pixels.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0,
        _ => pixels.to_kind(Kind::Float),
    }
}
