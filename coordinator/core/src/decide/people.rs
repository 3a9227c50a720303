//! What people ask for.

use super::{At, group};
use crate::command::Submission;
use crate::core::{Core, Refusal};
use crate::ids::JobId;
use crate::job::{Ending, Job, Phase};
use crate::policy::Bound;
use crate::record::{Change, Event};

type Decision = Result<Vec<Event>, Refusal>;

pub(super) fn submit(core: &Core, at: At, job: &JobId, submission: &Submission) -> Decision {
    if let Some(known) = core.state().job_with_key(submission) {
        return Err(Refusal::AlreadySubmitted(known.id.clone()));
    }
    if core.state().job(job).is_some() {
        return Err(Refusal::JobIdTaken(job.clone()));
    }
    let mut before = submission.scheduling.after.iter();
    if let Some(unknown) = before.find(|before| core.state().job(&before.job).is_none()) {
        return Err(Refusal::UnknownDependency(unknown.job.clone()));
    }
    expect_quota(core, submission)?;
    let submission = submission.clone();
    Ok(vec![at.record(job, Change::Submitted { submission })])
}

/// The namespace may queue one more job, and such a one could ever run.
fn expect_quota(core: &Core, submission: &Submission) -> Result<(), Refusal> {
    let namespace = &submission.namespace;
    let quota = core.policy().quota(namespace);
    let waiting = || core.state().waiting(namespace);
    let over = |bound, limit| Err(Refusal::OverQuota { namespace: namespace.clone(), bound, limit });
    match (quota.max_workers, quota.max_running, quota.max_queued) {
        (Some(limit), ..) if submission.min_workers > limit => over(Bound::Workers, limit),
        (_, Some(0), _) => over(Bound::Running, 0),
        (.., Some(limit)) if waiting() >= limit => over(Bound::Queued, limit),
        _ => Ok(()),
    }
}

/// Queues a job again that has failed, was cancelled or pre-empted.
pub(super) fn requeue(core: &Core, at: At, id: &JobId, reason: &str) -> Decision {
    let job = find(core, id)?;
    match &job.phase {
        Phase::Ended(ending) if !matches!(ending, Ending::Succeeded { .. }) => {
            expect_quota(core, &job.submission)?;
            let reason = reason.to_owned();
            Ok(vec![at.record(id, Change::Revived { reason })])
        }
        _ => Err(Refusal::NotRequeueable(id.clone())),
    }
}

pub(super) fn set_priority(core: &Core, at: At, id: &JobId, priority: i32) -> Decision {
    let job = find(core, id)?;
    match job.phase {
        Phase::Ended(_) => Err(Refusal::Ended(id.clone())),
        _ if job.priority == priority => Ok(Vec::new()),
        _ => Ok(vec![at.record(id, Change::PriorityChanged { priority })]),
    }
}

pub(super) fn cancel(core: &Core, at: At, id: &JobId, reason: &str) -> Decision {
    match &find(core, id)?.phase {
        Phase::Ended(Ending::Cancelled { .. }) => Ok(Vec::new()),
        Phase::Ended(_) => Err(Refusal::Ended(id.clone())),
        _ => {
            let reason = reason.to_owned();
            let ending = Ending::Cancelled { reason };
            Ok(vec![at.record(id, Change::Ended { ending })])
        }
    }
}

pub(super) fn pause(core: &Core, at: At, id: &JobId, reason: &str) -> Decision {
    let job = find(core, id)?;
    let reason = reason.to_owned();
    match &job.phase {
        Phase::Indexing | Phase::Queued => Ok(vec![at.record(id, Change::Paused { reason })]),
        Phase::Active(group) if group::has_nothing_to_save(core, job, group) => {
            Ok(vec![at.record(id, Change::Paused { reason })])
        }
        Phase::Active(_) if job.pause.is_none() => Ok(vec![at.record(id, Change::PauseRequested { reason })]),
        Phase::Active(_) | Phase::Paused { .. } => Ok(Vec::new()),
        Phase::Ended(_) => Err(Refusal::Ended(id.clone())),
    }
}

/// Queues a paused job again; it has kept its place among those that the namespace may queue.
pub(super) fn resume(core: &Core, at: At, id: &JobId) -> Decision {
    let job = find(core, id)?;
    match &job.phase {
        Phase::Paused { .. } => Ok(vec![at.record(id, Change::Resumed)]),
        Phase::Active(_) if job.pause.is_some() => Err(Refusal::StillPausing(id.clone())),
        Phase::Indexing | Phase::Queued | Phase::Active(_) => Err(Refusal::NotPaused(id.clone())),
        Phase::Ended(_) => Err(Refusal::Ended(id.clone())),
    }
}

pub(super) fn find<'a>(core: &'a Core, id: &JobId) -> Result<&'a Job, Refusal> {
    core.state().job(id).ok_or_else(|| Refusal::UnknownJob(id.clone()))
}
