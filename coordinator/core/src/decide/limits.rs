//! What a job is allowed: tries after failures, time with workers, time in the queue, jobs before it.

use super::{At, group};
use crate::core::Core;
use crate::job::{Ending, Group, Job, Phase};
use crate::policy::{FailureClass, OnUnmet, StopCause};
use crate::record::{Change, Event};
use crate::schedule;

/// What follows from a failure that forming again would not help: another try, or the end.
pub(super) fn failed(at: At, job: &Job, code: &str, message: String) -> Change {
    let (class, code) = (FailureClass::of(code), code.to_owned());
    let retry = &job.submission.scheduling.retry;
    let attempt = job.retries.get(&class).copied().unwrap_or(0) + 1;
    if attempt > retry.tries(class) {
        return Change::Ended { ending: Ending::Failed { code, message } };
    }
    Change::Retried { class, code, message, attempt, not_before: at.0 + retry.wait(attempt) }
}

/// A waiting job whose time is up, or that can never start.
pub(super) fn review(core: &Core, at: At, job: &Job) -> Option<Event> {
    if !matches!(job.phase, Phase::Indexing | Phase::Queued) {
        return None;
    }
    let scheduling = &job.submission.scheduling;
    let is_late = |deadline| job.started_at.is_none() && at.0.since(job.submitted_at) >= deadline;
    let change = if scheduling.time_limit.is_some_and(|limit| job.active >= limit) {
        time_is_up(job)
    } else if let Some(deadline) = scheduling.queue_deadline.filter(|deadline| is_late(*deadline)) {
        let message = format!("did not start within {} s of its submission", deadline.as_secs_f64());
        end("queue_deadline", message)
    } else if scheduling.on_unmet == OnUnmet::Fail
        && let Some(other) = schedule::impossible(core.state(), job)
    {
        end("dependency", format!("job {other}, which comes before it, did not succeed"))
    } else {
        return None;
    };
    Some(at.record(&job.id, change))
}

/// A job with workers whose time is up: it checkpoints first if it has made a step since it began or was restored, but does not
/// get for ever for that, whatever becomes of its groups meanwhile.
pub(super) fn overdue(core: &Core, at: At, job: &Job, group: &Group) -> Option<Change> {
    let limit = job.submission.scheduling.time_limit?;
    let beyond = job.active_for(at.0).checked_sub(limit)?;
    if beyond >= core.timings().forming || group::has_nothing_to_save(core, job, group) {
        return Some(time_is_up(job));
    }
    let cause = StopCause::TimeLimit;
    job.stopping.is_none().then_some(Change::StopRequested { cause })
}

pub(super) fn time_is_up(job: &Job) -> Change {
    let limit = job.submission.scheduling.time_limit.unwrap_or_default();
    end("time_limit", format!("had workers for {} s, its time limit", limit.as_secs_f64()))
}

fn end(code: &str, message: String) -> Change {
    Change::Ended { ending: Ending::Failed { code: code.to_owned(), message } }
}
