//! What a network starts from, and what of it stays as it is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Objective;

/// The checkpoint that a job starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// URL of its `MANIFEST.json`; or, for a job that only evaluates, a job's id for the newest of that job. See [`Init::job`].
    pub from: String,
    /// The parts that are taken; all parameters when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl Init {
    /// The job whose newest checkpoint is meant, where `from` is a job's id.
    pub fn job(&self) -> Option<&str> {
        (!self.from.contains('/')).then_some(&self.from)
    }
}

/// A part of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The vision transformer; the image tower of clip and siglip and a classifier start from a captioner's, and the other way
    /// round.
    Encoder,
    /// Pooling and projection of the image tower (clip and siglip), or pooling and classes (classify).
    Head,
    /// The text tower (clip and siglip).
    Text,
    /// The caption decoder (cap and cappa).
    Decoder,
}

impl Part {
    /// Whether networks of the objective have it.
    pub fn is_of(self, objective: &Objective) -> bool {
        match self {
            Part::Encoder => true,
            Part::Head => objective.is_contrastive() || objective.is_classifying(),
            Part::Text => objective.is_contrastive(),
            Part::Decoder => objective.is_captioning(),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Encoder => "encoder",
            Part::Head => "head",
            Part::Text => "text",
            Part::Decoder => "decoder",
        })
    }
}
