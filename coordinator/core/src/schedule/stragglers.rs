//! Ranks for which all others of their group wait.

use super::planner::{may_reshape, runs_undisturbed};
use crate::core::Core;
use crate::ids::{Pace, Time, WorkerId};
use crate::job::{Group, Job};

/// The slowest member of every group with one that is too slow, where the operator has such replaced: a group that has its
/// full size, runs undisturbed and was not reshaped just before.
pub(super) fn replaceable(core: &Core, now: Time) -> Vec<(&Job, &WorkerId, Pace)> {
    let rules = core.policy().stragglers;
    if !rules.replace {
        return Vec::new();
    }
    let candidates = core.state().active_jobs().filter_map(|job| {
        let group = job.group()?;
        let is_full = group.members.len() >= job.submission.max_world_size();
        let (worker, pace) = slowest(core, group).filter(|(_, pace)| *pace >= rules.slow)?;
        let may_change = is_full && runs_undisturbed(core, now, job) && may_reshape(core, now, job);
        may_change.then_some((job, worker, pace))
    });
    candidates.collect()
}

/// The member of a group that takes longest for its own part of a step, and how long.
pub(crate) fn slowest<'a>(core: &Core, group: &'a Group) -> Option<(&'a WorkerId, Pace)> {
    let members = group.members.iter().filter_map(|member| {
        let pace = core.presence().worker(&member.worker)?.pace_in(group.generation)?;
        Some((&member.worker, pace))
    });
    members.max_by_key(|(_, pace)| *pace)
}
