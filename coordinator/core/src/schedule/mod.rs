//! Who gets which workers, and why the others wait: one function decides and explains both.
//!
//! README.md states the problem, the objective and the rules that the code here follows by name.

mod explain;
mod order;
mod planner;
mod reclaim;
mod repair;
mod rooms;
mod stragglers;
mod supply;

use std::collections::BTreeMap;

use crate::core::Core;
use crate::ids::{JobId, Pace, Time, WorkerId};
use crate::policy::StopCause;

pub use explain::{EndsWhen, Reason, Wait};
pub(crate) use planner::{impossible, unmet};
pub(crate) use supply::{connected, free};

/// What is to happen now, and why nothing happens to the jobs that wait.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Queued jobs that start.
    pub admissions: Vec<Admission>,
    /// Running jobs that checkpoint and give all their workers back.
    pub preemptions: Vec<Preemption>,
    /// Running jobs that give some of their workers back.
    pub shrinks: Vec<Shrink>,
    /// Running jobs that take idle workers in.
    pub growth: Vec<Growth>,
    /// Running jobs that have a slow worker replaced by an idle one.
    pub replacements: Vec<Replacement>,
    /// Every queued job, in the order in which they are served.
    pub waits: Vec<Wait>,
    /// Workers kept for groups that go on below their minimum after losses.
    pub repairs: BTreeMap<JobId, usize>,
    /// Whether some waiting job could use the free workers, or they are reserved for it: nothing grows then.
    pub(crate) is_contended: bool,
    /// Workers of the quotas of namespaces that are kept for one of their jobs: no other grows into them.
    pub(crate) kept: BTreeMap<String, usize>,
}

/// A queued job gets its gang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Which.
    pub job: JobId,
    /// How many workers.
    pub workers: usize,
    /// The workers are reserved for a job that comes first and can't use them yet: they are lent.
    pub is_loan: bool,
}

/// A running job gives way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// Which.
    pub victim: JobId,
    /// To whom, and by which right.
    pub cause: StopCause,
}

/// A running job gives workers that it does not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrink {
    /// Which.
    pub job: JobId,
    /// The workers that it keeps.
    pub to: usize,
    /// To whom.
    pub by: JobId,
}

/// A running job takes idle workers in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// Which.
    pub job: JobId,
    /// How many.
    pub joining: usize,
}

/// An idle worker takes the place of a slow one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// In which job.
    pub job: JobId,
    /// The slow one.
    pub worker: WorkerId,
    /// How slow.
    pub pace: Pace,
}

/// What is to happen now.
pub(crate) fn plan(core: &Core, now: Time) -> Plan {
    planner::plan(core, now)
}
