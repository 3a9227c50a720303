//! Who gives way to the head of the queue: surplus of elastic jobs, loans, and gangs of lower priority. What the head lacks of
//! its namespace's quota only its siblings, the jobs of the same namespace, can give.

use std::cmp::Reverse;

use super::planner::{may_reshape, runs_since};
use super::{Preemption, Shrink, order};
use crate::core::Core;
use crate::ids::{JobId, Time};
use crate::job::{Job, Stage};
use crate::policy::StopCause;

/// What the head lacks, or what others can give it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amount {
    /// Free workers.
    pub(super) workers: usize,
    /// Workers of the quota of the head's namespace.
    pub(super) room: usize,
    /// Running jobs of that quota.
    pub(super) running: usize,
}

impl Amount {
    fn plus(self, more: Self) -> Self {
        let (workers, room) = (self.workers + more.workers, self.room + more.room);
        Self { workers, room, running: self.running + more.running }
    }

    fn less(self, part: Self) -> Self {
        Self {
            workers: self.workers.saturating_sub(part.workers),
            room: self.room.saturating_sub(part.room),
            running: self.running.saturating_sub(part.running),
        }
    }

    pub(super) fn covers(self, lack: Self) -> bool {
        lack.less(self).is_nothing()
    }

    pub(super) fn is_nothing(self) -> bool {
        (self.workers, self.room, self.running) == (0, 0, 0)
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Self::plus)
    }
}

/// What is made free for the head.
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

/// What is to be done so that the head no longer lacks anything; nothing unless it suffices, so that nobody gives way in vain.
pub(super) fn for_head(core: &Core, now: Time, head: &Job, lack: Amount) -> Freeing {
    let jobs = core.state().active_jobs().filter(|job| lack.workers > 0 || is_sibling(head, job));
    let incoming = jobs.map(|job| (job, leaving(head, job))).filter(|(_, coming)| !coming.is_nothing());
    let incoming: Vec<(&Job, Amount)> = incoming.collect();
    let from: Vec<JobId> = incoming.iter().map(|(job, _)| job.id.clone()).collect();
    let lack = lack.less(incoming.iter().map(|(_, coming)| *coming).sum());
    if lack.is_nothing() {
        return Freeing { from, ..Freeing::default() };
    }
    if !may_judge(core, now) {
        return Freeing::default();
    }
    let mut givers: Vec<Giver> = core.state().active_jobs().filter_map(|job| Giver::of(core, now, head, job)).collect();
    if !choose(&mut givers, lack) {
        return Freeing::default();
    }
    let shrinks = shrinks(&givers, lack, &head.id);
    let preemptions: Vec<Preemption> = givers.into_iter().filter_map(Giver::preemption).collect();
    let mut all = from;
    all.extend(preemptions.iter().map(|preemption| preemption.victim.clone()));
    all.extend(shrinks.iter().map(|shrink| shrink.job.clone()));
    Freeing { preemptions, shrinks, from: all }
}

/// What the siblings would give the head of their quota, now or once they may be asked: as long as that suffices, the quota
/// is no obstacle, and the head does not lose its place because a sibling forms anew, or borrows what is kept for it.
pub(super) fn obtainable<'a>(core: &Core, now: Time, head: &Job, siblings: impl Iterator<Item = &'a Job>) -> Amount {
    let gives = |job: &Job| match right(core, now, head, job) {
        Some(_) => Amount { workers: 0, room: size(job), running: 1 },
        None if job.priority <= head.priority => {
            let surplus = Amount { workers: 0, room: surplus(job), running: 0 };
            leaving(head, job).plus(surplus.less(leaving(head, job)))
        }
        None => leaving(head, job),
    };
    siblings.map(gives).sum()
}

fn is_sibling(head: &Job, job: &Job) -> bool {
    job.submission.namespace == head.submission.namespace
}

fn size(job: &Job) -> usize {
    job.group().map_or(0, |group| group.members.len())
}

/// What a job has above its minimum.
fn surplus(job: &Job) -> usize {
    size(job).saturating_sub(job.submission.min_world_size())
}

/// What so many workers of a job are to the head, and that the job stops if it does.
fn amount(workers: usize, is_sibling: bool, stops: bool) -> Amount {
    match is_sibling {
        true => Amount { workers, room: workers, running: usize::from(stops) },
        false => Amount { workers, ..Amount::default() },
    }
}

/// What a job is giving back already.
fn leaving(head: &Job, job: &Job) -> Amount {
    let Some(group) = job.group() else { return Amount::default() };
    let (size, is_sibling) = (group.members.len(), is_sibling(head, job));
    match (&group.stage, job.shrink_to) {
        _ if job.pause.is_some() || job.stopping.is_some() => amount(size, is_sibling, true),
        (Stage::Breaking { .. }, Some(to)) => amount(size.saturating_sub(to as usize), is_sibling, false),
        _ => Amount::default(),
    }
}

/// Nobody gives way while workers are still arriving, or may come back after a restart of the coordinator.
fn may_judge(core: &Core, now: Time) -> bool {
    now.since(core.presence().arrival_at) >= core.timings().settle && now >= core.grace_ends()
}

/// By which right the head may have all workers of a job. Who borrowed behind another one is no debtor of a head that it comes
/// before: it would borrow again at once.
fn right(core: &Core, now: Time, head: &Job, job: &Job) -> Option<StopCause> {
    let by = || head.id.clone();
    let was_there = || job.admitted_at.is_some_and(|at| head.phase_since <= at);
    match () {
        () if job.is_loan && was_there() && order::precedes(core, now, head, job) => {
            Some(StopCause::Reclaim { by: by() })
        }
        () if job.priority < head.priority => Some(StopCause::Preemption { by: by() }),
        () => None,
    }
}

/// A running job that can be made to give workers back.
struct Giver<'a> {
    job: &'a Job,
    is_sibling: bool,
    /// What it can do without.
    spare: Amount,
    /// All that it has.
    whole: Amount,
    right: Option<StopCause>,
    /// Loans come first, then the lowest priority, then who has the least to make again, then the youngest.
    cost: (bool, i32, u64, Reverse<Time>),
    is_victim: bool,
}

impl<'a> Giver<'a> {
    fn of(core: &Core, now: Time, head: &Job, job: &'a Job) -> Option<Self> {
        runs_since(job)?;
        let may_shrink = job.priority <= head.priority && may_reshape(core, now, job);
        let (spare, right) = (if may_shrink { surplus(job) } else { 0 }, right(core, now, head, job));
        if spare == 0 && right.is_none() {
            return None;
        }
        let group = job.group()?;
        let workers = group.members.len();
        let saved = job.newest_checkpoint().map_or(Time(0), |newest| newest.committed_at).max(group.formed_at);
        let at_risk = now.since(saved).as_secs().saturating_mul(workers as u64);
        let is_callable = matches!(right, Some(StopCause::Reclaim { .. }));
        let cost = (!is_callable, job.priority, at_risk, Reverse(job.submitted_at));
        let is_sibling = is_sibling(head, job);
        let (spare, whole) = (amount(spare, is_sibling, false), amount(workers, is_sibling, true));
        Some(Self { job, is_sibling, spare, whole, right, cost, is_victim: false })
    }

    /// A victim gives all its workers, but its surplus is no longer there besides.
    fn gain(&self) -> Amount {
        self.whole.less(self.spare)
    }

    fn preemption(self) -> Option<Preemption> {
        let cause = self.right.filter(|_| self.is_victim)?;
        Some(Preemption { victim: self.job.id.clone(), cause })
    }
}

/// Makes the cheapest jobs victims that, with the surplus of the others, cover what is missing. Returns whether that is
/// possible at all.
fn choose(givers: &mut [Giver], lack: Amount) -> bool {
    let mut covered: Amount = givers.iter().map(|giver| giver.spare).sum();
    givers.sort_by_key(|giver| giver.cost);
    // Siblings first, as far as the quota needs them: their workers count twice.
    let of_quota = Amount { workers: 0, ..lack };
    for (goal, is_of_quota) in [(of_quota, true), (lack, false)] {
        for giver in givers.iter_mut().filter(|giver| giver.right.is_some()) {
            if covered.covers(goal) {
                break;
            }
            if !giver.is_victim && (giver.is_sibling || !is_of_quota) {
                giver.is_victim = true;
                covered = covered.plus(giver.gain());
            }
        }
    }
    if !covered.covers(lack) {
        return false;
    }
    // A later, larger victim may have made an earlier one superfluous: the dearest are spared first.
    for giver in givers.iter_mut().rev().filter(|giver| giver.is_victim) {
        let without = covered.less(giver.gain());
        giver.is_victim = !without.covers(lack);
        covered = if giver.is_victim { covered } else { without };
    }
    true
}

/// What the victims leave is covered by the surplus of the others: of siblings first, as far as the quota needs it, the lowest
/// priority before others, then the largest surplus.
fn shrinks(givers: &[Giver], lack: Amount, by: &JobId) -> Vec<Shrink> {
    let (victims, mut others): (Vec<&Giver>, Vec<&Giver>) = givers.iter().partition(|giver| giver.is_victim);
    others.sort_by_key(|giver| (giver.job.priority, Reverse(giver.spare.workers), &giver.job.id));
    let mut missing = lack.less(victims.into_iter().map(|victim| victim.whole).sum());
    let mut gives = vec![0; others.len()];
    for is_of_quota in [true, false] {
        for (giver, gives) in others.iter().zip(&mut gives).filter(|(giver, _)| giver.is_sibling || !is_of_quota) {
            let wanted = if is_of_quota { missing.room } else { missing.workers };
            let more = wanted.min(giver.spare.workers - *gives);
            *gives += more;
            missing = missing.less(amount(more, giver.is_sibling, false));
        }
    }
    let giving = others.into_iter().zip(gives).filter(|(_, gives)| *gives > 0);
    giving
        .map(|(giver, gives)| Shrink { job: giver.job.id.clone(), to: size(giver.job) - gives, by: by.clone() })
        .collect()
}
