//! Whose workers the head of the queue gets: surplus of elastic jobs, loans, and gangs of lower priority.

use std::collections::{BTreeMap, BTreeSet};

use super::planner::{may_reshape, runs_since};
use super::{Preemption, Shrink};
use crate::core::Core;
use crate::ids::{JobId, Time};
use crate::job::{Job, Stage};
use crate::policy::StopCause;

/// Workers that are made free for the head.
#[derive(Debug, Default)]
pub(super) struct Freeing {
    pub(super) preemptions: Vec<Preemption>,
    pub(super) shrinks: Vec<Shrink>,
    /// Everybody who gives way, those already on their way included.
    pub(super) from: Vec<JobId>,
}

impl Freeing {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty()
    }
}

/// What is to be done so that `missing` workers get free; nothing unless it suffices, so that nobody gives way in vain.
pub(super) fn for_head(core: &Core, now: Time, head: &Job, missing: usize) -> Freeing {
    let (on_their_way, from) = incoming(core);
    if on_their_way >= missing {
        return Freeing { from, ..Freeing::default() };
    }
    if !may_judge(core, now) {
        return Freeing::default();
    }
    let missing = missing - on_their_way;
    let surplus = Surplus::of(core, now, head);
    let mut victims = if surplus.total() >= missing { Vec::new() } else { victims(core, now, head) };
    let covered = select(&mut victims, &surplus, missing);
    let Some(rest) = covered else {
        return Freeing::default();
    };
    let shrinks = surplus.cover(rest, &victims, &head.id);
    let preemptions: Vec<Preemption> = victims.into_iter().map(|victim| victim.preemption).collect();
    let mut all = from;
    all.extend(preemptions.iter().map(|preemption| preemption.victim.clone()));
    all.extend(shrinks.iter().map(|shrink| shrink.job.clone()));
    Freeing { preemptions, shrinks, from: all }
}

/// Workers that are being given back already, and by whom.
fn incoming(core: &Core) -> (usize, Vec<JobId>) {
    let (mut workers, mut from) = (0, Vec::new());
    for job in core.state().active_jobs() {
        let Some(group) = job.group() else { continue };
        let size = group.members.len();
        let coming = match (&group.stage, job.shrink_to) {
            _ if job.pause.is_some() || job.stopping.is_some() => size,
            (Stage::Breaking { .. }, Some(to)) => size.saturating_sub(to as usize),
            _ => 0,
        };
        if coming > 0 {
            workers += coming;
            from.push(job.id.clone());
        }
    }
    (workers, from)
}

/// Nobody gives way while workers are still arriving, or may come back after a restart of the coordinator.
fn may_judge(core: &Core, now: Time) -> bool {
    now.since(core.presence().arrival_at) >= core.timings().settle && now >= core.grace_ends()
}

/// A job that can be made to give way.
struct Victim {
    preemption: Preemption,
    workers: usize,
    /// Loans come first, then the lowest priority, then who has the least to make again, then the youngest.
    cost: (bool, i32, u64, std::cmp::Reverse<Time>),
}

fn victims(core: &Core, now: Time, head: &Job) -> Vec<Victim> {
    let jobs = core.state().active_jobs();
    let mut victims: Vec<Victim> = jobs.filter_map(|job| victim(now, head, job)).collect();
    victims.sort_by_key(|victim| victim.cost);
    victims
}

fn victim(now: Time, head: &Job, job: &Job) -> Option<Victim> {
    runs_since(job)?;
    let group = job.group()?;
    let by = head.id.clone();
    let is_callable = job.is_loan && head.phase_since <= job.admitted_at? && job.priority <= head.priority;
    let cause = match () {
        () if is_callable => StopCause::Reclaim { by },
        () if job.priority < head.priority => StopCause::Preemption { by },
        () => return None,
    };
    let workers = group.members.len();
    let saved = job.newest_checkpoint().map_or(Time(0), |newest| newest.committed_at).max(group.formed_at);
    let at_risk = now.since(saved).as_secs().saturating_mul(workers as u64);
    let cost = (!is_callable, job.priority, at_risk, std::cmp::Reverse(job.submitted_at));
    let preemption = Preemption { victim: job.id.clone(), cause };
    Some(Victim { preemption, workers, cost })
}

/// Keeps the cheapest victims that, with the surplus of the others, cover what is missing. Returns what the surplus has to
/// cover; none when all together don't suffice.
fn select(victims: &mut Vec<Victim>, surplus: &Surplus, missing: usize) -> Option<usize> {
    // A victim gives all its workers, but its surplus is no longer there besides.
    let gain = |victim: &Victim| victim.workers - surplus.of_job(&victim.preemption.victim);
    let mut covered = surplus.total();
    let mut count = 0;
    while covered < missing {
        covered += gain(victims.get(count)?);
        count += 1;
    }
    victims.truncate(count);
    // A later, larger victim may have made an earlier one superfluous: the dearest are spared first.
    for place in (0..count).rev() {
        let without = covered - gain(&victims[place]);
        if without >= missing {
            covered = without;
            victims.remove(place);
        }
    }
    let freed: usize = victims.iter().map(|victim| victim.workers).sum();
    Some(missing.saturating_sub(freed))
}

/// What running jobs that do not outrank the head have above their minimum.
struct Surplus {
    /// Job, size and surplus; the lowest priority gives first, then the largest surplus.
    jobs: Vec<(JobId, usize, usize)>,
    by_job: BTreeMap<JobId, usize>,
}

impl Surplus {
    fn of(core: &Core, now: Time, head: &Job) -> Self {
        let jobs = core.state().active_jobs().filter_map(|job| {
            runs_since(job)?;
            let size = job.group()?.members.len();
            let spare = size.saturating_sub(job.submission.min_world_size());
            let gives = spare > 0 && job.priority <= head.priority && may_reshape(core, now, job);
            gives.then_some((job, size, spare))
        });
        let mut jobs: Vec<_> = jobs.collect();
        jobs.sort_by_key(|(job, _, spare)| (job.priority, std::cmp::Reverse(*spare)));
        let by_job = jobs.iter().map(|(job, _, spare)| (job.id.clone(), *spare)).collect();
        Self { jobs: jobs.into_iter().map(|(job, size, spare)| (job.id.clone(), size, spare)).collect(), by_job }
    }

    fn total(&self) -> usize {
        self.by_job.values().sum()
    }

    fn of_job(&self, job: &JobId) -> usize {
        self.by_job.get(job).copied().unwrap_or(0)
    }

    fn cover(&self, mut missing: usize, victims: &[Victim], by: &JobId) -> Vec<Shrink> {
        let victims: BTreeSet<&JobId> = victims.iter().map(|victim| &victim.preemption.victim).collect();
        let mut shrinks = Vec::new();
        for (job, size, spare) in self.jobs.iter().filter(|(job, ..)| !victims.contains(job)) {
            let gives = missing.min(*spare);
            if gives > 0 {
                missing -= gives;
                shrinks.push(Shrink { job: job.clone(), to: size - gives, by: by.clone() });
            }
        }
        shrinks
    }
}
