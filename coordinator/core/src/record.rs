//! Events: what the log keeps, and what is only seen.

use serde::{Deserialize, Serialize};

use crate::command::{Indexed, Submission};
use crate::ids::{Generation, Incarnation, JobId, Pace, Rank, Step, Time, WorkerId};
use crate::job::{Ending, Member, Outcome, RankParts};
use crate::policy::{FailureClass, StopCause};
use crate::presence::Observation;

/// What a command leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A transition of a job, or of what is held of a worker, to be logged durably.
    Record(Record),
    /// What a worker was seen to do: true only as long as this process lives, never logged.
    Observation(Observation),
}

/// One logged transition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was decided.
    pub at: Time,
    /// The job; none where a change is of a worker and no job has to do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// What changed.
    #[serde(flatten)]
    pub change: Change,
}

impl Record {
    /// Whether it is of this job.
    pub fn is_of(&self, job: &JobId) -> bool {
        self.job.as_ref() == Some(job)
    }
}

/// What changed about a job or a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// It was queued for the first time.
    Submitted {
        /// What is asked for.
        submission: Submission,
    },
    /// Its data is indexed: from here on it is as if it had been submitted with the manifests.
    Indexed {
        /// What the manifests tell.
        indexed: Indexed,
    },
    /// A group was formed.
    GroupFormed {
        /// Its number.
        generation: Generation,
        /// Its members by rank.
        members: Vec<Member>,
        /// The rank with the state, and the store.
        lead: Rank,
        /// The step it starts from.
        step: Step,
        /// Its workers are reserved for another job and lent to this one.
        #[serde(default, skip_serializing_if = "is_false")]
        is_loan: bool,
    },
    /// Every member has finished its first step.
    GroupRunning {
        /// The group.
        generation: Generation,
    },
    /// Training is done; the evaluations run.
    EvaluationStarted {
        /// The group.
        generation: Generation,
    },
    /// A member has done all its group was formed for.
    MemberCompleted {
        /// The group.
        generation: Generation,
        /// Who.
        worker: WorkerId,
        /// The member's step.
        step: Step,
        /// What it came to.
        outcome: Outcome,
        /// Rank 0: the evaluations' results.
        summary: Option<String>,
    },
    /// The group can't or needn't go on as it is; the survivors are to leave it. Comes again for a member of a group that breaks up
    /// already, when that says that its own machine is at fault.
    GroupBroken {
        /// The group.
        generation: Generation,
        /// Why.
        cause: BreakCause,
        /// The highest step that a member was heard to have completed.
        step: Step,
    },
    /// Nobody is left of its group, or the group has stopped: it waits for workers again.
    Requeued {
        /// Why.
        reason: String,
    },
    /// It failed, and its retry policy has another try for that: it waits for workers again.
    Retried {
        /// Whose fault it was.
        class: FailureClass,
        /// Class of the failure, as reported.
        code: String,
        /// The error.
        message: String,
        /// The number of the try that follows, from 1.
        attempt: u32,
        /// It does not start before.
        not_before: Time,
    },
    /// It had ended, and someone has queued it again.
    Revived {
        /// Why.
        reason: String,
    },
    /// Someone has changed its priority.
    PriorityChanged {
        /// To what.
        priority: i32,
    },
    /// It is to checkpoint and give its workers back.
    StopRequested {
        /// Why.
        cause: StopCause,
    },
    /// It has given its workers to another job and waits again.
    Preempted {
        /// To which.
        by: JobId,
    },
    /// Someone asked for a pause.
    PauseRequested {
        /// Why.
        reason: String,
    },
    /// It is paused.
    Paused {
        /// Why.
        reason: String,
    },
    /// A paused job is queued again.
    Resumed,
    /// All ranks have written their parts; the manifest is to be committed.
    CheckpointWritten {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
        /// What each rank wrote.
        ranks: Vec<RankParts>,
    },
    /// The manifest exists: the checkpoint can be restored from.
    CheckpointCommitted {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// An attempt came to nothing; the run goes on.
    CheckpointFailed {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
        /// Why.
        error: String,
    },
    /// Newer checkpoints have made this one superfluous; it is never restored from again.
    CheckpointRetired {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// The files of a retired checkpoint are gone.
    CheckpointDeleted {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// Someone keeps a checkpoint whatever retention says.
    CheckpointPinned {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// A checkpoint is left to retention again.
    CheckpointUnpinned {
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// The update of a step was not made; its samples are spent.
    UpdateSkipped {
        /// Completed steps after it.
        step: Step,
        /// The group.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// With a bad update the network went back to an earlier state. The samples since then are spent, and the cursor is where it was.
    Rewound {
        /// Completed steps after it.
        step: Step,
        /// The step of that state.
        to: Step,
        /// The group.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// Someone gave up what came after a checkpoint: the job goes on from there, and from nothing that workers hold.
    RolledBack {
        /// The checkpoint's step.
        step: Step,
        /// The newest generation that is given up.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// The manifests of a branch that was given up are out of the way; its files are gone.
    BranchAbandoned {
        /// The newest generation of the branch.
        generation: Generation,
    },
    /// A worker, which the job had last when it was lost, is put into no group for a while.
    WorkerQuarantined {
        /// Who.
        worker: WorkerId,
        /// Until when, unless someone releases it before.
        until: Time,
        /// Why.
        reason: String,
    },
    /// Someone keeps a worker out of groups until it is released.
    WorkerCordoned {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Someone has a worker's process end.
    WorkerDrained {
        /// Who.
        worker: WorkerId,
        /// Which process of it.
        incarnation: Incarnation,
        /// Why.
        reason: String,
    },
    /// A worker that was kept out of groups may be put into groups again.
    WorkerReleased {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Another coordinator has come to decide about it, while it had a group.
    LeaderChanged {
        /// Where it is reached.
        leader: String,
        /// Why it and no other, in words.
        reason: String,
    },
    /// The parts that no manifest names are gone.
    Swept,
    /// It is over.
    Ended {
        /// How.
        ending: Ending,
    },
}

impl Change {
    /// Whether the job may have another group afterwards, or none: members are the same for a group's life.
    pub(crate) fn may_regroup(&self) -> bool {
        match self {
            Self::Submitted { .. }
            | Self::Indexed { .. }
            | Self::GroupFormed { .. }
            | Self::Requeued { .. }
            | Self::Retried { .. }
            | Self::Revived { .. }
            | Self::Preempted { .. }
            | Self::Paused { .. }
            | Self::Resumed
            | Self::Ended { .. } => true,
            Self::GroupRunning { .. }
            | Self::EvaluationStarted { .. }
            | Self::MemberCompleted { .. }
            | Self::GroupBroken { .. }
            | Self::PriorityChanged { .. }
            | Self::StopRequested { .. }
            | Self::PauseRequested { .. }
            | Self::CheckpointWritten { .. }
            | Self::CheckpointCommitted { .. }
            | Self::CheckpointFailed { .. }
            | Self::CheckpointRetired { .. }
            | Self::CheckpointDeleted { .. }
            | Self::CheckpointPinned { .. }
            | Self::CheckpointUnpinned { .. }
            | Self::UpdateSkipped { .. }
            | Self::Rewound { .. }
            | Self::RolledBack { .. }
            | Self::BranchAbandoned { .. }
            | Self::LeaderChanged { .. }
            | Self::WorkerQuarantined { .. }
            | Self::WorkerCordoned { .. }
            | Self::WorkerDrained { .. }
            | Self::WorkerReleased { .. }
            | Self::Swept => false,
        }
    }
}

pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// What gives a loss away first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// Its stream has ended.
    StreamEnd,
    /// No heartbeat has come for the detection time.
    Heartbeat,
    /// A peer's collective failed, or it says itself that it is out of the group.
    PeerReport,
    /// Its process is gone: another one has come in its place.
    ProcessExit,
    /// It has not come back to a restarted coordinator, or has not begun to form, in time.
    Absence,
}

/// Why a group was broken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum BreakCause {
    /// Members are gone.
    Lost {
        /// Each with what gave it away.
        workers: Vec<(WorkerId, String)>,
        /// The kind of that, of the first of them; absent in logs of older programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sign: Option<Sign>,
    },
    /// A member reported an error.
    Failure {
        /// Its rank.
        rank: Rank,
        /// Who.
        worker: WorkerId,
        /// Class of the failure.
        code: String,
        /// The error.
        message: String,
    },
    /// A member ends on purpose.
    Departure {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Workers are free for the job to grow.
    Growth {
        /// How many join.
        joining: u32,
    },
    /// Workers that the job can do without go to one that waits.
    Shrink {
        /// How many stay.
        to: u32,
        /// Who gets the others.
        waiting: JobId,
    },
    /// An idle worker takes the place of a slow one.
    Straggler {
        /// The slow one.
        worker: WorkerId,
        /// How slow.
        pace: Pace,
    },
    /// Someone gave up its work: the job goes back to a checkpoint.
    Rollback {
        /// The checkpoint's step.
        to: Step,
    },
}

impl BreakCause {
    /// What gave a loss away; nothing where the group was broken on purpose, or by an error of its own.
    pub fn sign(&self) -> Option<Sign> {
        match self {
            Self::Lost { sign, .. } => *sign,
            Self::Failure { code, .. } if code == COLLECTIVE_FAILED => Some(Sign::PeerReport),
            _ => None,
        }
    }

    /// The worker that says of its own device or memory that it is at fault, and its error.
    pub(crate) fn own_fault(&self) -> Option<(&WorkerId, String)> {
        match self {
            Self::Failure { worker, code, message, .. } if is_own_fault(code) => {
                Some((worker, format!("{code}: {message}")))
            }
            _ => None,
        }
    }
}

/// How workers class the failure of a collective, which says that some peer, or the way to it, is gone.
const COLLECTIVE_FAILED: &str = "COLLECTIVE_FAILED";

/// How workers class what is the fault of their machine, and neither the job's nor a peer's: a device that failed, and parameters that
/// are not those of the others.
const OWN_FAULTS: [&str; 2] = ["DEVICE_FAILED", "REPLICA_DIVERGED"];

/// Whether a member that failed with this code says that its machine is at fault.
pub(crate) fn is_own_fault(code: &str) -> bool {
    OWN_FAULTS.contains(&code)
}

/// How workers class that they could not begin from the newest checkpoint. No one member is to blame for that.
pub const CHECKPOINT_DAMAGED: &str = "CHECKPOINT_DAMAGED";

impl std::fmt::Display for BreakCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BreakCause::Lost { workers, .. } => {
                for (place, (worker, reason)) in workers.iter().enumerate() {
                    let separator = if place == 0 { "" } else { "; " };
                    write!(f, "{separator}{worker} {reason}")?;
                }
                Ok(())
            }
            BreakCause::Failure { code, message, .. } if code == CHECKPOINT_DAMAGED => f.write_str(message),
            BreakCause::Failure { rank, worker, code, message } => {
                write!(f, "rank {rank} ({worker}) failed: {code}: {message}")
            }
            BreakCause::Departure { worker, reason } => write!(f, "{worker} ends on purpose: {reason}"),
            BreakCause::Shrink { to, waiting } => write!(f, "shrinks to {to} workers so that {waiting} can start"),
            BreakCause::Growth { joining } => write!(f, "grows by {joining} free workers"),
            BreakCause::Straggler { worker, pace } => {
                let times = f64::from(pace.0) / 1000.0;
                write!(f, "{worker} takes {times:.1} times as long as the mean, an idle worker takes its place")
            }
            BreakCause::Rollback { to } => write!(f, "goes back to the checkpoint of step {to}"),
        }
    }
}
