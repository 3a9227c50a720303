//! What the coordinator says, in the form that is printed: stable field names, moments as
//! timestamps, nothing where the wire has a zero for "not yet".

use cappa_proto as wire;
use cappa_shared::number;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::units::moment;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Indexing,
    Queued,
    Forming,
    Running,
    Evaluating,
    Pausing,
    Paused,
    Succeeded,
    Failed,
    Cancelled,
    Preempted,
    /// A state that a newer coordinator has and this program doesn't know.
    #[value(skip)]
    Unknown,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Indexing => "indexing",
            Self::Queued => "queued",
            Self::Forming => "forming",
            Self::Running => "running",
            Self::Evaluating => "evaluating",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Preempted => "preempted",
            Self::Unknown => "unknown",
        }
    }

    /// How a command that waited for the end says it; none before the end.
    pub(crate) fn end(self) -> Option<Exit> {
        match self {
            Self::Succeeded => Some(Exit::Ok),
            Self::Failed => Some(Exit::JobFailed),
            Self::Cancelled => Some(Exit::Cancelled),
            Self::Preempted => Some(Exit::Preempted),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> wire::JobState {
        match self {
            Self::Indexing => wire::JobState::Indexing,
            Self::Queued => wire::JobState::Queued,
            Self::Forming => wire::JobState::Forming,
            Self::Running => wire::JobState::Running,
            Self::Evaluating => wire::JobState::Evaluating,
            Self::Pausing => wire::JobState::Pausing,
            Self::Paused => wire::JobState::Paused,
            Self::Succeeded => wire::JobState::Succeeded,
            Self::Failed => wire::JobState::Failed,
            Self::Cancelled => wire::JobState::Cancelled,
            Self::Preempted => wire::JobState::Preempted,
            Self::Unknown => wire::JobState::Unspecified,
        }
    }
}

impl From<wire::JobState> for State {
    fn from(state: wire::JobState) -> Self {
        match state {
            wire::JobState::Indexing => Self::Indexing,
            wire::JobState::Queued => Self::Queued,
            wire::JobState::Forming => Self::Forming,
            wire::JobState::Running => Self::Running,
            wire::JobState::Evaluating => Self::Evaluating,
            wire::JobState::Pausing => Self::Pausing,
            wire::JobState::Paused => Self::Paused,
            wire::JobState::Succeeded => Self::Succeeded,
            wire::JobState::Failed => Self::Failed,
            wire::JobState::Cancelled => Self::Cancelled,
            wire::JobState::Preempted => Self::Preempted,
            wire::JobState::Unspecified => Self::Unknown,
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) state: State,
    /// Higher runs first.
    #[serde(default)]
    pub(crate) priority: i32,
    /// Why it waits, or how it ended.
    pub(crate) message: String,
    pub(crate) error_code: Option<String>,
    /// Completed updates.
    pub(crate) step: u64,
    pub(crate) total_steps: u64,
    pub(crate) generation: u64,
    /// Worker ids by rank.
    pub(crate) members: Vec<String>,
    /// By rank, each one's own time of a step in multiples of the mean; nothing as long as that is not known.
    #[serde(default)]
    pub(crate) paces: Vec<Option<f64>>,
    pub(crate) submitted: Option<Timestamp>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) latest: Option<Point>,
    pub(crate) time: Vec<Bucket>,
    pub(crate) last_checkpoint_step: Option<u64>,
    /// URL of the job's folder.
    pub(crate) folder: String,
    pub(crate) quarantined: u64,
    pub(crate) recoveries: u64,
    /// How far the index of its data is, while it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<Index>,
    pub(crate) spec: serde_json::Value,
}

/// How far the index of a job's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    /// Done.
    pub(crate) shards: u64,
    pub(crate) of_shards: u64,
    /// In the shards done.
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
}

/// What became of a step's update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Update {
    #[default]
    Made,
    /// It was not made; its loss may be no number.
    Skipped,
    /// Nor it, and those since the newest checkpoint were taken back.
    Rewound,
}

impl Update {
    fn is_made(&self) -> bool {
        *self == Self::Made
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) step: u64,
    /// `null` where it is no number.
    #[serde(deserialize_with = "number::or_nan")]
    pub(crate) loss: f64,
    pub(crate) learning_rate: f64,
    pub(crate) grad_norm: f64,
    pub(crate) examples: u64,
    pub(crate) seconds: f64,
    pub(crate) data_wait_seconds: f64,
    pub(crate) world_size: u32,
    pub(crate) generation: u64,
    pub(crate) unix_ms: i64,
    #[serde(default, skip_serializing_if = "Update::is_made")]
    pub(crate) update: Update,
}

impl Point {
    /// The loss of an update that was made; no number of any other.
    pub(crate) fn loss_made(&self) -> f64 {
        if self.update.is_made() { self.loss } else { f64::NAN }
    }
}

/// A share of a job's wall time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) bucket: String,
    pub(crate) seconds: f64,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Checkpoint {
    pub(crate) step: u64,
    /// URL of its manifest.
    pub(crate) manifest: String,
    pub(crate) bytes: u64,
    pub(crate) parts: u32,
    /// The group that wrote it.
    pub(crate) generation: u64,
    pub(crate) committed: Option<Timestamp>,
    /// Why someone keeps it.
    pub(crate) pinned: Option<String>,
    /// Given up by retention: its files are being deleted.
    pub(crate) retired: bool,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) state: String,
    pub(crate) job: Option<String>,
    pub(crate) rank: Option<u32>,
    pub(crate) step: u64,
    pub(crate) version: String,
    pub(crate) device: String,
    pub(crate) last_heard: Option<Timestamp>,
    /// Why it is quarantined, cordoned or leaves.
    pub(crate) note: Option<String>,
    pub(crate) quarantined_until: Option<Timestamp>,
}

/// One entry of a job's history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) time: Option<Timestamp>,
    pub(crate) kind: String,
    pub(crate) message: String,
}

/// One line of a worker's log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LogLine {
    pub(crate) time: Option<Timestamp>,
    pub(crate) worker: String,
    pub(crate) rank: u32,
    pub(crate) level: String,
    pub(crate) message: String,
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Thousandths as a multiple; zero stands for not known.
fn pace(thousandths: u32) -> Option<f64> {
    (thousandths > 0).then(|| f64::from(thousandths) / 1000.0)
}

impl From<wire::Job> for Job {
    fn from(mut job: wire::Job) -> Self {
        job.members.sort_by_key(|member| member.rank);
        Self {
            state: job.state().into(),
            priority: job.priority,
            id: job.id,
            name: job.name,
            namespace: job.namespace,
            message: job.message,
            error_code: given(job.error_code),
            step: job.step,
            total_steps: job.total_steps,
            generation: job.generation,
            paces: job.members.iter().map(|member| pace(member.pace)).collect(),
            members: job.members.into_iter().map(|member| member.worker_id).collect(),
            submitted: moment(job.submitted_unix_ms),
            started: moment(job.started_unix_ms),
            ended: moment(job.ended_unix_ms),
            latest: job.latest.map(Point::from),
            time: job.time.into_iter().map(Bucket::from).collect(),
            last_checkpoint_step: Some(job.last_checkpoint_step).filter(|step| *step > 0),
            folder: job.folder,
            quarantined: job.quarantined,
            recoveries: job.recoveries,
            index: job.index.map(Index::from),
            spec: serde_json::from_str(&job.spec_json).unwrap_or(serde_json::Value::Null),
        }
    }
}

impl From<wire::StepMetrics> for Point {
    fn from(point: wire::StepMetrics) -> Self {
        Self {
            step: point.step,
            loss: point.loss,
            learning_rate: point.learning_rate,
            grad_norm: point.grad_norm,
            examples: point.examples,
            seconds: point.seconds,
            data_wait_seconds: point.data_wait_seconds,
            world_size: point.world_size,
            generation: point.generation,
            unix_ms: point.unix_ms,
            update: match point.update() {
                wire::Update::Made => Update::Made,
                wire::Update::Skipped => Update::Skipped,
                wire::Update::Rewound => Update::Rewound,
            },
        }
    }
}

impl From<wire::IndexProgress> for Index {
    fn from(index: wire::IndexProgress) -> Self {
        let wire::IndexProgress { shards, of_shards, samples, bytes } = index;
        Self { shards, of_shards, samples, bytes }
    }
}

impl From<wire::TimeBucket> for Bucket {
    fn from(bucket: wire::TimeBucket) -> Self {
        Self { bucket: bucket.bucket, seconds: bucket.seconds }
    }
}

impl From<wire::CheckpointInfo> for Checkpoint {
    fn from(info: wire::CheckpointInfo) -> Self {
        Self {
            step: info.step,
            manifest: info.manifest,
            bytes: info.bytes,
            parts: info.parts,
            generation: info.generation,
            committed: moment(info.committed_unix_ms),
            pinned: info.pinned,
            retired: info.retired,
        }
    }
}

impl From<wire::Worker> for Worker {
    fn from(worker: wire::Worker) -> Self {
        let job = given(worker.job_id);
        Self {
            rank: job.is_some().then_some(worker.rank),
            job,
            id: worker.id,
            host: worker.host,
            state: worker.state,
            step: worker.step,
            version: worker.version,
            device: worker.device,
            last_heard: moment(worker.last_heard_unix_ms),
            note: given(worker.note),
            quarantined_until: moment(worker.quarantined_until_unix_ms),
        }
    }
}

impl From<wire::JobEvent> for Event {
    fn from(event: wire::JobEvent) -> Self {
        let time = moment(event.unix_ms);
        Self { sequence: event.sequence, time, kind: event.kind, message: event.message }
    }
}

impl From<wire::LogLine> for LogLine {
    fn from(line: wire::LogLine) -> Self {
        let time = moment(line.unix_ms);
        Self { time, worker: line.worker_id, rank: line.rank, level: line.level, message: line.message }
    }
}
