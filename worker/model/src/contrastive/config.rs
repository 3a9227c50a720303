//! The shape of a two-tower model.

use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::config::{PositionEmbedding, VisionConfig, check, check_sizes};

/// How a tower's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Attention pooling: a learned probe attends to all tokens (MAP).
    #[default]
    Map,
    /// Their mean.
    #[serde(rename = "gap")]
    Mean,
    /// The last token, of texts only.
    Last,
}

/// The transformer of one tower; sizes are in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TowerConfig {
    /// E: width.
    pub width: i64,
    /// Blocks.
    pub layers: i64,
    /// H: attention heads.
    pub heads: i64,
    /// Hidden width of the MLPs.
    pub mlp: i64,
    /// What becomes of the encoded tokens.
    pub pooling: Pooling,
}

/// A model of two towers, one for images and one for texts, that embed into one space (Radford et al., arXiv
/// 2103.00020; Zhai et al., arXiv 2303.15343). The image tower is the captioner's encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastiveConfig {
    /// Height and width of the images, in pixels.
    pub image_size: [i64; 2],
    /// Height and width of a patch, in pixels.
    pub patch: [i64; 2],
    /// Positions of the image tower; those of texts are always learned.
    pub position: PositionEmbedding,
    /// The image tower.
    pub image: TowerConfig,
    /// The text tower.
    pub text: TowerConfig,
    /// V: number of tokens.
    pub vocab: i64,
    /// L: length of texts, in tokens.
    pub text_length: i64,
    /// D: width of the embeddings.
    pub embedding: i64,
    /// What similarities are multiplied by, to begin with.
    pub temperature: f64,
    /// What is added to them, to begin with; the model has no such parameter without it.
    pub bias: Option<f64>,
}

impl ContrastiveConfig {
    /// The image tower before pooling.
    pub(crate) const fn vision(&self) -> VisionConfig {
        let &Self { image_size, patch, position, .. } = self;
        let TowerConfig { width, layers, heads, mlp, .. } = self.image;
        VisionConfig { image_size, patch, width, layers, heads, mlp, position }
    }

    /// Checks that the sizes describe a network.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.vision().validate()?;
        let text = &self.text;
        let sizes = [
            ("text width", text.width),
            ("text layers", text.layers),
            ("text heads", text.heads),
            ("text mlp", text.mlp),
            ("vocab", self.vocab),
            ("text_length", self.text_length),
            ("embedding", self.embedding),
        ];
        check_sizes(&sizes)?;
        check("text heads", text.heads, text.width % text.heads == 0, "it must divide the text width")?;
        let has_last = self.image.pooling != Pooling::Last;
        check("image pooling", "last", has_last, "patches have no last one; use map or gap")?;
        let is_scale = self.temperature > 0.0 && self.temperature.is_finite();
        check("temperature", self.temperature, is_scale, "use a number above 0")
    }
}
