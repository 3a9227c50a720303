//! What operators and submitters say about who runs when.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Pace};

/// A namespace's use of workers counts half after so long (Slurm's `PriorityDecayHalfLife` is the model). It is a constant
/// because the use is a fold of the log: the same log must give the same state whatever the settings of the day are.
pub(crate) const USAGE_HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What the operator allows. No part of the state: it may differ from one start of the coordinator to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Namespaces with rules of their own.
    pub namespaces: BTreeMap<String, Quota>,
    /// The rules of all others.
    pub default: Quota,
    /// A job grows or shrinks on purpose at most this often: each time costs all its workers a new group.
    pub reshape_every: Duration,
    /// When a worker has been lost too often to be trusted with a place in a group.
    pub flapping: Flapping,
    /// When a rank is too slow, and whether it is replaced.
    pub stragglers: Stragglers,
}

/// A rank that takes so much longer than the mean of its group that all others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stragglers {
    /// From this pace on.
    pub slow: Pace,
    /// Whether an idle worker takes the place of the slowest one, at most as often as a group may be reshaped.
    pub replace: bool,
}

impl Default for Stragglers {
    /// Half as long again as the mean is slow; nobody is replaced.
    fn default() -> Self {
        Self { slow: Pace(1500), replace: false }
    }
}

/// A worker that was lost so often within so long, or whose machine was at fault for the end of its group, is put into no group for a
/// while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flapping {
    /// How often; at least one.
    pub losses: u32,
    /// Within how long; at most [`Flapping::REMEMBERED`].
    pub within: Duration,
    /// For how long it is kept out, unless someone releases it before.
    pub cool_down: Duration,
}

impl Flapping {
    /// Losses are remembered for so long. It is a constant because what is remembered is a fold of the log.
    pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
}

impl Default for Flapping {
    fn default() -> Self {
        Self { losses: 4, within: Duration::from_secs(600), cool_down: Duration::from_secs(900) }
    }
}

impl Default for Policy {
    /// No limits, equal shares.
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            default: Quota::default(),
            reshape_every: Duration::from_secs(60),
            flapping: Flapping::default(),
            stragglers: Stragglers::default(),
        }
    }
}

impl Policy {
    /// The rules of a namespace.
    pub fn quota(&self, namespace: &str) -> Quota {
        self.namespaces.get(namespace).copied().unwrap_or(self.default)
    }
}

/// What one namespace may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Its share among namespaces, relative to the weights of the others; at least one.
    pub weight: u32,
    /// Workers of all its jobs together.
    pub max_workers: Option<u32>,
    /// Jobs that have workers at the same time.
    pub max_running: Option<u32>,
    /// Jobs that wait in the queue or for their index, and paused ones, which may be resumed at any time; more are refused.
    pub max_queued: Option<u32>,
}

impl Default for Quota {
    fn default() -> Self {
        Self { weight: 1, max_workers: None, max_running: None, max_queued: None }
    }
}

/// Which bound of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// [`Quota::max_workers`].
    Workers,
    /// [`Quota::max_running`].
    Running,
    /// [`Quota::max_queued`].
    Queued,
}

/// What a job's submitter says about when and how long it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduling {
    /// What becomes of it when it has to give its workers to a more important job.
    pub on_preemption: OnPreemption,
    /// How often it is tried again after a failure.
    pub retry: Retry,
    /// Jobs that come before it.
    pub after: Vec<Dependency>,
    /// What becomes of it when a job before it ends otherwise than asked for.
    pub on_unmet: OnUnmet,
    /// It may have workers for so long altogether.
    pub time_limit: Option<Duration>,
    /// It must have started by so long after its submission.
    pub queue_deadline: Option<Duration>,
}

/// What becomes of a pre-empted job, after its checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPreemption {
    /// It waits in the queue and goes on from there.
    #[default]
    Requeue,
    /// It is over.
    Cancel,
}

/// What becomes of a job whose dependency can't be met as things are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnmet {
    /// It fails.
    #[default]
    Fail,
    /// It waits until someone requeues the other job, and that ends as asked for.
    Wait,
}

/// A job that comes before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The other job.
    pub job: JobId,
    /// How it must have ended.
    pub condition: Condition,
}

/// How a dependency must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// With success.
    Succeeded,
    /// Anyhow.
    Ended,
}

/// How often a job is tried again, by the class of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Unreadable data and too many bad samples.
    pub data: u32,
    /// What the spec brings about: divergence, too little memory.
    pub user: u32,
    /// Everything else: collectives, stores, machines.
    pub infrastructure: u32,
    /// The wait before the first new try; it doubles with each.
    pub backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { data: 0, user: 0, infrastructure: 0, backoff: Duration::from_secs(10) }
    }
}

impl Retry {
    /// The longest wait before a new try.
    pub const LONGEST: Duration = Duration::from_secs(3600);

    /// How many tries after failures of this class.
    pub fn tries(&self, class: FailureClass) -> u32 {
        match class {
            FailureClass::Data => self.data,
            FailureClass::User => self.user,
            FailureClass::Infrastructure => self.infrastructure,
        }
    }

    /// The wait before the `attempt`-th new try, from 1.
    pub fn wait(&self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(factor).min(Self::LONGEST)
    }
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The data's.
    Data,
    /// The spec's.
    User,
    /// The machinery's.
    Infrastructure,
}

impl FailureClass {
    /// The class of a failure's code, as workers report it: under its published name, or in logs of older programs the short one.
    pub fn of(code: &str) -> Self {
        match code {
            "data" | "bad_samples" | "DATA_UNREADABLE" | "TOO_MANY_BAD_SAMPLES" => Self::Data,
            "numeric" | "memory" | "spec" | "NUMERIC_DIVERGENCE" | "OUT_OF_MEMORY" => Self::User,
            _ => Self::Infrastructure,
        }
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::User => "user",
            Self::Infrastructure => "infrastructure",
        })
    }
}

/// Why a job with a group is to checkpoint and give its workers back, other than for a pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum StopCause {
    /// A job of higher priority needs the workers.
    Preemption {
        /// Which.
        by: JobId,
    },
    /// The workers were lent, and the job that they are reserved for can start with them.
    Reclaim {
        /// Which.
        by: JobId,
    },
    /// Its time is up.
    TimeLimit,
}

impl StopCause {
    /// The job that gets the workers.
    pub fn by(&self) -> Option<&JobId> {
        match self {
            Self::Preemption { by } | Self::Reclaim { by } => Some(by),
            Self::TimeLimit => None,
        }
    }
}

impl std::fmt::Display for StopCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Preemption { by } => write!(f, "pre-empted by {by}"),
            Self::Reclaim { by } => write!(f, "its workers were lent until {by} can start"),
            Self::TimeLimit => f.write_str("its time limit is reached"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_classed_by_the_codes_that_workers_report() {
        let of = ["TOO_MANY_BAD_SAMPLES", "NUMERIC_DIVERGENCE", "OUT_OF_MEMORY", "STORE_UNREACHABLE", "DEVICE_FAILED"];
        let (data, user, infrastructure) = (FailureClass::Data, FailureClass::User, FailureClass::Infrastructure);
        assert_eq!(of.map(FailureClass::of), [data, user, user, infrastructure, infrastructure]);
    }

    #[test]
    fn waits_before_new_tries_double_up_to_an_hour() {
        let retry = Retry::default();
        assert_eq!([1, 2, 3, 10, 40].map(|n| retry.wait(n).as_secs()), [10, 20, 40, 3600, 3600]);
    }
}
