//! When a job runs: what the submitter says to the coordinator's scheduler.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::timing::Span;

/// How important a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Priority {
    /// Higher runs first.
    Number(i32),
    /// One of the classes that the coordinator is configured with.
    Class(String),
}

impl Default for Priority {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Class(class) => f.write_str(class),
        }
    }
}

/// What becomes of a pre-empted job, after its checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnPreemption {
    /// It waits in the queue and goes on from there.
    #[default]
    Requeue,
    /// It is over.
    Cancel,
}

/// What becomes of a job whose dependency did not end as asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailedDependency {
    /// It fails.
    #[default]
    Fail,
    /// It waits until the other job was requeued and ends as asked for.
    Wait,
}

/// A job that comes before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Its id.
    pub job: String,
    /// How it must have ended.
    pub condition: Condition,
}

/// How a dependency must have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// With success.
    #[default]
    Succeeded,
    /// Anyhow.
    Ended,
}

/// New tries after failures, by whose fault they are. Losses of workers are no failures: the survivors go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Unreadable data, too many bad samples.
    pub data: u32,
    /// Divergence, too little memory.
    pub user: u32,
    /// Collectives, stores, machines; forming again at once has not helped.
    pub infrastructure: u32,
    /// The wait before the first new try; it doubles with each, up to an hour.
    pub backoff: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Self { data: 0, user: 0, infrastructure: 0, backoff: Span(Duration::from_secs(10)) }
    }
}
