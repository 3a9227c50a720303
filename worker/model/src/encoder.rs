//! The vision transformer that training is for.
//!
//! B batch, P patches, E width.

use tch::{Device, Kind, Tensor};

use crate::config::{ModelConfig, PositionEmbedding};
use crate::layers::{Attention, Dense, LayerNorm, Mask, Mlp, Precision, Scope};
use crate::tap::Tap;
use crate::{ModelError, ParamTable, position};

/// Patches, positions, pre-norm blocks and a final layer norm; no class token.
#[derive(Debug)]
pub(crate) struct Encoder {
    image_size: [i64; 2],
    patch: [i64; 2],
    embedding: Dense,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Encoder {
    pub(crate) fn new(config: &ModelConfig, params: &ParamTable, device: Device) -> Result<Self, ModelError> {
        let scope = Scope::new(params).at("encoder");
        let transformer = scope.at("Transformer");
        let positions = match config.position {
            PositionEmbedding::Learn => scope.get("pos_embedding")?,
            PositionEmbedding::Sincos2d => position::sincos2d(config.grid(), config.width, device),
        };
        let block = |i| Block::new(&transformer.at(&format!("encoderblock_{i}")), config.heads);
        Ok(Self {
            image_size: config.image_size,
            patch: config.patch,
            embedding: Dense::new(&scope.at("embedding"))?,
            positions,
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&transformer.at("encoder_norm"))?,
        })
    }

    /// Images `[B, height, width, 3]`, u8 or f32 in [-1, 1], → `[B, P, E]`.
    pub(crate) fn forward(
        &self,
        images: &Tensor,
        precision: Precision,
        tap: &mut impl Tap,
    ) -> Result<Tensor, ModelError> {
        let patches = self.patchify(images)?;
        let stem = self.embedding.forward(&patches, precision);
        tap.see(|| "stem".to_owned(), &stem);
        let mut x = stem + &self.positions;
        tap.see(|| "with_posemb".to_owned(), &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, i, precision, tap);
        }
        Ok(self.norm.forward(&x))
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
        Ok(match patches.kind() {
            Kind::Uint8 => patches.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0,
            _ => patches.to_kind(Kind::Float),
        })
    }
}

#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 2],
    attention: Attention,
    mlp: Mlp,
}

impl Block {
    fn new(scope: &Scope, heads: i64) -> Result<Self, ModelError> {
        Ok(Self {
            norms: [LayerNorm::new(&scope.at("LayerNorm_0"))?, LayerNorm::new(&scope.at("LayerNorm_1"))?],
            attention: Attention::new(&scope.at("MultiHeadDotProductAttention_0"), heads)?,
            mlp: Mlp::new(&scope.at("MlpBlock_0"))?,
        })
    }

    fn forward(&self, x: &Tensor, index: usize, precision: Precision, tap: &mut impl Tap) -> Tensor {
        let attended = self.attention.to_self(&self.norms[0].forward(x), &Mask::Full, precision);
        tap.see(|| format!("block{index:02}/sa"), &attended);
        let x = x + attended;
        tap.see(|| format!("block{index:02}/+sa"), &x);
        let mixed = self.mlp.forward(&self.norms[1].forward(&x), precision);
        tap.see(|| format!("block{index:02}/mlp"), &mixed);
        let x = x + mixed;
        tap.see(|| format!("block{index:02}/+mlp"), &x);
        x
    }
}
