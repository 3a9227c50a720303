//! Workers that are kept out of groups, and those that are to end.

use super::At;
use crate::core::{Core, Refusal};
use crate::flapping::Quarantine;
use crate::ids::WorkerId;
use crate::presence::Seen;
use crate::record::{Change, Event};

type Decision = Result<Vec<Event>, Refusal>;

/// A worker whose quarantine is over, or one that has been lost too often, or has failed.
pub(super) fn review(core: &Core, at: At) -> Option<Event> {
    let flaps = core.state().flaps();
    let mut quarantined = flaps.quarantined();
    let is_over = |quarantine: &Quarantine| quarantine.until.is_some_and(|until| until <= at.0);
    if let Some((worker, quarantine)) = quarantined.find(|(_, quarantine)| is_over(quarantine)) {
        let (worker, reason) = (worker.clone(), "its cool-down is over".to_owned());
        return Some(at.record_of(quarantine.job.as_ref(), Change::WorkerReleased { worker, reason }));
    }
    let rules = core.policy().flapping;
    let (worker, job, reason) = flaps.flapping(at.0, rules).next()?;
    let (worker, until) = (worker.clone(), at.0 + rules.cool_down);
    Some(at.record(job, Change::WorkerQuarantined { worker, until, reason }))
}

pub(super) fn release(core: &Core, at: At, worker: &WorkerId, reason: &str) -> Decision {
    let quarantine = core.state().flaps().quarantine(worker);
    let quarantine = quarantine.ok_or_else(|| Refusal::NotQuarantined(worker.clone()))?;
    let (worker, reason) = (worker.clone(), reason.to_owned());
    Ok(vec![at.record_of(quarantine.job.as_ref(), Change::WorkerReleased { worker, reason })])
}

/// A worker that is not there, or not yet, can be cordoned as well.
pub(super) fn cordon(core: &Core, at: At, worker: &WorkerId, reason: &str) -> Decision {
    let quarantine = core.state().flaps().quarantine(worker);
    if quarantine.is_some_and(|quarantine| quarantine.until.is_none()) {
        return Ok(Vec::new());
    }
    let (worker, reason) = (worker.clone(), reason.to_owned());
    Ok(vec![at.record_of(None, Change::WorkerCordoned { worker, reason })])
}

pub(super) fn drain(core: &Core, at: At, worker: &WorkerId, reason: &str) -> Decision {
    let seen = core.presence().worker(worker).filter(|seen| seen.is_live(at.0, core.timings().detection));
    let seen = seen.ok_or_else(|| Refusal::UnknownWorker(worker.clone()))?;
    if seen.is_leaving() {
        return Ok(Vec::new());
    }
    let (worker, incarnation, reason) = (worker.clone(), seen.incarnation.clone(), reason.to_owned());
    let drained = Change::WorkerDrained { worker: worker.clone(), incarnation, reason: reason.clone() };
    Ok(vec![at.record_of(None, drained), at.seen(Seen::AskedToEnd { worker, reason })])
}
