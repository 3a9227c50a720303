//! What may be asked of the core.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Incarnation, JobId, Link, Pace, Rank, Step, WorkerId};
use crate::job::{Outcome, RankParts};
use crate::policy::Scheduling;
use crate::presence::Holding;
use crate::record::is_false;
use crate::work::Work;

/// A request to the core.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Queue a job under this new id.
    Submit {
        /// The id, which the caller has drawn.
        job: JobId,
        /// What is asked for.
        submission: Submission,
    },
    /// End a job for good.
    Cancel {
        /// Which.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// Checkpoint a job and take its workers.
    Pause {
        /// Which.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// Queue a paused job again.
    Resume {
        /// Which.
        job: JobId,
    },
    /// Queue a job again that has ended, but not with success; it goes on from its newest checkpoint.
    Requeue {
        /// Which.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// Change a job's priority.
    SetPriority {
        /// Whose.
        job: JobId,
        /// To what.
        priority: i32,
    },
    /// Keep a worker out of groups until it is released; one that is in a group stays in it until that forms anew.
    CordonWorker {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Put a worker into groups again that is quarantined or cordoned.
    ReleaseWorker {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Have a worker's process end, after its group has checkpointed.
    DrainWorker {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Another coordinator decides from here on.
    LeaderChanged {
        /// Where it is reached.
        leader: String,
        /// Why it and no other, in words.
        reason: String,
    },
    /// A worker says something.
    Worker(WorkerReport),
    /// A worker's stream has ended.
    Disconnected {
        /// Whose.
        worker: WorkerId,
        /// Which stream.
        link: Link,
    },
    /// The data of a job is indexed, and the manifests are in its folder.
    Indexed {
        /// The job.
        job: JobId,
        /// What they tell.
        indexed: Indexed,
    },
    /// The data of a job can't be indexed; trying the same again would not help.
    IndexFailed {
        /// The job.
        job: JobId,
        /// Class of the failure.
        code: String,
        /// The error.
        message: String,
    },
    /// The manifest of an attempt exists in the store.
    ManifestCommitted {
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// The manifest of an attempt could not be written, for good.
    ManifestFailed {
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
        /// Why.
        error: String,
    },
    /// The files of a retired checkpoint are gone.
    CheckpointDeleted {
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// Keep a checkpoint whatever retention says.
    PinCheckpoint {
        /// Whose.
        job: JobId,
        /// Its step.
        step: Step,
        /// Why.
        reason: String,
    },
    /// Leave a checkpoint to retention again.
    UnpinCheckpoint {
        /// Whose.
        job: JobId,
        /// Its step.
        step: Step,
        /// Why.
        reason: String,
    },
    /// Go back to a checkpoint and give up what came after it.
    RollBack {
        /// Which job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// Why.
        reason: String,
    },
    /// What a job committed on a branch that was given up is out of the way.
    BranchAbandoned {
        /// The job.
        job: JobId,
        /// The newest generation of the branch.
        through: Generation,
    },
    /// The parts that no manifest names are gone.
    Swept {
        /// The job.
        job: JobId,
    },
    /// This message is on its stream.
    Told(Work),
    /// Do the next thing that time or the present state call for.
    Review,
}

/// A validated job as it is queued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// What people call it.
    pub name: String,
    /// Whose it is.
    pub namespace: String,
    /// Higher runs first.
    pub priority: i32,
    /// The gang's lower bound, at least one.
    pub min_workers: u32,
    /// The gang's upper bound, not below the lower.
    pub max_workers: u32,
    /// Lanes that the ranks own; bounds the world size.
    pub lanes: u32,
    /// Checkpoints that retention keeps, at least one.
    pub keep: u32,
    /// Updates of the whole run.
    pub total_steps: Step,
    /// The validated spec, opaque to the core.
    pub spec_json: String,
    /// Digest of the spec, for the checkpoints' manifests.
    pub spec_digest: String,
    /// Digest of the training data, likewise.
    pub data_digest: String,
    /// URL of the job's folder.
    pub folder: String,
    /// The same key gives the same job.
    pub idempotency_key: Option<String>,
    /// When and how long it runs.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Its data is named by shards that are still to be indexed; what depends on the data is known after that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub needs_index: bool,
}

/// What the index of a job's data tells: it takes the place of what was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// The spec, with the manifests in place of the shards.
    pub spec_json: String,
    /// Digest of that spec.
    pub spec_digest: String,
    /// Digest of the training data.
    pub data_digest: String,
    /// Updates of the whole run.
    pub total_steps: Step,
    /// What was indexed.
    pub sources: Vec<IndexedSource>,
}

/// A source of samples that was indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedSource {
    /// The shards as they were submitted.
    pub source: String,
    /// URL of the manifest.
    pub manifest: String,
    /// SHA-256 of the manifest's content.
    pub digest: String,
    /// Its shards.
    pub shards: u64,
    /// Its samples.
    pub samples: u64,
    /// What is wrong with some shards, the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl Submission {
    /// The largest world size.
    pub fn max_world_size(&self) -> usize {
        self.max_workers.min(self.lanes) as usize
    }

    /// The smallest world size that it starts with.
    pub fn min_world_size(&self) -> usize {
        self.min_workers as usize
    }
}

/// A message of a worker's stream.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerReport {
    /// Who says it.
    pub worker: WorkerId,
    /// On which stream.
    pub link: Link,
    /// What.
    pub report: Report,
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The first on every stream.
    Hello {
        /// Its process.
        incarnation: Incarnation,
        /// Its machine.
        host: String,
        /// `host:port` of its c10d store.
        store_address: String,
        /// The state it holds.
        holding: Option<Holding>,
    },
    /// It lives.
    Heartbeat {
        /// The job it is at, its group and step.
        at: Option<(JobId, Generation, Step)>,
        /// How fast it is beside the others of its group, once it knows.
        pace: Option<Pace>,
    },
    /// It has finished its first step in the group.
    Entered {
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
        /// Completed updates.
        step: Step,
    },
    /// It has left the group and holds its state.
    Left {
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
        /// Completed updates.
        step: Step,
        /// Whether it holds parameters.
        has_state: bool,
        /// Why, unless it was told to.
        failure: Option<Failure>,
    },
    /// A rank's parts of a checkpoint are written.
    PartsWritten {
        /// The job.
        job: JobId,
        /// The attempt.
        generation: Generation,
        /// The checkpoint's step.
        step: Step,
        /// Whose.
        rank: Rank,
        /// Of how many.
        world_size: u32,
        /// What it wrote.
        parts: RankParts,
    },
    /// The update of a step was not made, by any rank.
    UpdateRefused {
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
        /// Completed steps after it.
        step: Step,
        /// Why.
        reason: String,
        /// The step whose state the job went back to, if it did.
        rewound_to: Option<Step>,
    },
    /// A rank could not write its parts.
    CheckpointFailed {
        /// The job.
        job: JobId,
        /// The attempt.
        generation: Generation,
        /// The checkpoint's step.
        step: Step,
        /// Whose.
        rank: Rank,
        /// Why.
        error: String,
    },
    /// Training is done, the evaluations begin.
    EvaluationStarted {
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
    },
    /// It has done all its group was formed for.
    Completed {
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
        /// Completed updates.
        step: Step,
        /// What it came to.
        outcome: Outcome,
        /// Rank 0: the evaluations' results.
        summary: Option<String>,
    },
    /// The process ends on purpose.
    Goodbye {
        /// Why.
        reason: String,
    },
}

/// Why a member left on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Class: collective, data, numeric, storage, memory or internal.
    pub code: String,
    /// The error.
    pub message: String,
    /// Forming again would not help.
    pub permanent: bool,
}
