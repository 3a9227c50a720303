//! What is seen of one worker.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{Generation, Incarnation, JobId, Link, Pace, Step, Time};

/// What is seen of one worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerPresence {
    /// Its process.
    pub incarnation: Incarnation,
    /// Its stream, while there is one.
    pub link: Option<Link>,
    /// Its newest stream, even if it has ended.
    pub(crate) newest_link: Link,
    /// Its machine.
    pub host: String,
    /// `host:port` of its c10d store.
    pub store_address: String,
    /// When it last said anything.
    pub last_heard: Time,
    /// The process before it in its place, and when that last said anything.
    pub predecessor: Option<(Incarnation, Time)>,
    /// The state it holds.
    pub holding: Option<Holding>,
    /// It ends on purpose, for this reason.
    pub leaving: Option<String>,
    /// Someone has it end, for this reason.
    pub asked_to_end: Option<String>,
    /// How fast it is beside the others of this group.
    pub(super) pace: Option<(Generation, Pace)>,
    /// The newest group it is known to have taken part in forming.
    pub(crate) joined: Option<(JobId, Generation)>,
    /// The newest group in which it has finished its first step.
    pub(crate) entered: Option<(JobId, Generation)>,
    /// The newest group that it was told to form, on this stream.
    pub(crate) summoned: Option<(JobId, Generation)>,
    /// The newest group that it was told to leave, on this stream.
    pub(crate) dismissed: Option<(JobId, Generation)>,
    /// The newest group in which it was told to checkpoint and stop, on this stream.
    pub(crate) stopped: Option<(JobId, Generation)>,
    /// The newest group whose state it was told to drop: what it still says of it is out of date.
    pub(crate) released: Option<(JobId, Generation)>,
    /// Checkpoint parts it has reported and goes on to report until told otherwise.
    pub(crate) reported: BTreeSet<(JobId, Step, Generation)>,
}

/// The job whose parameters a worker's process holds in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The job.
    pub job: JobId,
    /// The last group it was in.
    pub generation: Generation,
    /// Completed updates.
    pub step: Step,
    /// Whether there are parameters already; false while it restores or receives them.
    pub has_state: bool,
    /// Whether it is still in that group.
    pub stepping: bool,
}

impl WorkerPresence {
    /// When a process in this place was last heard; nothing of one that was never heard, or long before.
    pub fn last_sign_of(&self, incarnation: &Incarnation) -> Option<Time> {
        let former = self.predecessor.as_ref().filter(|(former, _)| former == incarnation).map(|(_, at)| *at);
        (self.incarnation == *incarnation).then_some(self.last_heard).or(former)
    }

    /// Whether it can be talked to and was heard within `detection`.
    pub fn is_live(&self, now: Time, detection: Duration) -> bool {
        self.link.is_some() && now.since(self.last_heard) <= detection
    }

    /// How fast it is beside the others of its group of this generation, once it has said so.
    pub fn pace_in(&self, generation: Generation) -> Option<Pace> {
        self.pace.filter(|(of, _)| *of == generation).map(|(_, pace)| pace)
    }

    pub(super) fn keeps(&mut self, place: Option<&(JobId, Generation, Step)>, pace: Option<Pace>) {
        if let (Some((_, generation, _)), Some(pace)) = (place, pace) {
            self.pace = Some((*generation, pace));
        }
    }

    /// Whether it ends on purpose, or is about to hear that it is to.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some() || self.asked_to_end.is_some()
    }

    /// The state of `job` that it holds, if it does.
    pub fn holding_of(&self, job: &JobId) -> Option<&Holding> {
        self.holding.as_ref().filter(|holding| holding.job == *job)
    }

    pub(crate) fn has_joined(&self, job: &JobId, generation: Generation) -> bool {
        matches!(&self.joined, Some((j, g)) if *g >= generation && j == job)
    }

    pub(crate) fn has_entered(&self, job: &JobId, generation: Generation) -> bool {
        matches!(&self.entered, Some((j, g)) if *g == generation && j == job)
    }

    /// Whether it was told to form this group, on this stream.
    pub(crate) fn was_summoned(&self, job: &JobId, generation: Generation) -> bool {
        matches!(&self.summoned, Some((j, g)) if *g == generation && j == job)
    }

    /// Whether it was told to leave this group, on this stream.
    pub(crate) fn was_dismissed(&self, job: &JobId, generation: Generation) -> bool {
        matches!(&self.dismissed, Some((j, g)) if *g == generation && j == job)
    }

    /// Whether it was told to checkpoint and stop in this group, on this stream.
    pub(crate) fn was_stopped(&self, job: &JobId, generation: Generation) -> bool {
        matches!(&self.stopped, Some((j, g)) if *g == generation && j == job)
    }

    /// The group that it may be at work in: one that it was told to form and has not answered, or
    /// the one it is known to be in.
    pub(crate) fn at_work(&self) -> Option<(&JobId, Generation)> {
        match &self.summoned {
            Some((job, generation)) if !self.has_joined(job, *generation) => Some((job, *generation)),
            _ => {
                let holding = self.holding.as_ref().filter(|holding| holding.stepping)?;
                Some((&holding.job, holding.generation))
            }
        }
    }

    /// The group of this job that it may be at work in.
    pub(crate) fn at_work_on(&self, job: &JobId) -> Option<Generation> {
        self.at_work().filter(|(of, _)| *of == job).map(|(_, generation)| generation)
    }

    /// Whether it was known to step in the group of this place already, or to be out of it with the state of this step.
    pub(super) fn is_known_at(&self, place: Option<&(JobId, Generation, Step)>) -> bool {
        let Some((job, generation, step)) = place else { return self.holding.is_none() };
        let is_as_held = |held: &Holding| held.generation == *generation && (held.stepping || held.step == *step);
        let is_known = self.holding_of(job).is_some_and(is_as_held);
        is_known && matches!(&self.joined, Some((of, joined)) if of == job && joined == generation)
    }

    pub(super) fn is_at(&mut self, place: Option<&(JobId, Generation, Step)>) {
        let is_news = |place: &&(JobId, Generation, Step)| !matches!(&self.released, Some((job, last)) if *job == place.0 && place.1 <= *last);
        let Some((job, generation, step)) = place.filter(is_news) else {
            self.holding = None;
            return;
        };
        match &mut self.holding {
            Some(holding) if holding.job == *job && holding.generation > *generation => {}
            Some(holding) if holding.job == *job => {
                // A heartbeat of the group that it has left says nothing new about stepping.
                holding.stepping |= *generation > holding.generation;
                holding.generation = *generation;
                holding.has_state |= *step > holding.step;
                holding.step = *step;
                self.joined = Some((job.clone(), *generation));
            }
            _ => {
                self.holding = Some(Holding {
                    job: job.clone(),
                    generation: *generation,
                    step: *step,
                    has_state: false,
                    stepping: true,
                });
                self.joined = Some((job.clone(), *generation));
            }
        }
    }

    pub(super) fn enter(&mut self, job: &JobId, generation: Generation, step: Step) {
        self.is_at(Some(&(job.clone(), generation, step)));
        if let Some(holding) = &mut self.holding
            && holding.generation == generation
        {
            holding.has_state = true;
            self.entered = Some((job.clone(), generation));
        }
    }

    pub(super) fn release(&mut self, job: &JobId) {
        if let Some(holding) = self.holding.take_if(|holding| holding.job == *job && !holding.stepping) {
            self.released = Some((holding.job, holding.generation));
        }
    }

    pub(super) fn leave(&mut self, left: &Holding) {
        if let Some(holding) = &self.holding
            && holding.job == left.job
            && holding.generation > left.generation
        {
            return;
        }
        self.joined = Some((left.job.clone(), left.generation));
        self.holding = Some(left.clone());
    }
}
