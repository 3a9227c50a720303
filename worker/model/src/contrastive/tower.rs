//! The two towers: from images and texts to embeddings.
//!
//! B batch, T patches or tokens, E width, D width of the embeddings.

use tch::{Device, Kind, Tensor};

use super::config::{ContrastiveConfig, Pooling, TowerConfig};
use crate::encoder::Encoder;
use crate::layers::{Attention, Dense, LayerNorm, Mask, Mlp, Precision, Scope};
use crate::tap::{NoTap, Tap};
use crate::transformer::Transformer;
use crate::{ModelError, ParamTable};

/// Added to the length that embeddings are divided by.
const NORM_EPSILON: f64 = 1e-8;

/// The captioner's encoder with a head.
#[derive(Debug)]
pub(super) struct ImageTower {
    encoder: Encoder,
    head: Head,
}

impl ImageTower {
    pub(super) fn new(config: &ContrastiveConfig, params: &ParamTable, device: Device) -> Result<Self, ModelError> {
        let scope = Scope::new(params).at("img");
        Ok(Self { encoder: Encoder::new(&config.vision(), &scope, device)?, head: Head::new(&config.image, &scope)? })
    }

    /// Images `[B, height, width, 3]` → `[B, D]`.
    pub(super) fn embed<'a>(
        &'a self,
        images: &Tensor,
        precision: Precision,
        tap: &mut impl Tap<'a>,
    ) -> Result<Tensor, ModelError> {
        let encoded = self.encoder.forward(images, precision, tap)?;
        tap.see(|| "encoded".to_owned(), &encoded);
        Ok(self.head.forward(&encoded, precision, tap))
    }
}

impl ImageTower {
    /// Patches `[B, P, E]`, and what they are pooled to, `[B, E]`.
    pub(super) fn encode(&self, images: &Tensor, precision: Precision) -> Result<(Tensor, Tensor), ModelError> {
        let encoded = self.encoder.forward(images, precision, &mut NoTap)?;
        let pooled = self.head.pool(&encoded, precision).squeeze_dim(1);
        Ok((encoded, pooled))
    }
}

/// Embedded tokens through blocks without any mask, and a head.
#[derive(Debug)]
pub(super) struct TextTower {
    embedding: Tensor,
    positions: Tensor,
    transformer: Transformer,
    head: Head,
}

impl TextTower {
    pub(super) fn new(config: &ContrastiveConfig, params: &ParamTable) -> Result<Self, ModelError> {
        let scope = Scope::new(params).at("txt");
        let TowerConfig { layers, heads, .. } = config.text;
        Ok(Self {
            embedding: scope.get("Embed_0/embedding")?,
            positions: scope.get("pos_embedding")?,
            transformer: Transformer::new(&scope.at("Encoder_0"), layers, heads)?,
            head: Head::new(&config.text, &scope)?,
        })
    }

    /// Texts `[B, L]`, i64, → `[B, D]`.
    pub(super) fn embed<'a>(&'a self, tokens: &Tensor, precision: Precision, tap: &mut impl Tap<'a>) -> Tensor {
        let x = Tensor::embedding(&self.embedding, tokens, -1, false, false) + &self.positions;
        let encoded = self.transformer.forward(x, precision, tap);
        tap.see(|| "transformed".to_owned(), &encoded);
        self.head.forward(&encoded, precision, tap)
    }
}

/// Pooling and projection, and for embeddings division by the length.
#[derive(Debug)]
pub(crate) struct Head {
    pool: Pool,
    project: Dense,
}

#[derive(Debug)]
enum Pool {
    Map(MapHead),
    Mean,
    Last,
}

impl Head {
    pub(crate) fn new(config: &TowerConfig, scope: &Scope) -> Result<Self, ModelError> {
        let pool = match config.pooling {
            Pooling::Map => Pool::Map(MapHead::new(&scope.at("MAPHead_0"), config.heads)?),
            Pooling::Mean => Pool::Mean,
            Pooling::Last => Pool::Last,
        };
        Ok(Self { pool, project: Dense::new(&scope.at("head"))? })
    }

    /// `[B, T, E]` → `[B, D]`, f32, of length 1.
    fn forward<'a>(&self, encoded: &Tensor, precision: Precision, tap: &mut impl Tap<'a>) -> Tensor {
        let pooled = self.pool(encoded, precision);
        tap.see(|| "pre_logits".to_owned(), &pooled.squeeze_dim(1));
        let projected = self.project(&pooled, precision);
        tap.see(|| "unnormalized".to_owned(), &projected);
        let norm = projected.norm_scalaropt_dim(2.0, [1i64].as_slice(), true);
        tap.see(|| "norm".to_owned(), &norm);
        projected / (norm + NORM_EPSILON)
    }

    /// `[B, 1, E]` → `[B, D]`, f32.
    pub(crate) fn project(&self, pooled: &Tensor, precision: Precision) -> Tensor {
        self.project.forward(pooled, precision).squeeze_dim(1).to_kind(Kind::Float)
    }

    /// `[B, T, E]` → `[B, 1, E]`.
    pub(crate) fn pool(&self, encoded: &Tensor, precision: Precision) -> Tensor {
        match &self.pool {
            Pool::Map(head) => head.forward(encoded, precision),
            Pool::Mean => encoded.mean_dim([1i64].as_slice(), true, Kind::Float),
            Pool::Last => encoded.narrow(1, encoded.size()[1] - 1, 1),
        }
    }
}

/// Multi-head attention pooling (Zhai et al., arXiv 2106.04560): a learned probe attends to the tokens, then an
/// MLP with a residual. No residual is around the attention, and no layer norm before it.
#[derive(Debug)]
struct MapHead {
    probe: Tensor,
    attention: Attention,
    norm: LayerNorm,
    mlp: Mlp,
}

impl MapHead {
    fn new(scope: &Scope, heads: i64) -> Result<Self, ModelError> {
        Ok(Self {
            probe: scope.get("probe")?,
            attention: Attention::new(&scope.at("MultiHeadDotProductAttention_0"), heads)?,
            norm: LayerNorm::new(&scope.at("LayerNorm_0"))?,
            mlp: Mlp::new(&scope.at("MlpBlock_0"))?,
        })
    }

    /// `[B, T, E]` → `[B, 1, E]`.
    fn forward(&self, tokens: &Tensor, precision: Precision) -> Tensor {
        let batch = tokens.size()[0];
        let query = self.attention.query(&self.probe, precision).expand([batch, -1, -1, -1], false);
        let memory = self.attention.memory(tokens, precision);
        let x = self.attention.attend(&query, &memory, &Mask::Full, precision).to_kind(Kind::Float);
        let mixed = self.mlp.forward(&self.norm.forward(&x), precision);
        x + mixed
    }
}
