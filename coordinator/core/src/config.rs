//! The durations that decisions depend on.

use std::time::Duration;

/// How long the core waits for what. The server derives all of them from one knob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// A connected worker that was silent for so long is lost. Also the longest wait for a
    /// survivor to leave an aborted group.
    pub detection: Duration,
    /// What a restarted coordinator grants the members it knows to come back.
    pub grace: Duration,
    /// The set of free workers must be unchanged for so long before a job starts with fewer than it
    /// could use, or grows.
    pub settle: Duration,
    /// A member that did not even begin to form within this limit is lost.
    pub forming: Duration,
    /// Parts that no manifest names are swept so long after their group ended.
    pub sweep: Duration,
}

/// A job fails when the weights of its groups that ended without a step of progress, in a row, reach
/// this: five reported errors, or twenty losses of workers, or a mixture.
pub(crate) const FRUITLESS_LIMIT: u32 = 20;

/// Skipped updates of a job that are logged; the curve has all of them.
pub(crate) const SKIPS_LOGGED: u32 = 500;

/// Weight of a group that ended by a reported error: the next one will likely meet it again.
pub(crate) const FRUITLESS_FAILURE: u32 = 4;

/// Weight of a group that ended by the loss of a worker, which may have nothing to do with the job.
pub(crate) const FRUITLESS_LOSS: u32 = 1;
