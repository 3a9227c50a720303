//! What becomes of an update whose loss is bad.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a loss is bad, and what becomes of its update then.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnBadLoss {
    /// What becomes of it.
    pub action: BadLossAction,
    /// A loss is bad when it is so many times the mean of the recent ones; none but infinities and what is no number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spike: Option<f64>,
    /// With `skip`: more bad ones in a row stop the job. With `rewind`: more rewinds do.
    pub most: u32,
}

/// Bad updates in a row, or rewinds, that a job survives.
const MOST: u32 = 10;

impl Default for OnBadLoss {
    fn default() -> Self {
        Self { action: BadLossAction::Stop, spike: None, most: MOST }
    }
}

/// What becomes of an update whose loss is bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadLossAction {
    /// The job fails, its last checkpoint being what it was.
    #[default]
    Stop,
    /// It is not made: its samples are spent, and listed in the next checkpoint's manifest.
    Skip,
    /// The network goes back to the newest checkpoint, and the samples from there up to this update are skipped: the job goes on with
    /// those that follow (Chowdhery et al., "PaLM", arXiv 2204.02311, section 5.1).
    Rewind,
}
