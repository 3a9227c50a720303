//! Durable state: the fold of the log.

mod job;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::command::Submission;
use crate::flapping::Flaps;
use crate::ids::{JobId, Time, WorkerId};
use crate::job::{Job, Phase};
use crate::record::{Change, Record};
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

    /// The state after these records as well.
    #[must_use]
    pub fn after<'a>(mut self, records: impl IntoIterator<Item = &'a Record>) -> Self {
        records.into_iter().for_each(|record| self.apply(record));
        self
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

    /// How many of a namespace's jobs wait: in the queue or for their index, or paused, which may be queued again at any time.
    /// Looks at every live job.
    pub(crate) fn waiting(&self, namespace: &str) -> u32 {
        let of_namespace = self.live.values().filter(|job| job.submission.namespace == namespace);
        let paused = of_namespace.filter(|job| matches!(job.phase, Phase::Paused { .. })).count();
        self.usage(namespace).queued.saturating_add(u32::try_from(paused).unwrap_or(u32::MAX))
    }

    /// Every namespace that ever had a job, with what its jobs use.
    pub fn usages(&self) -> impl Iterator<Item = (&str, &Usage)> {
        self.usage.iter().map(|(namespace, usage)| (namespace.as_str(), usage))
    }

    /// Workers that were lost, those that are kept out of groups, and those that are to end.
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
        self.flaps.apply(record);
        let Some(id) = &record.job else { return };
        if let Change::Submitted { submission } = &record.change {
            self.submit(record.at, id, submission);
        }
        let Some(job) = self.live.get_mut(id).or_else(|| self.over.get_mut(id)) else {
            return;
        };
        if let Change::GroupBroken { cause, .. } = &record.change
            && let Some(group) = job.group()
        {
            self.flaps.broken(record.at, id, group, cause);
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
                self.membership.insert(worker, id.clone());
            }
        }
        let is_filed_well = job.needs_attention() == self.live.contains_key(id);
        let is_active = self.live.get(id).is_some_and(|job| job.group().is_some());
        if !is_filed_well && let Some(job) = self.live.remove(id).or_else(|| self.over.remove(id)) {
            self.file(job);
        } else if is_active {
            self.active.insert(id.clone());
        } else {
            self.active.remove(id);
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

    fn submit(&mut self, at: Time, id: &JobId, submission: &Submission) {
        if let Some(key) = &submission.idempotency_key {
            self.keys.insert((submission.namespace.clone(), key.clone()), id.clone());
        }
        self.by_age.insert((Reverse(at), id.clone()));
        self.file(Job::new(id.clone(), submission.clone(), at));
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
