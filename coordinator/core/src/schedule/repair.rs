//! Groups that go on below their minimum after losses: idle workers belong to them first.

use super::order;
use crate::core::Core;
use crate::ids::Time;
use crate::job::{Group, Job, Stage};

/// A group that runs, or is about to, with fewer members than the job's minimum.
pub(super) struct Degraded<'a> {
    pub(super) job: &'a Job,
    /// Workers up to the minimum.
    pub(super) missing: usize,
    /// Members of the group that breaks up which can't be in the next.
    pub(super) lost: usize,
}

/// All such groups, in the order in which jobs are served. Borrowers are none: their workers are someone else's.
pub(super) fn degraded(core: &Core, now: Time) -> Vec<Degraded<'_>> {
    let shorthanded = core.state().active_jobs().filter_map(|job| {
        let group = job.group()?;
        let is_leaving = job.is_loan || job.pause.is_some() || job.stopping.is_some() || job.shrink_to.is_some();
        let lost = lost(core, now, job, group);
        let missing = job.submission.min_world_size().saturating_sub(group.members.len() - lost);
        (!is_leaving && group.completed.is_empty() && missing > 0).then_some(Degraded { job, missing, lost })
    });
    order::in_order(core, now, shorthanded.collect(), |degraded| degraded.job)
}

/// Members of a group that is breaking up which are not there any more, or are about to end.
fn lost(core: &Core, now: Time, job: &Job, group: &Group) -> usize {
    if !matches!(group.stage, Stage::Breaking { .. }) {
        return 0;
    }
    if let Some(lost) = core.attention().lost_of_calm(now, &job.id) {
        return lost;
    }
    let detection = core.timings().detection;
    let stays = |worker| {
        let seen = core.presence().worker(worker);
        seen.is_some_and(|seen| seen.is_live(now, detection) && !seen.is_leaving())
    };
    group.members.iter().filter(|member| !stays(&member.worker)).count()
}
