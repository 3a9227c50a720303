//! The index of a job's data, which comes before the queue.

use super::{At, limits};
use crate::command::Indexed;
use crate::core::{Core, Refusal};
use crate::ids::{JobId, Time};
use crate::job::{Job, Phase};
use crate::record::{Change, Event};

type Decision = Result<Vec<Event>, Refusal>;

/// The manifests are written: the job is queued as if it had been submitted with them.
pub(super) fn done(core: &Core, at: At, id: &JobId, indexed: &Indexed) -> Decision {
    indexing(core, id)?;
    let indexed = indexed.clone();
    Ok(vec![at.record(id, Change::Indexed { indexed })])
}

/// The index failed for good: another try, or the end.
pub(super) fn failed(core: &Core, at: At, id: &JobId, code: &str, message: &str) -> Decision {
    let job = indexing(core, id)?;
    Ok(vec![at.record(id, limits::failed(at, job, code, message.to_owned()))])
}

/// Whether a job's data is to be indexed now.
pub(crate) fn index_is_due(now: Time, job: &Job) -> bool {
    job.phase == Phase::Indexing && job.backoff.as_ref().is_none_or(|backoff| backoff.until <= now)
}

/// A job that was paused, or is over, has no use for an index that was under way.
fn indexing<'a>(core: &'a Core, id: &JobId) -> Result<&'a Job, Refusal> {
    let job = core.state().job(id).ok_or(Refusal::NotOutstanding)?;
    (job.phase == Phase::Indexing).then_some(job).ok_or(Refusal::NotOutstanding)
}
