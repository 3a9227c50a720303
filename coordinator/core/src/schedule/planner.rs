//! The plan: workers in the place of lost ones, gangs in the queue's order, a reservation for its head, loans behind it,
//! growth when nobody waits.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::explain::{EndsWhen, Reason, Wait};
use super::{Admission, Growth, Plan, Replacement, order, supply};
use super::{reclaim, repair, stragglers};
use crate::core::Core;
use crate::ids::{JobId, Pace, Time, WorkerId};
use crate::job::{Ending, Job, Phase, Stage};
use crate::policy::{Bound, Condition, Dependency, OnPreemption, Quota};
use crate::state::State;
use repair::Degraded;

pub(super) fn plan(core: &Core, now: Time) -> Plan {
    let queue = order::queue(core, now);
    let growable = growable(core, now);
    let mut degraded = repair::degraded(core, now).into_iter().peekable();
    let replaceable = stragglers::replaceable(core, now);
    if queue.is_empty() && growable.is_empty() && degraded.peek().is_none() && replaceable.is_empty() {
        return Plan::default();
    }
    let mut planner = Planner::new(core, now, supply::free(core, now).len());
    for job in queue {
        while let Some(degraded) = degraded.next_if(|degraded| degraded.job.priority >= job.priority) {
            planner.repair(&degraded);
        }
        planner.place(job);
    }
    degraded.for_each(|degraded| planner.repair(&degraded));
    planner.share_the_rest();
    planner.grow(growable);
    planner.replace(replaceable);
    planner.plan
}

struct Planner<'a> {
    core: &'a Core,
    now: Time,
    /// No worker has connected for a moment: those that start together have arrived.
    is_settled: bool,
    /// How many workers are connected, once somebody has asked: to count them is dear.
    connected: OnceCell<usize>,
    free: usize,
    head: Option<Head<'a>>,
    rooms: BTreeMap<&'a str, Room>,
    /// The most that each admitted job could use, by its place among the admissions.
    wishes: Vec<(&'a Job, usize)>,
    plan: Plan,
}

/// The first job of the queue that waits for workers and nothing else: the free ones are reserved for it.
struct Head<'a> {
    job: &'a Job,
    /// Whether they may be lent meanwhile.
    may_lend: bool,
}

/// What is left of a namespace's quota.
struct Room {
    quota: Quota,
    workers: u32,
    running: u32,
}

impl Room {
    fn workers_left(&self) -> usize {
        self.quota.max_workers.map_or(usize::MAX, |limit| limit.saturating_sub(self.workers) as usize)
    }
}

impl<'a> Planner<'a> {
    fn new(core: &'a Core, now: Time, free: usize) -> Self {
        let is_settled = now.since(core.presence().arrival_at) >= core.timings().settle;
        Self {
            core,
            now,
            is_settled,
            connected: OnceCell::new(),
            free,
            head: None,
            rooms: BTreeMap::new(),
            wishes: Vec::new(),
            plan: Plan::default(),
        }
    }

    fn room(&mut self, job: &'a Job) -> &mut Room {
        let (core, namespace) = (self.core, job.submission.namespace.as_str());
        self.rooms.entry(namespace).or_insert_with(|| {
            let usage = core.state().usage(namespace);
            Room { quota: core.policy().quota(namespace), workers: usage.workers, running: usage.running }
        })
    }

    /// Workers in the place of lost ones, as far as nobody of higher priority waits for them. Until the group can take
    /// them in they are kept for it.
    fn repair(&mut self, degraded: &Degraded<'a>) {
        if self.head.is_some() {
            return;
        }
        // The quota still counts those that are lost.
        let allowed = self.room(degraded.job).workers_left().saturating_add(degraded.lost);
        let joining = degraded.missing.min(self.free).min(allowed);
        if joining == 0 {
            return;
        }
        self.take(degraded.job, joining);
        self.plan.repairs.insert(degraded.job.id.clone(), joining);
        if self.is_settled && runs_undisturbed(self.core, self.now, degraded.job) {
            self.plan.growth.push(Growth { job: degraded.job.id.clone(), joining });
        }
    }

    /// Decides about the next job of the queue.
    fn place(&mut self, job: &'a Job) {
        let (reason, ends_when) = match self.obstacle(job) {
            Some(obstacle) => obstacle,
            None => match &self.head {
                None => self.admit_or_reserve(job),
                Some(_) => self.lend(job),
            },
        };
        self.plan.waits.push(Wait { job: job.id.clone(), reason, ends_when });
    }

    /// What keeps a job from starting however many workers were free.
    fn obstacle(&mut self, job: &'a Job) -> Option<(Reason, EndsWhen)> {
        let needed = job.submission.min_world_size();
        if let Some(backoff) = job.backoff.as_ref().filter(|backoff| backoff.until > self.now) {
            let reason = Reason::Backoff { class: backoff.class, attempt: backoff.attempt };
            return Some((reason, EndsWhen::At(backoff.until)));
        }
        if let Some(Dependency { job, condition }) = unmet(self.core.state(), job) {
            let (job, condition) = (job.clone(), *condition);
            return Some((Reason::Dependency { job: job.clone(), condition }, EndsWhen::Ends(job, condition)));
        }
        if let Some(over) = self.over_quota(job) {
            return Some(over);
        }
        if needed <= self.free {
            return None;
        }
        let connected = *self.connected.get_or_init(|| supply::connected(self.core, self.now));
        (needed > connected).then(|| {
            let more = needed - connected;
            (Reason::TooFewConnected { connected, needed }, EndsWhen::WorkersConnect { more })
        })
    }

    fn over_quota(&mut self, job: &'a Job) -> Option<(Reason, EndsWhen)> {
        let room = self.room(job);
        let workers = (Bound::Workers, room.workers, job.submission.min_workers, room.quota.max_workers);
        let running = (Bound::Running, room.running, 1, room.quota.max_running);
        [workers, running].into_iter().find_map(|(bound, used, more, limit)| {
            let limit = limit?;
            let by = used.saturating_add(more).checked_sub(limit).filter(|by| *by > 0)?;
            Some((Reason::Quota { bound, used, limit }, EndsWhen::NamespaceUsesLess { bound, by }))
        })
    }

    fn admit_or_reserve(&mut self, job: &'a Job) -> (Reason, EndsWhen) {
        let needed = job.submission.min_world_size();
        let usable = job.submission.max_world_size().min(self.room(job).workers_left());
        let enough = if self.is_settled { needed } else { usable };
        if self.free >= enough {
            self.admit(job, enough, usable, false);
            return (Reason::Starting, EndsWhen::Now);
        }
        self.plan.is_contended = true;
        if self.free >= needed {
            self.head = Some(Head { job, may_lend: false });
            let settles = self.core.presence().arrival_at + self.core.timings().settle;
            return (Reason::Settling { free: self.free }, EndsWhen::At(settles));
        }
        let freeing = reclaim::for_head(self.core, self.now, job, needed - self.free);
        self.head = Some(Head { job, may_lend: freeing.is_empty() && self.is_settled });
        if freeing.is_empty() {
            let more = needed - self.free;
            return (Reason::Workers { free: self.free, needed }, EndsWhen::WorkersFree { more });
        }
        self.plan.preemptions = freeing.preemptions;
        self.plan.shrinks = freeing.shrinks;
        (Reason::Freeing { from: freeing.from.clone() }, EndsWhen::Stopped(freeing.from))
    }

    /// A job behind the head may have reserved workers that don't suffice for the head, on loan. A job that a pre-emption
    /// would end gets none: a loan is made to be called in.
    fn lend(&mut self, job: &'a Job) -> (Reason, EndsWhen) {
        let Some(Head { job: head, may_lend }) = &self.head else {
            return (Reason::Starting, EndsWhen::Now);
        };
        let (head, may_lend) = (head.id.clone(), *may_lend);
        let needed = job.submission.min_world_size();
        let returns = job.submission.scheduling.on_preemption == OnPreemption::Requeue;
        if may_lend && returns && self.free >= needed {
            self.admit(job, needed, needed, true);
            return (Reason::Starting, EndsWhen::Now);
        }
        (Reason::Behind { head: head.clone() }, EndsWhen::Starts(head))
    }

    fn admit(&mut self, job: &'a Job, workers: usize, usable: usize, is_loan: bool) {
        self.free -= workers;
        let room = self.room(job);
        room.workers = room.workers.saturating_add(u32::try_from(workers).unwrap_or(u32::MAX));
        room.running += 1;
        self.wishes.push((job, usable));
        self.plan.admissions.push(Admission { job: job.id.clone(), workers, is_loan });
    }

    /// Workers that nobody waits for go to those who start anyway, in the queue's order.
    fn share_the_rest(&mut self) {
        if self.head.is_some() {
            return;
        }
        for (place, (job, usable)) in std::mem::take(&mut self.wishes).into_iter().enumerate() {
            let granted = self.plan.admissions[place].workers;
            let more = usable.saturating_sub(granted).min(self.free).min(self.room(job).workers_left());
            self.take(job, more);
            self.plan.admissions[place].workers += more;
        }
    }

    /// What is still left goes to jobs that run and may grow.
    fn grow(&mut self, growable: Vec<&'a Job>) {
        if self.head.is_some() || !self.is_settled || self.free == 0 {
            return;
        }
        for job in order::in_order(self.core, self.now, growable, |job| *job) {
            let repaired = self.plan.repairs.get(&job.id).copied().unwrap_or(0);
            let size = job.group().map_or(0, |group| group.members.len()) + repaired;
            let room = job.submission.max_world_size().saturating_sub(size);
            let joining = room.min(self.free).min(self.room(job).workers_left());
            if joining > 0 {
                self.take(job, joining);
                self.plan.growth.retain(|growth| growth.job != job.id);
                self.plan.growth.push(Growth { job: job.id.clone(), joining: joining + repaired });
            }
        }
    }

    /// Idle workers that nobody else has a use for take the places of slow ones; the quota is used as before.
    fn replace(&mut self, replaceable: Vec<(&'a Job, &'a WorkerId, Pace)>) {
        if self.head.is_some() || !self.is_settled {
            return;
        }
        for (job, worker, pace) in replaceable {
            if self.free == 0 {
                return;
            }
            self.free -= 1;
            self.plan.replacements.push(Replacement { job: job.id.clone(), worker: worker.clone(), pace });
        }
    }

    fn take(&mut self, job: &'a Job, workers: usize) {
        self.free -= workers;
        let room = self.room(job);
        room.workers = room.workers.saturating_add(u32::try_from(workers).unwrap_or(u32::MAX));
    }
}

/// Jobs that run undisturbed, could use more workers and were not reshaped just before.
fn growable(core: &Core, now: Time) -> Vec<&Job> {
    let candidates = core.state().active_jobs().filter(|job| {
        let has_room = job.group().is_some_and(|group| group.members.len() < job.submission.max_world_size());
        has_room && runs_undisturbed(core, now, job)
    });
    candidates.filter(|job| may_reshape(core, now, job)).collect()
}

/// Whether a job has run for long enough that another change of its group does not come upon the last.
pub(super) fn runs_undisturbed(core: &Core, now: Time, job: &Job) -> bool {
    runs_since(job).is_some_and(|since| now.since(since) >= core.timings().settle)
}

/// Since when a job runs, if nothing is being done to its group.
pub(super) fn runs_since(job: &Job) -> Option<Time> {
    let group = job.group()?;
    let Stage::Running { since } = group.stage else {
        return None;
    };
    (job.pause.is_none() && job.stopping.is_none() && group.completed.is_empty()).then_some(since)
}

/// Whether a job's last growth or shrinking is long enough ago for another.
pub(super) fn may_reshape(core: &Core, now: Time, job: &Job) -> bool {
    job.reshaped_at.is_none_or(|at| now.since(at) >= core.policy().reshape_every)
}

/// The first dependency that is not met yet.
pub(crate) fn unmet<'a>(state: &State, job: &'a Job) -> Option<&'a Dependency> {
    let mut dependencies = job.submission.scheduling.after.iter();
    dependencies.find(|dependency| !is_met(state, dependency))
}

fn is_met(state: &State, dependency: &Dependency) -> bool {
    match state.job(&dependency.job).map(|job| &job.phase) {
        Some(Phase::Ended(Ending::Succeeded { .. })) => true,
        Some(Phase::Ended(_)) => dependency.condition == Condition::Ended,
        _ => false,
    }
}

/// The dependency that can't be met any more unless someone requeues the other job.
pub(crate) fn impossible<'a>(state: &State, job: &'a Job) -> Option<&'a JobId> {
    let mut dependencies = job.submission.scheduling.after.iter();
    let missed = dependencies.find(|dependency| {
        let has_ended = state.job(&dependency.job).is_none_or(Job::has_ended);
        has_ended && !is_met(state, dependency)
    });
    missed.map(|dependency| &dependency.job)
}
