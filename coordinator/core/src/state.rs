//! Durable state: the fold of the log.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::{Indexed, Submission};
use crate::config::{FRUITLESS_FAILURE, FRUITLESS_LOSS};
use crate::flapping::{Flaps, Quarantine};
use crate::ids::{Generation, JobId, Step, Time, WorkerId};
use crate::job::{Attempt, Backoff, Branch, Checkpoint, Ending, Group, GroupStart, Job, Phase, Rewind, Stage};
use crate::record::{BreakCause, Change, Record};
use crate::usage::{Load, Usage};

/// All jobs and who belongs to which group. A function of the records alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Jobs about which something is still to be done.
    live: BTreeMap<JobId, Job>,
    /// The others: of very many jobs nearly all.
    over: BTreeMap<JobId, Job>,
    /// Live jobs with a group.
    active: BTreeSet<JobId>,
    by_age: BTreeSet<(Reverse<Time>, JobId)>,
    membership: BTreeMap<WorkerId, JobId>,
    keys: BTreeMap<(String, String), JobId>,
    usage: BTreeMap<String, Usage>,
    flaps: Flaps,
}

/// What of a state is no single job's: with the jobs it is all of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Common {
    usage: BTreeMap<String, Usage>,
    flaps: Flaps,
}

impl State {
    /// The state with these jobs, as snapshots have it in parts.
    pub fn of(jobs: impl IntoIterator<Item = Job>, common: Common) -> Self {
        let Common { usage, flaps } = common;
        let mut state = Self { usage, flaps, ..Self::default() };
        for job in jobs {
            if let Some(key) = &job.submission.idempotency_key {
                state.keys.insert((job.submission.namespace.clone(), key.clone()), job.id.clone());
            }
            state.membership.extend(members_of(&job).into_iter().map(|worker| (worker, job.id.clone())));
            state.by_age.insert((Reverse(job.submitted_at), job.id.clone()));
            state.file(job);
        }
        state
    }

    /// What of it is no single job's.
    pub fn common(&self) -> Common {
        Common { usage: self.usage.clone(), flaps: self.flaps.clone() }
    }

    /// The jobs that come after this one, or all, newest first; of those that were submitted together by id.
    pub fn jobs_by_age(&self, after: Option<&JobId>) -> impl Iterator<Item = &Job> {
        let after = after.and_then(|id| self.job(id)).map(|job| (Reverse(job.submitted_at), job.id.clone()));
        let ids = self.by_age.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        ids.filter_map(|(_, id)| self.job(id))
    }

    /// All jobs: those about which something is still to be done, then the others, each by id.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.live.values().chain(self.over.values())
    }

    /// The jobs about which something is still to be done, by id.
    pub fn live_jobs(&self) -> impl Iterator<Item = &Job> {
        self.live.values()
    }

    /// The jobs with a group, by id.
    pub(crate) fn active_jobs(&self) -> impl Iterator<Item = &Job> {
        self.active_jobs_from(None)
    }

    /// The same in a circle: this one, those after it, and then those before it.
    pub(crate) fn active_jobs_from<'a>(&'a self, first: Option<&JobId>) -> impl Iterator<Item = &'a Job> {
        let (from, before) = circle(first);
        let before = before.map(|before| self.active.range::<JobId, _>(before));
        let ids = self.active.range::<JobId, _>(from).chain(before.into_iter().flatten());
        ids.filter_map(|id| self.live.get(id))
    }

    /// The jobs about which something is still to be done, in the same circle.
    pub(crate) fn live_jobs_from<'a>(&'a self, first: Option<&JobId>) -> impl Iterator<Item = &'a Job> {
        let (from, before) = circle(first);
        let before = before.map(|before| self.live.range::<JobId, _>(before));
        self.live.range::<JobId, _>(from).chain(before.into_iter().flatten()).map(|(_, job)| job)
    }

    /// A job.
    pub fn job(&self, id: &JobId) -> Option<&Job> {
        self.live.get(id).or_else(|| self.over.get(id))
    }

    /// The job whose group the worker belongs to.
    pub fn job_of(&self, worker: &WorkerId) -> Option<&Job> {
        self.membership.get(worker).and_then(|id| self.live.get(id))
    }

    /// The same, by its id.
    pub(crate) fn home_of(&self, worker: &WorkerId) -> Option<&JobId> {
        self.membership.get(worker)
    }

    /// What a namespace's jobs use.
    pub fn usage(&self, namespace: &str) -> Usage {
        self.usage.get(namespace).copied().unwrap_or_default()
    }

    /// Every namespace that ever had a job, with what its jobs use.
    pub fn usages(&self) -> impl Iterator<Item = (&str, &Usage)> {
        self.usage.iter().map(|(namespace, usage)| (namespace.as_str(), usage))
    }

    /// Workers that were lost, and those that are kept out of groups because of that.
    pub fn flaps(&self) -> &Flaps {
        &self.flaps
    }

    /// The job that was submitted with this key.
    pub(crate) fn job_with_key(&self, submission: &Submission) -> Option<&Job> {
        let key = submission.idempotency_key.as_deref()?;
        self.job_of_key(&submission.namespace, key)
    }

    /// The job that this idempotency key has given in the namespace.
    pub fn job_of_key(&self, namespace: &str, key: &str) -> Option<&Job> {
        let id = self.keys.get(&(namespace.to_owned(), key.to_owned()))?;
        self.job(id)
    }

    /// Folds a record in. Records that don't fit the state (there are none in a log that
    /// `decide` wrote) change nothing.
    pub(crate) fn apply(&mut self, record: &Record) {
        if let Change::Submitted { submission } = &record.change {
            self.submit(record, submission);
        }
        let Some(job) = self.live.get_mut(&record.job).or_else(|| self.over.get_mut(&record.job)) else {
            return;
        };
        match &record.change {
            Change::GroupBroken { cause, .. } => {
                if let Some(group) = job.group() {
                    self.flaps.broken(record.at, &record.job, group, cause);
                }
            }
            Change::WorkerQuarantined { worker, until, reason } => {
                let (job, reason) = (record.job.clone(), reason.clone());
                self.flaps.quarantine_worker(worker, Quarantine { job, since: record.at, until: *until, reason });
            }
            Change::WorkerReleased { worker, .. } => self.flaps.release(worker),
            _ => {}
        }
        // A job that is new counted for nothing before.
        let load = if matches!(record.change, Change::Submitted { .. }) { Load::default() } else { Load::of(job) };
        let generation = job.group().map(|group| group.generation);
        let before = if record.change.may_regroup() { members_of(job) } else { Vec::new() };
        job.apply(record.at, &record.change);
        debug_assert!(
            record.change.may_regroup() || job.group().map(|group| group.generation) == generation,
            "{:?} has changed the group",
            record.change
        );
        let usage = self.usage.entry(job.submission.namespace.clone()).or_default();
        usage.shift(record.at, load, Load::of(job));
        if record.change.may_regroup() {
            for worker in before {
                self.membership.remove(&worker);
            }
            for worker in members_of(job) {
                self.membership.insert(worker, record.job.clone());
            }
        }
        let is_filed_well = job.needs_attention() == self.live.contains_key(&record.job);
        let is_active = self.live.get(&record.job).is_some_and(|job| job.group().is_some());
        if !is_filed_well && let Some(job) = self.live.remove(&record.job).or_else(|| self.over.remove(&record.job)) {
            self.file(job);
        } else if is_active {
            self.active.insert(record.job.clone());
        } else {
            self.active.remove(&record.job);
        }
    }

    /// Puts a job where those of its kind are.
    fn file(&mut self, job: Job) {
        match job.group() {
            Some(_) => self.active.insert(job.id.clone()),
            None => self.active.remove(&job.id),
        };
        let kind = if job.needs_attention() { &mut self.live } else { &mut self.over };
        kind.insert(job.id.clone(), job);
    }

    fn submit(&mut self, record: &Record, submission: &Submission) {
        if let Some(key) = &submission.idempotency_key {
            let key = (submission.namespace.clone(), key.clone());
            self.keys.insert(key, record.job.clone());
        }
        self.by_age.insert((Reverse(record.at), record.job.clone()));
        let job = Job::new(record.job.clone(), submission.clone(), record.at);
        self.file(job);
    }
}

type Jobs<'a> = (Bound<&'a JobId>, Bound<&'a JobId>);

/// From the first on, and then what comes before it, if there is a first.
fn circle(first: Option<&JobId>) -> (Jobs<'_>, Option<Jobs<'_>>) {
    let Some(first) = first else { return ((Bound::Unbounded, Bound::Unbounded), None) };
    ((Bound::Included(first), Bound::Unbounded), Some((Bound::Unbounded, Bound::Excluded(first))))
}

pub(crate) fn members_of(job: &Job) -> Vec<WorkerId> {
    let members = job.group().into_iter().flat_map(|group| &group.members);
    members.map(|member| member.worker.clone()).collect()
}

impl Job {
    fn new(id: JobId, submission: Submission, at: Time) -> Self {
        let needs_index = submission.needs_index;
        Self {
            id,
            priority: submission.priority,
            submission,
            stopping: None,
            shrink_to: None,
            replacing: None,
            reshaped_at: None,
            admitted_at: None,
            is_loan: false,
            active: Duration::ZERO,
            retries: BTreeMap::new(),
            backoff: None,
            discarded: Generation(0),
            submitted_at: at,
            started_at: None,
            phase_since: at,
            phase: if needs_index { Phase::Indexing } else { Phase::Queued },
            generation: Generation(0),
            groups: Vec::new(),
            pause: None,
            fruitless: 0,
            recoveries: 0,
            checkpoints: Vec::new(),
            committing: BTreeMap::new(),
            last_failed: None,
            retired: Vec::new(),
            litter_since: None,
            swept: Generation(0),
            rolled_back: None,
            abandoned: None,
            refused: None,
            skipped: 0,
            rewinds: Vec::new(),
        }
    }

    fn needs_attention(&self) -> bool {
        !self.has_ended()
            || !self.committing.is_empty()
            || !self.retired.is_empty()
            || self.abandoned.is_some()
            || self.litter_since.is_some()
    }

    fn enter(&mut self, at: Time, phase: Phase) {
        let (had, has) = (matches!(self.phase, Phase::Active(_)), matches!(phase, Phase::Active(_)));
        if had && !has {
            self.litter_since = Some(at);
            self.active = self.active_for(at);
            self.stopping = None;
            self.shrink_to = None;
            self.replacing = None;
            self.is_loan = false;
        }
        if !had && has {
            self.admitted_at = Some(at);
            self.backoff = None;
        }
        self.phase = phase;
        self.phase_since = at;
    }

    fn group_mut(&mut self) -> Option<&mut Group> {
        match &mut self.phase {
            Phase::Active(group) => Some(group),
            _ => None,
        }
    }

    fn apply(&mut self, at: Time, change: &Change) {
        match change {
            Change::Submitted { .. } | Change::WorkerQuarantined { .. } | Change::WorkerReleased { .. } => {}
            Change::Indexed { indexed } => self.take_index(at, indexed),
            Change::GroupFormed { .. } => self.form(at, change),
            Change::GroupRunning { .. } => self.set_stage(Stage::Running { since: at }),
            Change::EvaluationStarted { .. } => self.set_stage(Stage::Evaluating { since: at }),
            Change::MemberCompleted { worker, outcome, summary, .. } => {
                if let Some(group) = self.group_mut() {
                    group.completed.insert(worker.clone(), *outcome);
                    group.summary = summary.clone().or(group.summary.take());
                }
            }
            Change::GroupBroken { cause, step, .. } => self.break_up(at, cause, *step),
            Change::Requeued { .. } | Change::Preempted { .. } => self.enter(at, Phase::Queued),
            Change::Retried { class, attempt, not_before, .. } => {
                self.retries.insert(*class, *attempt);
                self.start_over(at);
                self.backoff = Some(Backoff { until: *not_before, class: *class, attempt: *attempt });
            }
            Change::Revived { .. } => {
                self.retries.clear();
                self.active = Duration::ZERO;
                self.start_over(at);
            }
            Change::PriorityChanged { priority } => self.priority = *priority,
            Change::StopRequested { cause } => self.stopping = Some(cause.clone()),
            Change::PauseRequested { reason } => self.pause = Some(reason.clone()),
            Change::Paused { reason } => {
                let reason = reason.clone();
                self.pause = None;
                self.enter(at, Phase::Paused { reason });
            }
            Change::Resumed => self.wait(at),
            Change::Ended { ending } => self.end(at, ending),
            Change::Swept => self.sweep(),
            Change::CheckpointWritten { .. }
            | Change::CheckpointCommitted { .. }
            | Change::CheckpointFailed { .. }
            | Change::CheckpointRetired { .. }
            | Change::CheckpointDeleted { .. } => self.apply_checkpoint(at, change),
            Change::CheckpointPinned { step, generation, reason } => self.pin(*step, *generation, Some(reason.clone())),
            Change::CheckpointUnpinned { step, generation, .. } => self.pin(*step, *generation, None),
            Change::UpdateSkipped { step, generation, .. } => {
                self.refused = Some((*generation, *step));
                self.skipped += 1;
            }
            Change::Rewound { step, to, generation, .. } => {
                self.refused = Some((*generation, *step));
                self.rewinds.push(Rewind { step: *step, to: *to, generation: *generation });
            }
            Change::RolledBack { step, generation, .. } => self.roll_back(*step, *generation),
            Change::BranchAbandoned { .. } => self.abandoned = None,
        }
    }

    /// It waits: for its index as long as it has none, else for workers.
    fn wait(&mut self, at: Time) {
        let phase = if self.submission.needs_index { Phase::Indexing } else { Phase::Queued };
        self.enter(at, phase);
    }

    fn take_index(&mut self, at: Time, indexed: &Indexed) {
        let Indexed { spec_json, spec_digest, data_digest, total_steps, sources: _ } = indexed.clone();
        let submission = &mut self.submission;
        (submission.spec_json, submission.spec_digest) = (spec_json, spec_digest);
        (submission.data_digest, submission.total_steps) = (data_digest, total_steps);
        submission.needs_index = false;
        self.backoff = None;
        self.wait(at);
    }

    fn form(&mut self, at: Time, change: &Change) {
        let Change::GroupFormed { generation, members, lead, step, is_loan } = change else {
            return;
        };
        self.generation = *generation;
        let world_size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        self.groups.push(GroupStart { generation: *generation, world_size, step: *step });
        self.is_loan |= is_loan;
        self.shrink_to = None;
        self.replacing = None;
        self.started_at.get_or_insert(at);
        self.enter(
            at,
            Phase::Active(Group {
                generation: *generation,
                members: members.clone(),
                lead: *lead,
                step: *step,
                formed_at: at,
                stage: Stage::Forming,
                completed: BTreeMap::new(),
                summary: None,
            }),
        );
    }

    /// It is queued again, and goes on from its newest checkpoint rather than from what workers still hold.
    fn start_over(&mut self, at: Time) {
        self.pause = None;
        self.fruitless = 0;
        self.discarded = self.generation;
        self.wait(at);
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(group) = self.group_mut() {
            group.stage = stage;
        }
    }

    fn break_up(&mut self, at: Time, cause: &BreakCause, step: Step) {
        let started_from = self.group().map_or(Step(0), |group| group.step);
        self.set_stage(Stage::Breaking { since: at, reason: cause.to_string() });
        self.litter_since = Some(at);
        if step > started_from {
            self.fruitless = 0;
        }
        let weight = match cause {
            BreakCause::Growth { .. } => {
                self.reshaped_at = Some(at);
                return;
            }
            BreakCause::Shrink { to, .. } => {
                self.reshaped_at = Some(at);
                self.shrink_to = Some(*to);
                return;
            }
            BreakCause::Straggler { worker, .. } => {
                self.reshaped_at = Some(at);
                self.replacing = Some(worker.clone());
                return;
            }
            BreakCause::Departure { .. } | BreakCause::Rollback { .. } => return,
            BreakCause::Failure { .. } => FRUITLESS_FAILURE,
            BreakCause::Lost { .. } => FRUITLESS_LOSS,
        };
        self.recoveries += 1;
        if step <= started_from {
            self.fruitless += weight;
        }
    }

    fn end(&mut self, at: Time, ending: &Ending) {
        self.pause = None;
        self.enter(at, Phase::Ended(ending.clone()));
    }

    fn sweep(&mut self) {
        self.litter_since = None;
        let is_active = self.group().is_some();
        self.swept = Generation(self.generation.0 - u64::from(is_active));
    }

    fn apply_checkpoint(&mut self, at: Time, change: &Change) {
        match change {
            Change::CheckpointWritten { step, generation, ranks } => {
                let ranks = ranks.clone();
                self.committing.insert((*step, *generation), Attempt { written_at: at, ranks });
            }
            Change::CheckpointCommitted { step, generation } => {
                if let Some(attempt) = self.committing.remove(&(*step, *generation)) {
                    self.checkpoints.push(Checkpoint {
                        step: *step,
                        generation: *generation,
                        bytes: attempt.bytes(),
                        committed_at: at,
                        parts: attempt.ranks.iter().map(|rank| rank.parts.len()).sum(),
                        pin: None,
                    });
                    self.checkpoints.sort_by_key(|checkpoint| checkpoint.step);
                }
            }
            Change::CheckpointFailed { step, generation, .. } => {
                self.committing.remove(&(*step, *generation));
                self.last_failed = Some((*step, *generation));
                self.litter_since = Some(at);
            }
            Change::CheckpointRetired { step, generation } => {
                let at = self.checkpoint_at(*step, *generation);
                let retired = at.map(|place| self.checkpoints.remove(place));
                self.retired.extend(retired);
            }
            Change::CheckpointDeleted { step, generation } => {
                self.retired.retain(|checkpoint| (checkpoint.step, checkpoint.generation) != (*step, *generation));
            }
            _ => {}
        }
    }

    fn pin(&mut self, step: Step, generation: Generation, pin: Option<String>) {
        if let Some(place) = self.checkpoint_at(step, generation) {
            self.checkpoints[place].pin = pin;
        }
    }

    fn roll_back(&mut self, step: Step, generation: Generation) {
        self.checkpoints.retain(|checkpoint| checkpoint.step <= step);
        self.rewinds.retain(|rewind| rewind.step <= step);
        self.discarded = generation;
        let branch = Some(Branch { after: step, through: generation });
        (self.rolled_back, self.abandoned) = (branch, branch);
        self.fruitless = 0;
        if let Some(group) = self.group_mut() {
            group.completed.clear();
        }
    }

    fn checkpoint_at(&self, step: Step, generation: Generation) -> Option<usize> {
        self.checkpoints.iter().position(|checkpoint| (checkpoint.step, checkpoint.generation) == (step, generation))
    }
}
