//! Which workers a job gets: all-or-nothing gangs, by priority, then by age.

use super::At;
use crate::core::Core;
use crate::ids::{JobId, Rank, Step, Time, WorkerId};
use crate::job::{Job, Member, Phase, Stage};
use crate::record::{BreakCause, Change, Event};

/// Why a queued job waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// It is about to start.
    Starting,
    /// Workers are still arriving: it starts when no more come, or when it has all it can use.
    Settling {
        /// Free workers.
        free: usize,
    },
    /// Not enough workers are free.
    Workers {
        /// Free workers.
        free: usize,
        /// What it needs at least.
        needed: usize,
        /// Connected workers, busy ones included.
        connected: usize,
    },
    /// This job comes first.
    Behind(JobId),
}

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

/// Starts the first queued job that can start.
pub(super) fn start(core: &Core, at: At) -> Option<Event> {
    let (job, _) = queue(core, at.0).into_iter().find(|(_, waiting)| *waiting == Waiting::Starting)?;
    let candidates = free_workers(core, at.0).map(Candidate::joiner).collect();
    Some(at.record(&job.id, form(core, job, candidates)))
}

/// Breaks up a running group that free workers can join.
pub(super) fn grow(core: &Core, at: At) -> Option<Event> {
    let settle = core.timings().settle;
    if at.0.since(core.presence().arrival_at) < settle {
        return None;
    }
    core.state().live_jobs().find_map(|job| {
        let group = job.group()?;
        let Stage::Running { since } = group.stage else {
            return None;
        };
        let joining = joiners(core, at, job).len();
        let room = job.submission.max_world_size().saturating_sub(group.members.len());
        let joining = joining.min(room);
        let untouched = job.pause.is_none() && group.completed.is_empty();
        if joining == 0 || !untouched || at.0.since(since) < settle {
            return None;
        }
        let change = Change::GroupBroken {
            generation: group.generation,
            cause: BreakCause::Growth { joining: u32::try_from(joining).unwrap_or(u32::MAX) },
            step: super::group::heard_step(core, &job.id, group),
        };
        Some(at.record(&job.id, change))
    })
}

/// For each queued job, in the order in which they are served, why it waits.
pub(crate) fn waiting(core: &Core, now: Time) -> Vec<(JobId, Waiting)> {
    let queue = queue(core, now).into_iter();
    queue.map(|(job, waiting)| (job.id.clone(), waiting)).collect()
}

/// The queue in its order. A job that could run with the workers there are holds back those after
/// it, so that a large one is not starved by small ones; one that needs more than there are does not.
fn queue(core: &Core, now: Time) -> Vec<(&Job, Waiting)> {
    let queued = core.state().live_jobs().filter(|job| job.phase == Phase::Queued);
    let mut queued: Vec<&Job> = queued.collect();
    if queued.is_empty() {
        return Vec::new();
    }
    queued.sort_by_key(|job| (-i64::from(job.submission.priority), job.submitted_at, &job.id));
    let free = free_workers(core, now).count();
    let connected = live_workers(core, now).count();
    let is_settled = now.since(core.presence().arrival_at) >= core.timings().settle;
    let mut first: Option<&JobId> = None;
    let mut verdict = |job| {
        let waiting = match first {
            Some(first) => Waiting::Behind(first.clone()),
            None => alone(job, free, connected, is_settled),
        };
        let needs_more_than_there_are =
            matches!(waiting, Waiting::Workers { needed, connected, .. } if needed > connected);
        if first.is_none() && !needs_more_than_there_are {
            first = Some(&job.id);
        }
        (job, waiting)
    };
    queued.into_iter().map(&mut verdict).collect()
}

/// Why a job would wait if it were the first.
fn alone(job: &Job, free: usize, connected: usize, is_settled: bool) -> Waiting {
    let (needed, usable) = (job.submission.min_world_size(), job.submission.max_world_size());
    match free {
        free if free < needed => Waiting::Workers { free, needed, connected },
        free if free < usable && !is_settled => Waiting::Settling { free },
        _ => Waiting::Starting,
    }
}

/// Free workers that may join this job: none while a queued job waits for them.
pub(super) fn joiners(core: &Core, at: At, job: &Job) -> Vec<Candidate> {
    let is_contended = queue(core, at.0)
        .iter()
        .any(|(_, waiting)| !matches!(waiting, Waiting::Workers { needed, connected, .. } if needed > connected));
    let has_room = job.pause.is_none();
    if is_contended || !has_room {
        return Vec::new();
    }
    free_workers(core, at.0).map(Candidate::joiner).collect()
}

/// Workers that can be talked to, belong to no group and are at work in none that is over.
fn free_workers(core: &Core, now: Time) -> impl Iterator<Item = &WorkerId> {
    live_workers(core, now).filter(|worker| {
        let is_at_work = core.presence().worker(worker).is_some_and(|presence| presence.at_work().is_some());
        core.state().job_of(worker).is_none() && !is_at_work
    })
}

fn live_workers(core: &Core, now: Time) -> impl Iterator<Item = &WorkerId> {
    let detection = core.timings().detection;
    core.presence()
        .workers()
        .filter(move |(_, presence)| presence.is_live(now, detection) && presence.leaving.is_none())
        .map(|(worker, _)| worker)
}

/// Whether the worker holds parameters of the job that are newer than any committed checkpoint.
pub(crate) fn holds_useful_state(core: &Core, job: &Job, worker: &WorkerId) -> bool {
    useful_step(core, job, worker).is_some()
}

fn useful_step(core: &Core, job: &Job, worker: &WorkerId) -> Option<Step> {
    let holding = core.presence().worker(worker)?.holding_of(&job.id)?;
    (holding.has_state && holding.step >= job.restore_step()).then_some(holding.step)
}

/// The next group of the job, with as many of the candidates as it can use: those with state
/// first, ranks as they were, then neighbours on a host side by side.
pub(super) fn form(core: &Core, job: &Job, mut candidates: Vec<Candidate>) -> Change {
    candidates.sort_by_cached_key(|candidate| {
        let host = core.presence().worker(&candidate.worker).map(|w| w.host.clone());
        let step = useful_step(core, job, &candidate.worker);
        (step.is_none(), candidate.former_rank, host, candidate.worker.clone())
    });
    candidates.truncate(job.submission.max_world_size());
    let members: Vec<Member> = candidates.iter().filter_map(|candidate| member(core, job, &candidate.worker)).collect();
    // The lowest rank among those at the highest step: `max_by_key` would give the last.
    let lead = (0..)
        .map(Rank)
        .zip(&members)
        .filter(|(_, member)| member.has_state)
        .min_by_key(|(rank, member)| (std::cmp::Reverse(member.step), *rank));
    let step = lead.map_or(job.restore_step(), |(_, member)| member.step);
    Change::GroupFormed {
        generation: job.generation.next(),
        lead: lead.map_or(Rank(0), |(rank, _)| rank),
        step,
        members,
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
