//! The blocks that vision encoder and text tower share.
//!
//! R rows, T tokens or patches, E width.

use tch::Tensor;

use crate::ModelError;
use crate::layers::{Attention, LayerNorm, Mask, Mlp, Precision, Scope};
use crate::tap::{NoTap, Tap};

/// Pre-norm blocks of full attention and MLP, biases everywhere, and a final layer norm.
#[derive(Debug)]
pub(crate) struct Transformer {
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Transformer {
    pub(crate) fn new(scope: &Scope, layers: i64, heads: i64) -> Result<Self, ModelError> {
        let block = |i| Block::new(&scope.at(&format!("encoderblock_{i}")), heads);
        Ok(Self {
            blocks: (0..layers).map(block).collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&scope.at("encoder_norm"))?,
        })
    }

    /// `[R, T, E]` → `[R, T, E]`, f32.
    pub(crate) fn forward<'a>(&'a self, x: Tensor, precision: Precision, tap: &mut impl Tap<'a>) -> Tensor {
        let blocks = self.blocks.iter().enumerate();
        let last = match tap.tape() {
            None => blocks.fold(x, |x, (i, block)| block.forward(&x, i, precision, tap)),
            Some(tape) => {
                let first = tape.cut(x);
                blocks.fold(first, |x, (i, block)| {
                    let input = x.shallow_clone();
                    tape.block(&[&x], move || block.forward(&input, i, precision, &mut NoTap))
                })
            }
        };
        self.norm.forward(&last)
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

    fn forward<'a>(&self, x: &Tensor, index: usize, precision: Precision, tap: &mut impl Tap<'a>) -> Tensor {
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
