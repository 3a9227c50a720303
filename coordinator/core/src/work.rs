//! What is to be done in the world, derived from the state and never remembered as "still to send".

use crate::core::Core;
use crate::decide;
use crate::ids::{Generation, JobId, Link, Step, Time, WorkerId};
use crate::job::{Branch, Job, Phase, Stage};
use crate::presence::WorkerPresence;

/// Something to be done. Equal values are the same thing, so whoever does it can tell what it has
/// already tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    /// Tell a member of its group.
    Form {
        /// The member.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
    },
    /// Tell a worker to leave its group.
    Abort {
        /// The worker.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// The job.
        job: JobId,
        /// The group that it is in.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// Tell a member to finish the step, checkpoint and stop.
    Stop {
        /// The member.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// Tell a worker to end its process.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// Why.
        reason: String,
    },
    /// Tell a worker to drop a job's state.
    Release {
        /// The worker.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// The job.
        job: JobId,
    },
    /// Tell a worker that it need not report a checkpoint's parts again.
    Acknowledge {
        /// The worker.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// Index a job's data. Given up when it is outstanding no more.
    Index {
        /// The job.
        job: JobId,
    },
    /// Write the manifest of an attempt, unless it is there.
    CommitManifest {
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// Delete a retired checkpoint's files, the manifest first.
    DeleteCheckpoint {
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// Move aside what was committed on a branch that was given up, and delete its parts.
    Abandon {
        /// The job.
        job: JobId,
        /// The step that the job went back to.
        after: Step,
        /// The newest generation of the branch.
        through: Generation,
    },
    /// Delete parts that no manifest names.
    Sweep {
        /// The job.
        job: JobId,
    },
}

impl Work {
    /// The job in whose folder it is to be done; nothing for what a worker is to be told.
    pub fn in_store(&self) -> Option<&JobId> {
        match self {
            Self::Index { job }
            | Self::CommitManifest { job, .. }
            | Self::DeleteCheckpoint { job, .. }
            | Self::Abandon { job, .. }
            | Self::Sweep { job } => Some(job),
            _ => None,
        }
    }
}

/// All that is to be done, in the store and by telling workers.
pub(crate) fn outstanding(core: &Core, now: Time) -> impl Iterator<Item = Work> {
    let of_groups = restless(core, now, None).flat_map(|job| of_group(core, job));
    in_store(core, now).chain(of_groups).chain(of_others(core))
}

/// What is to be done in the store.
pub(crate) fn in_store(core: &Core, now: Time) -> impl Iterator<Item = Work> {
    core.state().live_jobs().flat_map(move |job| storage_work(core, now, job))
}

/// Jobs whose members may have to be told something, in a circle from `first` on. Of members of a calm group nothing is
/// wanted: they were told what they are to do, and they do it.
pub(crate) fn restless<'a>(core: &'a Core, now: Time, first: Option<&JobId>) -> impl Iterator<Item = &'a Job> {
    let active = core.state().active_jobs_from(first);
    active.filter(move |job| !core.attention().is_calm(now, &job.id))
}

/// What workers are to be told that belong to no group, and what any is to be told of the checkpoints that it reported.
pub(crate) fn of_others(core: &Core) -> impl Iterator<Item = Work> {
    let of_bystanders = core.attention().bystanders().flat_map(|worker| worker_work(core, worker));
    let reports = core.presence().reporting().flat_map(move |(worker, presence)| {
        let link = presence.link.into_iter();
        link.flat_map(move |link| acknowledgements(core, worker, link, presence))
    });
    of_bystanders.chain(reports)
}

/// What the members of a job's group are to be told; nothing of a calm one.
pub(crate) fn of_group<'a>(core: &'a Core, job: &'a Job) -> impl Iterator<Item = Work> + 'a {
    let members = job.group().into_iter().flat_map(|group| &group.members);
    members_work(core, job).chain(members.flat_map(|member| worker_work(core, &member.worker)))
}

/// What a worker is to be told, whichever group it belongs to.
fn worker_work<'a>(core: &'a Core, worker: &'a WorkerId) -> impl Iterator<Item = Work> + 'a {
    let presence = core.presence().worker(worker);
    let seen = presence.and_then(|presence| Some((presence, presence.link?)));
    seen.into_iter().flat_map(move |(presence, link)| {
        let stray = stray_work(core, worker, link, presence);
        drain_work(worker, link, presence).into_iter().chain(stray)
    })
}

/// What the members of the job's group are to be told, and were not yet on their present streams.
fn members_work<'a>(core: &'a Core, job: &'a Job) -> impl Iterator<Item = Work> + 'a {
    let group = job.group();
    let members = group.into_iter().flat_map(|group| &group.members);
    members.filter_map(move |member| {
        let group = group?;
        let presence = core.presence().worker(&member.worker)?;
        let link = presence.link?;
        let (worker, id, generation) = (&member.worker, &job.id, group.generation);
        match &group.stage {
            Stage::Breaking { reason, .. } => {
                let generation = presence.at_work_on(id).filter(|at| !presence.was_dismissed(id, *at))?;
                let (worker, job, reason) = (worker.clone(), id.clone(), reason.clone());
                Some(Work::Abort { worker, link, job, generation, reason })
            }
            _ if presence.incarnation != member.incarnation || group.completed.contains_key(worker) => None,
            _ if !presence.has_joined(id, generation) => {
                let is_told = presence.was_summoned(id, generation);
                (!is_told).then(|| Work::Form { worker: worker.clone(), link, job: id.clone(), generation })
            }
            Stage::Running { .. } | Stage::Evaluating { .. } if !presence.was_stopped(id, generation) => {
                let reason = job.stopping.as_ref().map(ToString::to_string).or_else(|| job.pause.clone())?;
                Some(Work::Stop { worker: worker.clone(), link, job: id.clone(), generation, reason })
            }
            _ => None,
        }
    })
}

/// What is to be done in the store for a job.
fn storage_work<'a>(core: &'a Core, now: Time, job: &'a Job) -> impl Iterator<Item = Work> + 'a {
    let id = &job.id;
    let index = decide::index_is_due(now, job).then(|| Work::Index { job: id.clone() });
    // Of a branch that was given up nothing may be left when the next checkpoint is committed, perhaps of the same step.
    let committing = job.committing.keys().filter(|_| job.abandoned.is_none());
    let commits = committing.map(|(step, generation)| Work::CommitManifest {
        job: id.clone(),
        step: *step,
        generation: *generation,
    });
    let abandon = abandoned(job).map(|Branch { after, through }| Work::Abandon { job: id.clone(), after, through });
    // A group that begins from storage was promised the checkpoints there were when it formed.
    let restores = job.group().is_some_and(|group| {
        let is_starting = matches!(group.stage, Stage::Forming | Stage::Breaking { .. });
        is_starting && !group.members.iter().any(|member| member.has_state)
    });
    let deletions = job.retired.iter().filter(move |_| !restores).map(|checkpoint| Work::DeleteCheckpoint {
        job: id.clone(),
        step: checkpoint.step,
        generation: checkpoint.generation,
    });
    let sweep = decide::sweep_is_due(core, now, job).then(|| Work::Sweep { job: id.clone() });
    index.into_iter().chain(commits).chain(deletions).chain(abandon).chain(sweep)
}

/// The branch that is to be moved aside, once nobody reads or deletes anything of it any more.
fn abandoned(job: &Job) -> Option<Branch> {
    let abandoned = job.abandoned?;
    let is_read = job.group().is_some_and(|group| group.generation <= abandoned.through);
    (!is_read && job.retired.is_empty()).then_some(abandoned)
}

/// A worker that someone has end is told until it says goodbye.
fn drain_work(worker: &WorkerId, link: Link, presence: &WorkerPresence) -> Option<Work> {
    let reason = presence.asked_to_end.clone().filter(|_| presence.leaving.is_none())?;
    Some(Work::Drain { worker: worker.clone(), link, reason })
}

/// What a worker is to be told that holds a job's state without belonging to the job's group.
fn stray_work(core: &Core, worker: &WorkerId, link: Link, presence: &WorkerPresence) -> Option<Work> {
    let home = core.state().home_of(worker);
    let is_home = |job: &JobId| home == Some(job);
    if let Some((job, generation)) = presence.at_work() {
        return (!is_home(job) && !presence.was_dismissed(job, generation)).then(|| Work::Abort {
            worker: worker.clone(),
            link,
            job: job.clone(),
            generation,
            reason: "the worker does not belong to the group any more".to_owned(),
        });
    }
    let holding = presence.holding.as_ref().filter(|holding| !is_home(&holding.job))?;
    // State that is newer than any checkpoint may yet be the newest that survives: it is kept as long
    // as the job may need it.
    let job = core.state().job(&holding.job);
    let is_useful = job.is_some_and(|job| match job.phase {
        Phase::Queued | Phase::Active(_) => decide::holds_useful_state(core, job, worker),
        // A paused job has its checkpoint, unless the pause came from the loss of all that could write one.
        Phase::Paused { .. } => {
            holding.has_state && holding.generation > job.discarded && holding.step > job.restore_step()
        }
        Phase::Indexing | Phase::Ended(_) => false,
    });
    // A member of another job's group drops what it holds when it forms.
    (!is_useful && home.is_none()).then(|| Work::Release { worker: worker.clone(), link, job: holding.job.clone() })
}

/// Reports of parts that nobody waits for any more: committed, or given up.
fn acknowledgements<'a>(
    core: &'a Core,
    worker: &'a WorkerId,
    link: Link,
    presence: &'a WorkerPresence,
) -> impl Iterator<Item = Work> + 'a {
    let settled = presence.reported.iter().filter(move |key| {
        let (id, step, generation) = key;
        let job = core.state().job(id);
        let is_committing = job.is_some_and(|job| job.committing.contains_key(&(*step, *generation)));
        !is_committing && core.presence().gathering(key).is_none()
    });
    settled.map(move |(job, step, generation)| Work::Acknowledge {
        worker: worker.clone(),
        link,
        job: job.clone(),
        step: *step,
        generation: *generation,
    })
}
