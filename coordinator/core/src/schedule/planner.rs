//! The plan: workers in the place of lost ones, gangs in the queue's order, a reservation for its head and for the first of each
//! namespace, loans behind them, growth when nobody waits.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::explain::{EndsWhen, Reason, Wait};
use super::{Admission, Growth, Plan, Replacement, order, supply};
use super::{reclaim, repair, rooms, stragglers};
use crate::core::Core;
use crate::ids::{JobId, Pace, Time, WorkerId};
use crate::job::{Ending, Job, Phase, Stage};
use crate::policy::{Condition, Dependency, OnPreemption};
use crate::state::State;
use reclaim::Amount;
use repair::Degraded;
use rooms::Room;

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
    planner.keep_rooms();
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
    /// The free workers are reserved for it.
    head: Option<Head<'a>>,
    rooms: BTreeMap<&'a str, Room<'a>>,
    /// The active jobs by namespace, once somebody has asked.
    active: OnceCell<BTreeMap<&'a str, Vec<&'a Job>>>,
    /// The most that each admitted job could use, by its place among the admissions.
    wishes: Vec<(&'a Job, usize)>,
    plan: Plan,
}

/// The first job of the queue that waits for workers, and for nothing of its quota that its siblings would not give it.
struct Head<'a> {
    job: &'a Job,
    /// Whether what is reserved for it may be lent meanwhile.
    may_lend: bool,
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
            active: OnceCell::new(),
            wishes: Vec::new(),
            plan: Plan::default(),
        }
    }

    fn room(&mut self, job: &'a Job) -> &mut Room<'a> {
        let (core, namespace) = (self.core, job.submission.namespace.as_str());
        self.rooms.entry(namespace).or_insert_with(|| Room::of(core, namespace))
    }

    /// Workers in the place of lost ones, as far as nobody of higher priority waits for them. Until the group can take
    /// them in they are kept for it.
    fn repair(&mut self, degraded: &Degraded<'a>) {
        if self.head.is_some() {
            return;
        }
        // The quota still counts those that are lost.
        let allowed = self.room(degraded.job).workers_to_spare().saturating_add(degraded.lost);
        let joining = degraded.missing.min(self.free).min(allowed);
        if joining == 0 {
            return;
        }
        self.free -= joining;
        self.room(degraded.job).use_more(joining.saturating_sub(degraded.lost), 0);
        self.plan.repairs.insert(degraded.job.id.clone(), joining);
        if self.is_settled && runs_undisturbed(self.core, self.now, degraded.job) {
            self.plan.growth.push(Growth { job: degraded.job.id.clone(), joining });
        }
    }

    /// Decides about the next job of the queue.
    fn place(&mut self, job: &'a Job) {
        let (reason, ends_when) = self.obstacle(job).unwrap_or_else(|| self.seat(job));
        self.plan.waits.push(Wait { job: job.id.clone(), reason, ends_when });
    }

    /// What keeps a job from starting whoever gave way to it.
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
        if let Some(too_small) = self.room(job).too_small(needed) {
            return Some(too_small);
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

    /// Decides about a job that could start if others of the cluster, or of its namespace, gave way.
    fn seat(&mut self, job: &'a Job) -> (Reason, EndsWhen) {
        let room = self.room(job);
        let (lack, is_first) = (room.lack(job.submission.min_world_size()), room.first.is_none());
        let decided = match () {
            () if !is_first => self.lend(job, lack),
            () if !self.may_obtain(job, lack) => self.room(job).explain(lack),
            () if self.head.is_some() => self.lend(job, lack),
            () => self.admit_or_reserve(job, lack),
        };
        if is_first && decided.0 != Reason::Starting {
            self.room(job).first = Some(job);
        }
        decided
    }

    /// Whether a job that lacks so much of its quota can expect that from its siblings without that one of them ends.
    fn may_obtain(&self, job: &'a Job, lack: Amount) -> bool {
        let siblings = || {
            let active = self.active.get_or_init(|| by_namespace(self.core.state().active_jobs()));
            active.get(job.submission.namespace.as_str()).into_iter().flatten().copied()
        };
        lack.is_nothing() || reclaim::obtainable(self.core, self.now, job, siblings()).covers(lack)
    }

    fn admit_or_reserve(&mut self, job: &'a Job, lack: Amount) -> (Reason, EndsWhen) {
        let needed = job.submission.min_world_size();
        let usable = job.submission.max_world_size().min(self.room(job).workers_left());
        let enough = if self.is_settled { needed } else { usable };
        if lack.is_nothing() && self.free >= enough {
            self.admit(job, enough, usable, false);
            return (Reason::Starting, EndsWhen::Now);
        }
        self.plan.is_contended = true;
        if lack.is_nothing() && self.free >= needed {
            self.head = Some(Head { job, may_lend: false });
            let settles = self.core.presence().arrival_at + self.core.timings().settle;
            return (Reason::Settling { free: self.free }, EndsWhen::At(settles));
        }
        let more = needed.saturating_sub(self.free);
        let freeing = reclaim::for_head(self.core, self.now, job, Amount { workers: more, ..lack });
        self.head = Some(Head { job, may_lend: freeing.is_empty() && self.is_settled });
        if freeing.is_empty() {
            return match more {
                0 => self.room(job).explain(lack),
                more => (Reason::Workers { free: self.free, needed }, EndsWhen::WorkersFree { more }),
            };
        }
        self.plan.preemptions = freeing.preemptions;
        self.plan.shrinks = freeing.shrinks;
        (Reason::Freeing { from: freeing.from.clone() }, EndsWhen::Stopped(freeing.from))
    }

    /// A job behind another may have what is reserved for that one but does not suffice for it, on loan. A job that a
    /// pre-emption would end gets none: a loan is made to be called in.
    fn lend(&mut self, job: &'a Job, lack: Amount) -> (Reason, EndsWhen) {
        let needed = job.submission.min_world_size();
        let may_lend = self.is_settled && self.head.as_ref().is_none_or(|head| head.may_lend);
        let returns = job.submission.scheduling.on_preemption == OnPreemption::Requeue;
        if may_lend && returns && lack.is_nothing() && self.free >= needed {
            self.admit(job, needed, needed, true);
            return (Reason::Starting, EndsWhen::Now);
        }
        let (head, first) = (self.head.as_ref().map(|head| head.job), self.room(job).first);
        match (head, first) {
            (head, Some(first)) if head.is_none_or(|head| head.id != first.id && !lack.is_nothing()) => {
                let head = first.id.clone();
                (Reason::BehindSibling { head: head.clone() }, EndsWhen::Starts(head))
            }
            (Some(head), _) => {
                let head = head.id.clone();
                (Reason::Behind { head: head.clone() }, EndsWhen::Starts(head))
            }
            (None, _) => (Reason::Starting, EndsWhen::Now),
        }
    }

    fn admit(&mut self, job: &'a Job, workers: usize, usable: usize, is_loan: bool) {
        self.free -= workers;
        self.room(job).use_more(workers, 1);
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
            let more = usable.saturating_sub(granted).min(self.free).min(self.room(job).workers_to_spare());
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
            let joining = room.min(self.free).min(self.room(job).workers_to_spare());
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

    /// Groups that form anew leave to waiting jobs of their namespaces what is kept for these.
    fn keep_rooms(&mut self) {
        let kept = self.rooms.iter().filter(|(_, room)| room.kept() > 0);
        self.plan.kept = kept.map(|(namespace, room)| ((*namespace).to_owned(), room.kept())).collect();
    }

    fn take(&mut self, job: &'a Job, workers: usize) {
        self.free -= workers;
        self.room(job).use_more(workers, 0);
    }
}

fn by_namespace<'a>(jobs: impl Iterator<Item = &'a Job>) -> BTreeMap<&'a str, Vec<&'a Job>> {
    let mut by_namespace: BTreeMap<&str, Vec<&Job>> = BTreeMap::new();
    for job in jobs {
        by_namespace.entry(job.submission.namespace.as_str()).or_default().push(job);
    }
    by_namespace
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
