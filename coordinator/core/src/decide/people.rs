//! What people ask for.

use super::At;
use crate::command::Submission;
use crate::core::{Core, Refusal};
use crate::ids::JobId;
use crate::job::{Ending, Job, Phase};
use crate::record::{Change, Event};

type Decision = Result<Vec<Event>, Refusal>;

pub(super) fn submit(core: &Core, at: At, job: &JobId, submission: &Submission) -> Decision {
    if let Some(known) = core.state().job_with_key(submission) {
        return Err(Refusal::AlreadySubmitted(known.id.clone()));
    }
    if core.state().job(job).is_some() {
        return Err(Refusal::JobIdTaken(job.clone()));
    }
    let submission = submission.clone();
    Ok(vec![at.record(job, Change::Submitted { submission })])
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
        Phase::Queued => Ok(vec![at.record(id, Change::Paused { reason })]),
        Phase::Active(_) if job.pause.is_none() => Ok(vec![at.record(id, Change::PauseRequested { reason })]),
        Phase::Active(_) | Phase::Paused { .. } => Ok(Vec::new()),
        Phase::Ended(_) => Err(Refusal::Ended(id.clone())),
    }
}

pub(super) fn resume(core: &Core, at: At, id: &JobId) -> Decision {
    let job = find(core, id)?;
    match &job.phase {
        Phase::Paused { .. } => Ok(vec![at.record(id, Change::Resumed)]),
        Phase::Active(_) if job.pause.is_some() => Err(Refusal::StillPausing(id.clone())),
        Phase::Queued | Phase::Active(_) => Err(Refusal::NotPaused(id.clone())),
        Phase::Ended(_) => Err(Refusal::Ended(id.clone())),
    }
}

fn find<'a>(core: &'a Core, id: &JobId) -> Result<&'a Job, Refusal> {
    core.state().job(id).ok_or_else(|| Refusal::UnknownJob(id.clone()))
}
