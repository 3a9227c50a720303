//! The state machine as its driver sees it.

use crate::attention::Attention;
use crate::command::Command;
use crate::config::Timings;
use crate::decide;
use crate::ids::{Generation, JobId, Step, Time, WorkerId};
use crate::job::{Job, Stage};
use crate::log_invariants::Check;
use crate::policy::{Bound, Policy};
use crate::presence::{Observation, Presence, Seen};
use crate::record::{Event, Record};
use crate::schedule::{self, Plan};
use crate::state::{State, members_of};
use crate::work::{self, Work};

/// Durable state, volatile presence, and the durations that decisions depend on.
#[derive(Debug, Clone)]
pub struct Core {
    timings: Timings,
    policy: Policy,
    state: State,
    presence: Presence,
    attention: Attention,
    /// The job with the newest transition: the next look goes on there.
    looked_at: Option<JobId>,
    /// What debug builds hold against every further record; none after a snapshot, which does not tell what came before.
    check: Option<Check>,
}

/// Why a command leads to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such job.
    UnknownJob(JobId),
    /// The same idempotency key has given this job.
    AlreadySubmitted(JobId),
    /// The job id is taken.
    JobIdTaken(JobId),
    /// The job is over.
    Ended(JobId),
    /// Only a job that has ended without success can be requeued.
    NotRequeueable(JobId),
    /// A job is to come after one that there is not.
    UnknownDependency(JobId),
    /// The namespace would use more than it may.
    OverQuota {
        /// Whose quota.
        namespace: String,
        /// Which bound of it.
        bound: Bound,
        /// What is allowed.
        limit: u32,
    },
    /// Only a paused job can be resumed.
    NotPaused(JobId),
    /// It is still on its way to being paused.
    StillPausing(JobId),
    /// The job has no such checkpoint, but those of these steps.
    UnknownCheckpoint {
        /// Which job.
        job: JobId,
        /// Which step.
        step: Step,
        /// The steps there are, oldest first.
        kept: Vec<Step>,
    },
    /// Going back would give up a checkpoint that someone has pinned.
    Pinned {
        /// Which job.
        job: JobId,
        /// The pinned checkpoint's step.
        step: Step,
    },
    /// A checkpoint is being committed; in a moment it is known what there is to go back from.
    StillCommitting(JobId),
    /// No worker of that name is connected.
    UnknownWorker(WorkerId),
    /// The worker is neither quarantined nor cordoned.
    NotQuarantined(WorkerId),
    /// Another live process has this worker id.
    WorkerIdTaken,
    /// The stream is not the worker's newest.
    StaleLink,
    /// The group is over.
    StaleGeneration(Generation),
    /// There is nothing of that kind to be done.
    NotOutstanding,
}

impl Core {
    /// A core that remembers these records and starts watching now.
    pub fn recover<'a>(timings: Timings, now: Time, records: impl IntoIterator<Item = &'a Record>) -> Self {
        Self::resume(timings, now, State::default(), records)
    }

    /// The same from the state that a snapshot holds, and the records since.
    pub fn resume<'a>(
        timings: Timings,
        now: Time,
        mut state: State,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Self {
        let is_checked = cfg!(debug_assertions) && state.jobs().next().is_none();
        let mut check = is_checked.then(Check::default);
        for record in records {
            if let Some(check) = &mut check {
                // What an earlier program has logged is taken as it is.
                check.next(&state, record);
            }
            state.apply(record);
        }
        let presence = Presence::new(now);
        let (policy, attention) = (Policy::default(), Attention::default());
        Self { timings, policy, state, presence, attention, looked_at: None, check }
    }

    /// The same core under the operator's rules.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// What the command leads to. Changes nothing.
    ///
    /// # Errors
    /// The [`Refusal`] that says why it leads to nothing.
    pub fn decide(&self, now: Time, command: &Command) -> Result<Vec<Event>, Refusal> {
        decide::decide(self, now, command)
    }

    /// Folds an event in.
    pub fn apply(&mut self, event: &Event) {
        #[cfg(debug_assertions)]
        let before: std::collections::BTreeMap<String, crate::usage::Usage> =
            self.state.usages().map(|(namespace, usage)| (namespace.to_owned(), *usage)).collect();
        if let (Some(check), Event::Record(record)) = (&mut self.check, event) {
            let found = check.next(&self.state, record);
            debug_assert!(found.is_empty(), "{record:?} broke {found:?}");
        }
        match event {
            Event::Record(record) => self.record(record),
            Event::Observation(observation) => self.observe(observation),
        }
        #[cfg(debug_assertions)]
        {
            let mut found = crate::invariants::violations(&self.state);
            found.extend(crate::invariants::quota_violations(&self.policy, &before, &self.state, event));
            debug_assert!(found.is_empty(), "{event:?} broke {found:?}");
        }
    }

    fn record(&mut self, record: &Record) {
        let regroups = record.change.may_regroup();
        let job = record.job.as_ref();
        let former = job.filter(|_| regroups).and_then(|job| self.state.job(job)).map(members_of).unwrap_or_default();
        self.state.apply(record);
        let Some(job) = job else { return };
        self.attention.rouse(job);
        if regroups {
            self.attention.regrouped(&former, job, &self.state, &self.presence);
        }
    }

    fn observe(&mut self, observation: &Observation) {
        let is_news = self.presence.apply(observation);
        match &observation.seen {
            Seen::Woke => self.attention.rouse_all(),
            Seen::Reviewed => {
                self.attention.reviewed(observation.at, &self.state, &self.presence, &self.timings);
            }
            seen => {
                let is_news = is_news || self.has_begun(seen);
                let Some(worker) = seen.worker().filter(|_| is_news) else { return };
                self.attention.seen(worker, &self.state);
                if let Some(job) = self.state.home_of(worker) {
                    self.attention.rouse(job);
                }
            }
        }
    }

    /// Whether a member of a group that forms is past the step that this was to begin from. Mostly it has said before that it has made
    /// its first step; but that may be lost with a stream, and who began from an older checkpoint gets there later.
    fn has_begun(&self, seen: &Seen) -> bool {
        let Seen::At { place: Some((job, generation, step)), .. } = seen else { return false };
        let group = self.state.job(job).and_then(Job::group).filter(|group| group.generation == *generation);
        group.is_some_and(|group| matches!(group.stage, Stage::Forming) && *step > group.step)
    }

    /// Decides a command and all that follows from it, and folds it in. The records are in the
    /// order in which they are to be logged; nothing of them may become known before they are.
    ///
    /// # Errors
    /// The [`Refusal`] that says why it leads to nothing.
    pub fn perform(&mut self, now: Time, command: &Command) -> Result<Vec<Record>, Refusal> {
        let events = self.decide(now, command)?;
        let mut records = Vec::new();
        self.absorb(events, &mut records);
        Ok(records)
    }

    /// Takes nobody's silence until now for a sign, nor the end of a stream: they could not be heard.
    pub fn wake(&mut self, now: Time) {
        self.apply(&Event::Observation(Observation { at: now, seen: Seen::Woke }));
    }

    /// Does what time and the present state call for, until there is nothing left.
    pub fn review(&mut self, now: Time) -> Vec<Record> {
        self.review_up_to(now, usize::MAX).0
    }

    /// The same, but at most about so many transitions, and whether that was all: what is left is for the next call, which
    /// goes on where this one ended, so that others are heard between.
    pub fn review_up_to(&mut self, now: Time, most: usize) -> (Vec<Record>, bool) {
        let mut records = Vec::new();
        while records.len() < most {
            let looked = decide::review(self, decide::At(now), self.looked_at.as_ref());
            let is_all = looked.events.iter().all(ends_a_look);
            self.presence.last_look = now;
            self.attention.passed_over(now, looked.passed_over);
            self.absorb(looked.events, &mut records);
            if is_all {
                return (records, true);
            }
            self.looked_at = records.last().and_then(|record| record.job.clone()).or(self.looked_at.take());
        }
        (records, false)
    }

    fn absorb(&mut self, events: Vec<Event>, records: &mut Vec<Record>) {
        for event in events {
            self.apply(&event);
            if let Event::Record(record) = event {
                records.push(record);
            }
        }
    }

    /// What is to be done in the world, derived from the state: doing it twice is the same as once.
    pub fn outstanding(&self, now: Time) -> impl Iterator<Item = Work> {
        work::outstanding(self, now)
    }

    /// The part of it that is to be done in the store.
    pub fn outstanding_in_store(&self, now: Time) -> impl Iterator<Item = Work> {
        work::in_store(self, now)
    }

    /// The part of it that members of groups are to be told, group by group in a circle from a job on: whoever tells it may
    /// stop after any group and go on there.
    pub fn outstanding_in_groups(
        &self,
        now: Time,
        first: Option<&JobId>,
    ) -> impl Iterator<Item = (&JobId, impl Iterator<Item = Work>)> {
        work::restless(self, now, first).map(|job| (&job.id, work::of_group(self, job)))
    }

    /// The part of it that is neither: what workers without a group are to be told, and of reports that have arrived.
    pub fn outstanding_besides(&self) -> impl Iterator<Item = Work> {
        work::of_others(self)
    }

    /// Who is about to get which workers, and why the others wait.
    pub fn plan(&self, now: Time) -> Plan {
        schedule::plan(self, now)
    }

    /// The fold of the log, for whoever goes on with it.
    pub fn into_state(self) -> State {
        self.state
    }

    /// The fold of the log.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is seen of the workers.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// How many workers are free, and how many are connected.
    pub fn workers_free(&self, now: Time) -> (usize, usize) {
        (schedule::free(self, now).len(), schedule::connected(self, now))
    }

    /// What a look may pass over.
    pub(crate) fn attention(&self) -> &Attention {
        &self.attention
    }

    /// The operator's rules.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The durations that decisions depend on.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Until when members that have not come back since this process started are waited for.
    pub(crate) fn grace_ends(&self) -> Time {
        self.presence.watching_since + self.timings.grace
    }
}

/// Whether an event says no more than that there is nothing to decide.
fn ends_a_look(event: &Event) -> bool {
    matches!(event, Event::Observation(Observation { seen: Seen::Reviewed, .. }))
}
