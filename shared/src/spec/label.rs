//! Classes of images: where a sample's is found, and how a network learns them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a sample's class is found, and which classes there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Dotted path in the sample's `.json`.
    pub field: String,
    /// All classes.
    pub classes: Classes,
}

/// The classes that a network tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Classes {
    /// So many; a sample has the number of its own, from zero.
    Count(u32),
    /// Their names; a sample has the name of its own.
    Names(Vec<String>),
}

impl Classes {
    /// How many there are.
    pub fn count(&self) -> u32 {
        match self {
            Self::Count(count) => *count,
            Self::Names(names) => u32::try_from(names.len()).expect("bounded when the spec was read"),
        }
    }
}

/// How the patches of an image become what the last layer sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// A learned probe attends to all of them, and an MLP follows.
    #[default]
    Map,
    /// Their mean.
    Mean,
}

/// How one class is told from the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassLoss {
    /// Cross-entropy of one class among all.
    #[default]
    Softmax,
    /// A logistic regression for each class.
    Sigmoid,
}
