//! A job as the log tells it: what survives a restart of the coordinator.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::Submission;
use crate::ids::{Generation, Incarnation, JobId, Rank, Step, Time, WorkerId};
use crate::policy::{FailureClass, StopCause};

/// A job and everything durable about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// What was asked for; once its data is indexed, with the manifests in place of the shards.
    pub submission: Submission,
    /// Digest of the spec as it was submitted, where the index has changed that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_digest: Option<String>,
    /// When it was submitted.
    pub submitted_at: Time,
    /// When its first group formed.
    pub started_at: Option<Time>,
    /// When the phase last changed.
    pub phase_since: Time,
    /// Where it is in its life.
    pub phase: Phase,
    /// The generation of the newest group; zero before the first.
    pub generation: Generation,
    /// Every group that it had, for the account that its checkpoints keep.
    pub groups: Vec<GroupStart>,
    /// Higher runs first: as submitted, or as someone has changed it since.
    pub priority: i32,
    /// Someone asked for a pause, for this reason.
    pub pause: Option<String>,
    /// It is to checkpoint and give its workers back, for this reason.
    pub stopping: Option<StopCause>,
    /// Its group is breaking up so that only so many of its workers stay.
    pub shrink_to: Option<u32>,
    /// Its group is breaking up so that an idle worker takes the place of this one.
    pub replacing: Option<WorkerId>,
    /// When it last grew, shrank or had a worker replaced on purpose.
    pub reshaped_at: Option<Time>,
    /// When it last got workers after waiting in the queue.
    pub admitted_at: Option<Time>,
    /// The workers are on loan: reserved for a job that was there before and could not use them yet.
    pub is_loan: bool,
    /// How long it has had workers, up to the last time that it gave them back.
    pub active: Duration,
    /// Failures after which it was tried again, by class.
    pub retries: BTreeMap<FailureClass, u32>,
    /// It failed and is not tried again before a time.
    pub backoff: Option<Backoff>,
    /// State in workers' memory from this generation or before is not gone on from: it led to a failure, or to the end.
    pub discarded: Generation,
    /// Weights of the groups that ended, in a row, without a step of progress.
    pub fruitless: u32,
    /// Groups that broke because of a loss or failure.
    pub recoveries: u64,
    /// Committed checkpoints that are kept, oldest first.
    pub checkpoints: Vec<Checkpoint>,
    /// Attempts whose parts are all written and whose manifest is to be committed.
    #[serde(with = "as_list")]
    pub committing: BTreeMap<(Step, Generation), Attempt>,
    /// The attempt that failed last, so that it is told once and not per rank.
    pub last_failed: Option<(Step, Generation)>,
    /// Checkpoints that retention gave up and whose files are still to be deleted.
    pub retired: Vec<Checkpoint>,
    /// Since when there may be parts that no manifest names.
    pub litter_since: Option<Time>,
    /// Parts of this generation and of those before it are gone, unless a manifest names them.
    pub swept: Generation,
    /// The branch that was given up last: what its groups still report means nothing.
    pub rolled_back: Option<Branch>,
    /// A branch that was given up, as long as what it committed is still to be moved aside.
    pub abandoned: Option<Branch>,
    /// The newest update that was not made, as its group and step.
    #[serde(default)]
    pub refused: Option<(Generation, Step)>,
    /// Updates that were skipped, as far as they are logged.
    #[serde(default)]
    pub skipped: u32,
    /// Bad updates with which the network went back, for the account that its checkpoints keep.
    #[serde(default)]
    pub rewinds: Vec<Rewind>,
}

/// A bad update with which the network went back to an earlier state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewind {
    /// Completed steps after it.
    pub step: Step,
    /// The step of that state.
    pub to: Step,
    /// The group that did.
    pub generation: Generation,
}

/// A branch of a run that someone gave up: the job went back to a checkpoint and goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The step that the job went back to: what came after it is given up.
    pub after: Step,
    /// The newest generation of the branch.
    pub through: Generation,
}

/// The wait between a failure and the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// When it is over.
    pub until: Time,
    /// Whose fault the failure was.
    pub class: FailureClass,
    /// The number of the try that follows, from 1.
    pub attempt: u32,
}

/// Where a job is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its data is being indexed, or is about to be once more after a failure.
    Indexing,
    /// Waits for workers.
    Queued,
    /// Has a group.
    Active(Group),
    /// Checkpointed, and without workers.
    Paused {
        /// Why.
        reason: String,
    },
    /// Over.
    Ended(Ending),
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Ending {
    /// All steps and evaluations are done.
    Succeeded {
        /// The step it ended at.
        step: Step,
        /// The evaluations' results, as rank 0 summed them up.
        summary: Option<String>,
    },
    /// It can't go on.
    Failed {
        /// Class of the failure.
        code: String,
        /// The first failing rank and its error.
        message: String,
    },
    /// Someone ended it.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// It had to give its workers to another job, and was submitted to end then.
    Preempted {
        /// To which.
        by: JobId,
    },
}

/// A group as it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStart {
    /// Its number.
    pub generation: Generation,
    /// Its members.
    pub world_size: u32,
    /// The step it started from.
    pub step: Step,
}

/// The one active group of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub generation: Generation,
    /// Its members by rank.
    pub members: Vec<Member>,
    /// The rank that serves the store and gives its state to those behind.
    pub lead: Rank,
    /// The step it starts from.
    pub step: Step,
    /// When it was formed.
    pub formed_at: Time,
    /// How far it is.
    pub stage: Stage,
    /// Members that have done all the group was formed for.
    pub completed: BTreeMap<WorkerId, Outcome>,
    /// The step at which they had; absent in snapshots of older programs, and zero before.
    #[serde(default)]
    pub completed_step: Step,
    /// The evaluations' results, from rank 0.
    pub summary: Option<String>,
}

impl Group {
    /// The member's rank and entry.
    pub fn member(&self, worker: &WorkerId) -> Option<(Rank, &Member)> {
        (0..).map(Rank).zip(&self.members).find(|(_, member)| member.worker == *worker)
    }

    /// Whether it was told to break up.
    pub fn is_breaking(&self) -> bool {
        matches!(self.stage, Stage::Breaking { .. })
    }
}

/// How far a group is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Members connect and exchange state.
    Forming,
    /// Every member has finished its first step.
    Running {
        /// Since when.
        since: Time,
    },
    /// Training is done; the evaluations run.
    Evaluating {
        /// Since when.
        since: Time,
    },
    /// Survivors leave; then the next generation forms.
    Breaking {
        /// Since when.
        since: Time,
        /// What became of it, for people.
        reason: String,
    },
}

/// A member of a group, as it was when the group formed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The worker.
    pub worker: WorkerId,
    /// Its process.
    pub incarnation: Incarnation,
    /// `host:port` of its c10d store.
    pub store_address: String,
    /// The step of the parameters it holds; zero without.
    pub step: Step,
    /// Whether it holds parameters.
    pub has_state: bool,
}

/// What a group that has done its work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All steps, all evaluations.
    Finished,
    /// It was asked to stop, and checkpointed before.
    Stopped,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The step whose state it holds.
    pub step: Step,
    /// The attempt: the generation that wrote it.
    pub generation: Generation,
    /// Size of its parts.
    pub bytes: u64,
    /// When its manifest was committed.
    pub committed_at: Time,
    /// Files that it consists of.
    pub parts: usize,
    /// Why someone keeps it whatever retention says.
    pub pin: Option<String>,
}

/// A checkpoint whose parts are all written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When the last part was reported.
    pub written_at: Time,
    /// What each rank wrote, by rank.
    pub ranks: Vec<RankParts>,
}

impl Attempt {
    /// Size of all parts.
    pub fn bytes(&self) -> u64 {
        let parts = self.ranks.iter().flat_map(|rank| &rank.parts);
        parts.map(|part| part.bytes).sum()
    }
}

/// What one rank wrote of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankParts {
    /// Its files.
    pub parts: Vec<Part>,
    /// Samples it has quarantined since the run began.
    pub quarantined: Vec<Quarantined>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Path under the attempt's folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in lowercase hexadecimal.
    pub sha256: String,
}

/// A sample that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its shard.
    pub shard: String,
    /// Its place in the shard.
    pub index: u64,
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Job {
    /// Its active group.
    pub fn group(&self) -> Option<&Group> {
        match &self.phase {
            Phase::Active(group) => Some(group),
            _ => None,
        }
    }

    /// The newest generation that there is anything of. After the restore of a backup the store has checkpoints of later
    /// groups than the log.
    pub fn newest_generation(&self) -> Generation {
        let committed = self.checkpoints.iter().map(|checkpoint| checkpoint.generation);
        let failed = self.last_failed.map(|(_, generation)| generation);
        committed.chain(failed).chain([self.discarded]).fold(self.generation, Ord::max)
    }

    /// Whether it was submitted with the spec of this digest.
    pub fn was_submitted_as(&self, spec_digest: &str) -> bool {
        self.submitted_digest.as_ref().unwrap_or(&self.submission.spec_digest) == spec_digest
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// How long it has had workers altogether.
    pub fn active_for(&self, now: Time) -> Duration {
        match &self.phase {
            Phase::Active(_) => self.active + now.since(self.admitted_at.unwrap_or(now)),
            _ => self.active,
        }
    }

    /// The newest committed checkpoint.
    pub fn newest_checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoints.last()
    }

    /// Whether the work of a group of this generation was given up.
    pub fn gave_up(&self, generation: Generation) -> bool {
        self.rolled_back.is_some_and(|branch| generation <= branch.through)
    }

    /// The kept checkpoint of a step.
    pub fn checkpoint(&self, step: Step) -> Option<&Checkpoint> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.step == step)
    }

    /// The step of the checkpoint that is still missing before the job is over or stopped, though members have done their work.
    pub fn unsaved(&self) -> Option<Step> {
        let step = self.group()?.completed_step;
        (step > self.restore_step()).then_some(step)
    }

    /// Whether nobody makes steps after this one but from its checkpoint: the manifest is not given up then. A job that
    /// trains on makes another checkpoint soon, and one that is over needs none.
    pub fn depends_on(&self, step: Step) -> bool {
        match &self.phase {
            Phase::Active(group) => step == self.submission.total_steps || step == group.completed_step,
            Phase::Indexing | Phase::Queued | Phase::Paused { .. } => true,
            Phase::Ended(_) => false,
        }
    }

    /// The step that a start from storage begins with.
    pub fn restore_step(&self) -> Step {
        self.newest_checkpoint().map_or(Step(0), |checkpoint| checkpoint.step)
    }
}

/// Attempts as a list of pairs: keys of JSON are texts.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Attempt, Generation, Step};

    type Attempts = BTreeMap<(Step, Generation), Attempt>;

    pub(super) fn serialize<S: Serializer>(attempts: &Attempts, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(attempts)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Attempts, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}
