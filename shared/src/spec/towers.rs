//! What is said of two towers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Objective;

/// How the tokens of a text become one vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextPooling {
    /// A learned probe attends to all of them, and an MLP follows.
    #[default]
    Map,
    /// The last one, as the authors' text towers and open_clip's SigLIP have it; texts are padded by their end token then, as the
    /// authors' are.
    Last,
}

impl Objective {
    /// How two towers pool texts; `None` where there is no text tower.
    pub fn text_pooling(&self) -> Option<TextPooling> {
        match self {
            Objective::Clip { text_pooling } | Objective::Siglip { text_pooling } => Some(*text_pooling),
            _ => None,
        }
    }
}
