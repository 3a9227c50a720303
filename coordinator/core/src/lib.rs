//! The coordinator's decisions as a pure state machine: values in, values out.
//!
//! [`Core::decide`] turns a command into events, [`Core::apply`] folds an event into the state and
//! [`Core::outstanding`] derives from the state what is to be done in the world. There is no clock,
//! randomness, IO, async or logging here; time is an argument. See README.md for the problem and
//! the invariants by name.

mod attention;
mod command;
mod config;
mod core;
mod decide;
mod flapping;
mod ids;
mod invariants;
mod job;
mod log_invariants;
mod policy;
mod presence;
mod record;
mod schedule;
mod state;
mod usage;
mod work;

pub use command::{Command, Failure, Indexed, IndexedSource, Report, Submission, WorkerReport};
pub use config::Timings;
pub use core::{Core, Refusal};
pub use flapping::{Flaps, Quarantine};
pub use ids::{Generation, Incarnation, JobId, Link, Pace, Rank, Step, Time, WorkerId};
pub use invariants::{Violation, violations};
pub use job::{
    Attempt, Backoff, Branch, Checkpoint, Ending, Group, GroupStart, Job, Member, Outcome, Part, Phase, Quarantined,
    RankParts, Rewind, Stage,
};
pub use log_invariants::log_violations;
pub use policy::{
    Bound, Condition, Dependency, FailureClass, Flapping, OnPreemption, OnUnmet, Policy, Quota, Retry, Scheduling,
    StopCause, Stragglers,
};
pub use presence::{Holding, Observation, Presence, Seen, WorkerPresence};
pub use record::{BreakCause, CHECKPOINT_DAMAGED, Change, Event, Record, Sign};
pub use schedule::{Admission, EndsWhen, Growth, Plan, Preemption, Reason, Replacement, Shrink, Wait};
pub use state::{Common, State};
pub use usage::Usage;
pub use work::Work;
