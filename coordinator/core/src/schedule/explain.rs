//! Why a job waits and what would end that, as data; the words are the shell's.

use crate::ids::{JobId, Time};
use crate::policy::{Bound, Condition, FailureClass};

/// A queued job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Which.
    pub job: JobId,
    /// Why it waits.
    pub reason: Reason,
    /// What would end that.
    pub ends_when: EndsWhen,
}

/// Why a queued job waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It does not: it is about to start.
    Starting,
    /// Workers are still arriving: it starts when no more come, or when it has all it can use.
    Settling {
        /// Free workers.
        free: usize,
    },
    /// It is the head of the queue: free workers are reserved for it, but there are too few.
    Workers {
        /// Free workers.
        free: usize,
        /// What it needs at least.
        needed: usize,
    },
    /// It needs more workers than are connected; it holds nobody back.
    TooFewConnected {
        /// Connected workers, busy ones included.
        connected: usize,
        /// What it needs at least.
        needed: usize,
    },
    /// Its gang is being freed: these jobs checkpoint and give their workers back.
    Freeing {
        /// Who gives way, some or all of its workers.
        from: Vec<JobId>,
    },
    /// The free workers are reserved for this job, or not enough are left to lend.
    Behind {
        /// The head of the queue.
        head: JobId,
    },
    /// It is the first of its namespace to wait for the others to use less: what they give back of the quota is kept for it.
    Quota {
        /// Which bound.
        bound: Bound,
        /// What the namespace uses.
        used: u32,
        /// What it may.
        limit: u32,
    },
    /// It needs more than its namespace may use; it holds nobody back.
    QuotaTooSmall {
        /// Which bound.
        bound: Bound,
        /// What it needs at least.
        needed: usize,
        /// What the namespace may use.
        limit: u32,
    },
    /// What is left of its namespace's quota is kept for this job of the namespace, or not enough is left to lend.
    BehindSibling {
        /// The first of the namespace to wait.
        head: JobId,
    },
    /// Another job comes first by the submitter's wish.
    Dependency {
        /// Which.
        job: JobId,
        /// How it must end.
        condition: Condition,
    },
    /// It failed and is tried again later.
    Backoff {
        /// Whose fault the failure was.
        class: FailureClass,
        /// The number of the try that follows, from 1.
        attempt: u32,
    },
}

/// What would end a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndsWhen {
    /// Nothing more is needed.
    Now,
    /// So much time has passed.
    At(Time),
    /// More workers connect.
    WorkersConnect {
        /// How many more.
        more: usize,
    },
    /// Workers get free, by the end of a job or because more connect.
    WorkersFree {
        /// How many more.
        more: usize,
    },
    /// These jobs have checkpointed and stopped.
    Stopped(Vec<JobId>),
    /// This job starts.
    Starts(JobId),
    /// Jobs of the same namespace end, or give workers back.
    NamespaceUsesLess {
        /// Which bound it has to fall below.
        bound: Bound,
        /// By how much at least.
        by: u32,
    },
    /// The operator allows the namespace so much.
    QuotaAllows {
        /// Which bound.
        bound: Bound,
        /// What the job needs.
        needed: usize,
    },
    /// This job ends as asked for.
    Ends(JobId, Condition),
}
