//! The workers there are.

use crate::core::Core;
use crate::ids::{Time, WorkerId};
use crate::presence::WorkerPresence;

/// Workers that can be talked to, are not quarantined, belong to no group and are at work in none that is over; by id.
pub(crate) fn free(core: &Core, now: Time) -> Vec<&WorkerId> {
    let bystanders = core.attention().bystanders();
    let seen = bystanders.filter_map(|worker| Some((worker, core.presence().worker(worker)?)));
    let free = seen.filter(|(worker, seen)| is_sound(core, now, worker, seen) && seen.at_work().is_none());
    free.map(|(worker, _)| worker).collect()
}

/// How many workers can be talked to, are not quarantined and don't end on purpose, busy ones included. Looks at every worker.
pub(crate) fn connected(core: &Core, now: Time) -> usize {
    core.presence().workers().filter(|(worker, seen)| is_sound(core, now, worker, seen)).count()
}

fn is_sound(core: &Core, now: Time, worker: &WorkerId, seen: &WorkerPresence) -> bool {
    let is_quarantined = || core.state().flaps().quarantine(worker).is_some();
    seen.is_live(now, core.timings().detection) && !seen.is_leaving() && !is_quarantined()
}
