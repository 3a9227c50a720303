//! Which workers a job gets: the plan says how many, this says who, and in which ranks.

use std::collections::BTreeMap;

use super::At;
use crate::core::Core;
use crate::ids::{JobId, Rank, Step, Time, WorkerId};
use crate::job::{Job, Member, Phase};
use crate::record::{BreakCause, Change, Event};
use crate::schedule::{self, Plan};

/// A worker that a group may be formed with.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) worker: WorkerId,
    /// Its rank in the group before, so that ranks stay as they are.
    former_rank: usize,
}

impl Candidate {
    pub(super) fn survivor(worker: &WorkerId, former_rank: usize) -> Self {
        let worker = worker.clone();
        Self { worker, former_rank }
    }

    fn joiner(worker: &WorkerId) -> Self {
        Self::survivor(worker, usize::MAX)
    }
}

/// Does what the plan says: admissions first, and when there are none, what makes room or uses it.
pub(super) fn carry_out(core: &Core, at: At) -> Vec<Event> {
    let plan = core.plan(at.0);
    let admissions = admissions(core, at, &plan);
    if !admissions.is_empty() {
        return admissions;
    }
    let mut events = Vec::new();
    for preemption in plan.preemptions {
        let cause = preemption.cause;
        events.push(at.record(&preemption.victim, Change::StopRequested { cause }));
    }
    let shrinks = plan.shrinks.into_iter().map(|shrink| {
        let to = u32::try_from(shrink.to).unwrap_or(u32::MAX);
        (shrink.job, BreakCause::Shrink { to, waiting: shrink.by })
    });
    let growth = plan.growth.into_iter().map(|growth| {
        let joining = u32::try_from(growth.joining).unwrap_or(u32::MAX);
        (growth.job, BreakCause::Growth { joining })
    });
    let replacements = plan.replacements.into_iter().map(|replacement| {
        let (worker, pace) = (replacement.worker, replacement.pace);
        (replacement.job, BreakCause::Straggler { worker, pace })
    });
    for (id, cause) in shrinks.chain(growth).chain(replacements) {
        let job = core.state().job(&id);
        let Some((job, group)) = job.and_then(|job| Some((job, job.group()?))) else { continue };
        let step = super::group::heard_step(core, &job.id, group);
        events.push(at.record(&id, Change::GroupBroken { generation: group.generation, cause, step }));
    }
    events
}

/// A group for each job that the plan admits.
fn admissions(core: &Core, at: At, plan: &Plan) -> Vec<Event> {
    if plan.admissions.is_empty() {
        return Vec::new();
    }
    let mut pool = Pool::of(core, at.0);
    let events = plan.admissions.iter().filter_map(|admission| {
        let job = core.state().job(&admission.job)?;
        let candidates = pool.take(core, job, admission.workers);
        let mut change = form(core, job, candidates);
        if let Change::GroupFormed { is_loan, .. } = &mut change {
            *is_loan = admission.is_loan;
        }
        Some(at.record(&job.id, change))
    });
    events.collect()
}

/// Free workers, host by host. Those that hold state which another job may still need come last.
struct Pool<'a> {
    workers: Vec<Option<&'a WorkerId>>,
    /// Where the workers are that hold a job's state.
    holders: BTreeMap<&'a JobId, Vec<usize>>,
    next: usize,
}

impl<'a> Pool<'a> {
    fn of(core: &'a Core, now: Time) -> Self {
        let free = schedule::free(core, now);
        let mut keyed: Vec<_> = free
            .into_iter()
            .filter_map(|worker| {
                let presence = core.presence().worker(worker)?;
                let holding = presence.holding.as_ref().map(|holding| &holding.job).filter(|id| {
                    let job = core.state().job(id);
                    job.is_some_and(|job| job.phase == Phase::Queued && holds_useful_state(core, job, worker))
                });
                Some((holding.is_some(), presence.host.as_str(), worker, holding))
            })
            .collect();
        keyed.sort_unstable();
        let mut holders: BTreeMap<&JobId, Vec<usize>> = BTreeMap::new();
        for (place, (_, _, _, holding)) in keyed.iter().enumerate() {
            if let Some(job) = holding {
                holders.entry(job).or_default().push(place);
            }
        }
        Self { workers: keyed.into_iter().map(|(_, _, worker, _)| Some(worker)).collect(), holders, next: 0 }
    }

    /// So many workers for a job: those with its state at the highest steps, then neighbours.
    fn take(&mut self, core: &Core, job: &Job, count: usize) -> Vec<Candidate> {
        let mut holders = self.holders.remove(&job.id).unwrap_or_default();
        let step = |place: &usize| self.workers[*place].and_then(|worker| useful_step(core, job, worker));
        holders.sort_by_key(|place| std::cmp::Reverse(step(place)));
        let mut taken: Vec<&WorkerId> =
            holders.into_iter().filter_map(|place| self.workers[place].take()).take(count).collect();
        while taken.len() < count
            && let Some(worker) = self.workers.get_mut(self.next)
        {
            taken.extend(worker.take());
            self.next += 1;
        }
        taken.into_iter().map(Candidate::joiner).collect()
    }
}

/// Free workers that may join this job, which has `survivors` left and `replaced` more that idle ones take the places of: none
/// while a queued job waits for them, nor for more of the namespace's quota than its other jobs leave.
pub(super) fn joiners(core: &Core, at: At, job: &Job, survivors: usize, replaced: usize) -> Vec<Candidate> {
    let lost = job.group().map_or(0, |group| group.members.len()).saturating_sub(survivors);
    let namespace = &job.submission.namespace;
    let usage = core.state().usage(namespace).workers as usize;
    let allowed = core.policy().quota(namespace).max_workers.map_or(usize::MAX, |limit| limit as usize);
    let left = allowed.saturating_add(lost).saturating_sub(usage);
    let places = job.submission.max_world_size().saturating_sub(survivors).min(left);
    let is_leaving = job.pause.is_some() || job.stopping.is_some() || job.shrink_to.is_some();
    if is_leaving || places == 0 {
        return Vec::new();
    }
    let mut pool = Pool::of(core, at.0);
    if pool.workers.is_empty() {
        return Vec::new();
    }
    let plan = core.plan(at.0);
    let ours = plan.repairs.get(&job.id).copied().unwrap_or(0);
    let others = plan.repairs.values().sum::<usize>() - ours;
    let unkept = left.saturating_sub(plan.kept.get(namespace).copied().unwrap_or(0)).max(replaced);
    let unclaimed = if plan.is_contended { 0 } else { pool.workers.len().saturating_sub(others).min(unkept) };
    pool.take(core, job, places.min(unclaimed.max(ours)))
}

/// Who is quarantined is in no group, unless it holds more of the job than all others: its steps would be lost.
pub(super) fn leave_out_quarantined(core: &Core, job: &Job, survivors: &mut Vec<Candidate>) {
    let is_sound = |candidate: &Candidate| core.state().flaps().quarantine(&candidate.worker).is_none();
    let step = |candidate: &Candidate| useful_step(core, job, &candidate.worker);
    let best = survivors.iter().filter(|survivor| is_sound(survivor)).filter_map(step).max();
    survivors.retain(|survivor| is_sound(survivor) || step(survivor) > best);
}

/// The place among the survivors of the one that an idle worker is to replace, if the others hold as much of the job.
pub(super) fn replaced(core: &Core, job: &Job, survivors: &[Candidate]) -> Option<usize> {
    let slow = survivors.iter().position(|survivor| job.replacing.as_ref() == Some(&survivor.worker))?;
    let step = |place: usize| useful_step(core, job, &survivors[place].worker);
    let best = (0..survivors.len()).filter(|place| *place != slow).map(step).max()?;
    (step(slow) <= best).then_some(slow)
}

/// A free worker that holds more of the job than all survivors, such as a member of an older group that had been
/// taken for lost, belongs to the next group whoever else waits for workers: else its steps would be made again. It
/// takes the place of a member that is gone, or else of the survivor that is furthest behind, so that the job gets no
/// more workers than its `places`.
pub(super) fn include_furthest(core: &Core, at: At, job: &Job, places: usize, survivors: &mut Vec<Candidate>) {
    let step = |worker: &WorkerId| useful_step(core, job, worker);
    let best = survivors.iter().filter_map(|survivor| step(&survivor.worker)).max();
    let free = schedule::free(core, at.0).into_iter().filter(|worker| step(worker) > best);
    let Some(furthest) = free.max_by_key(|worker| step(worker)).map(Candidate::joiner) else { return };
    if survivors.len() >= places
        && let Some((behind, _)) = survivors.iter().enumerate().min_by_key(|(_, survivor)| step(&survivor.worker))
    {
        survivors.remove(behind);
    }
    survivors.push(furthest);
}

/// Whether the worker holds parameters of the job that are newer than any committed checkpoint.
pub(crate) fn holds_useful_state(core: &Core, job: &Job, worker: &WorkerId) -> bool {
    useful_step(core, job, worker).is_some()
}

fn useful_step(core: &Core, job: &Job, worker: &WorkerId) -> Option<Step> {
    let holding = core.presence().worker(worker)?.holding_of(&job.id)?;
    let is_good = holding.has_state && holding.generation > job.discarded;
    (is_good && holding.step >= job.restore_step()).then_some(holding.step)
}

/// The next group of the job, with as many of the candidates as it can use: those with state
/// first, ranks as they were, then neighbours on a host side by side.
pub(super) fn form(core: &Core, job: &Job, mut candidates: Vec<Candidate>) -> Change {
    leave_out_quarantined(core, job, &mut candidates);
    candidates.sort_by_cached_key(|candidate| {
        let host = core.presence().worker(&candidate.worker).map(|w| w.host.clone());
        let step = useful_step(core, job, &candidate.worker);
        (step.is_none(), candidate.former_rank, host, candidate.worker.clone())
    });
    let most = job.submission.max_world_size();
    candidates.truncate(job.shrink_to.map_or(most, |to| most.min(to as usize)));
    let members: Vec<Member> = candidates.iter().filter_map(|candidate| member(core, job, &candidate.worker)).collect();
    // The lowest rank among those at the highest step: `max_by_key` would give the last.
    let lead = (0..)
        .map(Rank)
        .zip(&members)
        .filter(|(_, member)| member.has_state)
        .min_by_key(|(rank, member)| (std::cmp::Reverse(member.step), *rank));
    let step = lead.map_or(job.restore_step(), |(_, member)| member.step);
    // Workers outlive the restore of a backup that does not know their group.
    let holdings =
        candidates.iter().filter_map(|candidate| core.presence().worker(&candidate.worker)?.holding_of(&job.id));
    let newest = holdings.map(|holding| holding.generation).fold(job.newest_generation(), Ord::max);
    Change::GroupFormed {
        generation: newest.next(),
        lead: lead.map_or(Rank(0), |(rank, _)| rank),
        step,
        members,
        is_loan: false,
    }
}

fn member(core: &Core, job: &Job, worker: &WorkerId) -> Option<Member> {
    let presence = core.presence().worker(worker)?;
    let step = useful_step(core, job, worker);
    Some(Member {
        worker: worker.clone(),
        incarnation: presence.incarnation.clone(),
        store_address: presence.store_address.clone(),
        step: step.unwrap_or_default(),
        has_state: step.is_some(),
    })
}
