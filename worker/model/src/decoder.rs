//! The caption decoder: causal, or predicting all tokens in parallel.
//!
//! B images, R rows of text (B, or B × candidates of an image), L text length, E width,
//! V vocabulary.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::config::{ModelConfig, PositionEmbedding};
use crate::layers::{Attention, Dense, KeyValue, LayerNorm, Mask, Mlp, Precision, Scope};
use crate::recompute::Tape;
use crate::tap::{NoTap, Tap};
use crate::{ModelError, ParamTable, position};

/// Pre-norm blocks of self-attention, cross-attention and MLP over embedded tokens.
#[derive(Debug)]
pub(crate) struct Decoder {
    embedding: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    logits: Dense,
}

/// What the blocks attend to in the encoded images, computed once: one entry a block.
#[derive(Debug)]
pub(crate) struct Memory(Vec<KeyValue>);

impl Memory {
    /// That of some of the images, by their places.
    pub(crate) fn of(&self, images: &Tensor) -> Self {
        let of = |tensor: &Tensor| tensor.index_select(0, images);
        Self(self.0.iter().map(|block| block.map(of)).collect())
    }

    /// That of some consecutive images, sharing memory.
    pub(crate) fn narrow(&self, first: i64, images: i64) -> Self {
        Self(self.0.iter().map(|block| block.map(|tensor| tensor.narrow(0, first, images))).collect())
    }
}

/// Keys and values of the tokens decoded so far; one entry a block, `None` before the first token.
#[derive(Debug)]
pub(crate) struct Cache {
    blocks: Vec<Option<KeyValue>>,
    length: i64,
}

impl Cache {
    /// Every row goes on from another one: that of its place in `rows`, `[R]`.
    pub(crate) fn select(&mut self, rows: &Tensor) {
        for block in self.blocks.iter_mut().flatten() {
            *block = block.map(|tensor| tensor.index_select(0, rows));
        }
    }
}

impl Decoder {
    pub(crate) fn new(config: &ModelConfig, params: &ParamTable, device: Device) -> Result<Self, ModelError> {
        let root = Scope::new(params);
        let scope = root.at("decoder");
        let positions = match config.position {
            PositionEmbedding::Learn => root.get("pos_embedding_decoder")?,
            PositionEmbedding::Sincos2d => position::sincos2d([1, config.text_length], config.decoder_width, device),
        };
        let block = |i| Block::new(&scope.at(&format!("EncDecBlock{i}")), config.decoder_heads);
        Ok(Self {
            embedding: scope.get("EmbedTargets/embedding")?,
            positions,
            blocks: (0..config.decoder_layers).map(block).collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&scope.at("LayerNorm"))?,
            logits: Dense::new(&scope.at("LogitsDense"))?,
        })
    }

    /// Keys and values of the encoded images, `[B, P, encoder width]`.
    pub(crate) fn memory(&self, encoded: &Tensor, precision: Precision) -> Memory {
        let encoded = precision.cast(encoded);
        Memory(self.blocks.iter().map(|block| block.cross_attention.memory(&encoded, precision)).collect())
    }

    /// Tokens `[R, L]` as they are embedded → `[R, L, E]` after the final layer norm. Where R is
    /// larger than B, consecutive rows share an image.
    pub(crate) fn forward<'a>(
        &self,
        tokens: &Tensor,
        memory: &Memory,
        mask: &Mask,
        precision: Precision,
        tap: &mut impl Tap<'a>,
    ) -> Tensor {
        self.blocks(tokens, &self.positions.narrow(1, 0, tokens.size()[1]), memory, mask, precision, tap)
    }

    /// The same with a tape, from the encoded images `[B, P, encoder width]` themselves: all blocks share them, each makes its keys
    /// and values again.
    pub(crate) fn forward_taped<'a>(
        &'a self,
        tokens: &Tensor,
        encoded: &Tensor,
        mask: Mask,
        precision: Precision,
        tape: &mut Tape<'a>,
    ) -> Tensor {
        let mask = Rc::new(mask);
        let embedded = Tensor::embedding(&self.embedding, tokens, -1, false, false);
        let mut x = tape.cut(embedded + self.positions.narrow(1, 0, tokens.size()[1]));
        for (i, block) in self.blocks.iter().enumerate() {
            let (input, images, mask) = (x.shallow_clone(), encoded.shallow_clone(), Rc::clone(&mask));
            x = tape.block(&[&x, encoded], move || {
                let memory = block.cross_attention.memory(&precision.cast(&images), precision);
                let attended = block.attend_self(&input, &mask, precision);
                block.rest(&input, &attended, &memory, i, precision, &mut NoTap)
            });
        }
        self.norm.forward(&x)
    }

    /// The same for tokens that are not one after the other: each at its own place `[L]`.
    pub(crate) fn forward_at(
        &self,
        tokens: &Tensor,
        places: &Tensor,
        memory: &Memory,
        mask: &Mask,
        precision: Precision,
    ) -> Tensor {
        self.blocks(tokens, &self.positions.index_select(1, places), memory, mask, precision, &mut NoTap)
    }

    fn blocks<'a>(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        memory: &Memory,
        mask: &Mask,
        precision: Precision,
        tap: &mut impl Tap<'a>,
    ) -> Tensor {
        let embedded = Tensor::embedding(&self.embedding, tokens, -1, false, false);
        tap.see(|| "EmbedTargets".to_owned(), &embedded);
        let mut x = embedded + positions;
        tap.see(|| "PosEmbedTargets".to_owned(), &x);
        for (i, (block, memory)) in self.blocks.iter().zip(&memory.0).enumerate() {
            let attended = block.attend_self(&x, mask, precision);
            x = block.rest(&x, &attended, memory, i, precision, tap);
        }
        let x = self.norm.forward(&x);
        tap.see(|| "LayerNorm".to_owned(), &x);
        x
    }

    /// A cache before the first token.
    pub(crate) fn cache(&self) -> Cache {
        Cache { blocks: self.blocks.iter().map(|_| None).collect(), length: 0 }
    }

    /// The next tokens `[R]` of every row → `[R, 1, E]` after the final layer norm.
    pub(crate) fn step(&self, tokens: &Tensor, memory: &Memory, cache: &mut Cache, precision: Precision) -> Tensor {
        let embedded = Tensor::embedding(&self.embedding, &tokens.unsqueeze(1), -1, false, false);
        let mut x = embedded + self.positions.narrow(1, cache.length, 1);
        for (i, (block, memory)) in self.blocks.iter().zip(&memory.0).enumerate() {
            let attended = block.attend_cache(&x, &mut cache.blocks[i], precision);
            x = block.rest(&x, &attended, memory, i, precision, &mut NoTap);
        }
        cache.length += 1;
        self.norm.forward(&x)
    }

    /// `[.., T, E]` after the final layer norm → `[.., T, V]`, f32.
    pub(crate) fn logits(&self, x: &Tensor, precision: Precision) -> Tensor {
        self.logits.forward(x, precision).to_kind(Kind::Float)
    }
}

#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 3],
    self_attention: Attention,
    cross_attention: Attention,
    mlp: Mlp,
}

impl Block {
    fn new(scope: &Scope, heads: i64) -> Result<Self, ModelError> {
        let norm = |name: &str| LayerNorm::new(&scope.at(name));
        Ok(Self {
            norms: [norm("LayerNorm1")?, norm("LayerNorm2")?, norm("LayerNorm3")?],
            self_attention: Attention::new(&scope.at("SelfAttn"), heads)?,
            cross_attention: Attention::new(&scope.at("CrossAttn"), heads)?,
            mlp: Mlp::new(&scope.at("MLP"))?,
        })
    }

    fn attend_self(&self, x: &Tensor, mask: &Mask, precision: Precision) -> Tensor {
        self.self_attention.to_self(&self.norms[0].forward(x), mask, precision)
    }

    /// Self-attention of one new token to itself and those in the cache.
    fn attend_cache(&self, x: &Tensor, cache: &mut Option<KeyValue>, precision: Precision) -> Tensor {
        let (query, new) = self.self_attention.project(&self.norms[0].forward(x), precision);
        let seen = match cache.take() {
            None => new,
            Some(old) => {
                KeyValue { key: Tensor::cat(&[old.key, new.key], 2), value: Tensor::cat(&[old.value, new.value], 2) }
            }
        };
        let attended = self.self_attention.attend(&query, &seen, &Mask::Full, precision);
        *cache = Some(seen);
        attended
    }

    /// What follows self-attention. Cross-attention has no mask, so all rows of an image are one
    /// sequence of queries to it, and its keys and values need not be repeated.
    fn rest<'a>(
        &self,
        x: &Tensor,
        attended: &Tensor,
        memory: &KeyValue,
        index: usize,
        precision: Precision,
        tap: &mut impl Tap<'a>,
    ) -> Tensor {
        tap.see(|| format!("EncDecBlock{index}/SelfAttn"), attended);
        let x = x + attended;
        let size = x.size();
        let queries = self.norms[1].forward(&x).view([memory.key.size()[0], -1, size[2]]);
        let query = self.cross_attention.query(&queries, precision);
        let crossed = self.cross_attention.attend(&query, memory, &Mask::Full, precision).view(size.as_slice());
        tap.see(|| format!("EncDecBlock{index}/CrossAttn"), &crossed);
        let x = x + crossed;
        let mixed = self.mlp.forward(&self.norms[2].forward(&x), precision);
        tap.see(|| format!("EncDecBlock{index}/MLP"), &mixed);
        let x = x + mixed;
        tap.see(|| format!("EncDecBlock{index}/out"), &x);
        x
    }
}
