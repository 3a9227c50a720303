//! Training: a group steps when all its ranks are in it and none hangs.

use std::collections::BTreeMap;

use cappa_core::{Change, Failure, Generation, JobId, Outcome, Rank, Report, Step};
use rand::Rng;

use super::worker::{Held, Membership, Process};
use super::{TOTAL_STEPS, World};

/// Steps between checkpoints.
const EVERY: u64 = 25;

impl World {
    pub(super) fn workers_live(&mut self) {
        self.heal();
        for place in 0..self.workers.len() {
            let Some(process) = &self.workers[place].process else { continue };
            if process.hangs_until > self.now {
                continue;
            }
            if process.link.is_none() {
                self.connect(place);
            } else if self.rng.random_bool(0.4) {
                let heartbeat = process.heartbeat();
                self.say(place, heartbeat);
            }
        }
        self.step_groups();
    }

    /// The worker is told to form: it leaves what it was in and waits for the others.
    pub(super) fn join(&mut self, place: usize, job: &JobId, generation: Generation) {
        let Some((rank, world_size)) = self.seats.get(&(generation, self.workers[place].id.clone())).copied() else {
            return;
        };
        let Some(process) = &mut self.workers[place].process else { return };
        let before = process.state.take().filter(|held| held.job == *job);
        process.state = Some(Held {
            job: job.clone(),
            generation,
            step: before.as_ref().map_or(Step(0), |held| held.step),
            has_state: before.is_some_and(|held| held.has_state),
            group: Some(Membership { rank, world_size, stops: false, entered: false }),
        });
    }

    /// The places in each group, as the workers themselves see it.
    fn groups(&self) -> BTreeMap<Generation, Vec<usize>> {
        let mut groups: BTreeMap<Generation, Vec<usize>> = BTreeMap::new();
        for (place, worker) in self.workers.iter().enumerate() {
            let held = worker.process.as_ref().and_then(|process| process.state.as_ref());
            if let Some(held) = held.filter(|held| held.group.is_some()) {
                groups.entry(held.generation).or_default().push(place);
            }
        }
        groups
    }

    fn held(&mut self, place: usize) -> Option<&mut Held> {
        self.workers[place].process.as_mut()?.state.as_mut()
    }

    fn step_groups(&mut self) {
        for (_, places) in self.groups() {
            let world_size = self.held(places[0]).and_then(|held| held.group.as_ref()).map_or(0, |g| g.world_size);
            let is_whole = places.len() == world_size as usize;
            let now = self.now;
            let hangs =
                places.iter().any(|place| self.workers[*place].process.as_ref().is_some_and(|p| p.hangs_until > now));
            if is_whole && !hangs {
                self.step(&places);
            } else if !is_whole && self.rng.random_bool(0.02) {
                // Somebody notices by itself that a peer is missing.
                let place = places[self.rng.random_range(0..places.len())];
                self.fail(place);
            }
        }
    }

    fn fail(&mut self, place: usize) {
        let failure = Failure { code: "collective".to_owned(), message: "peer is gone".to_owned(), permanent: false };
        let now = self.now;
        let process = self.workers[place].process.as_mut().filter(|process| process.hangs_until <= now);
        let entered =
            process.as_ref().and_then(|p| p.state.as_ref()).and_then(|h| h.group.as_ref()).is_some_and(|g| g.entered);
        if !entered {
            return;
        }
        if let Some(left) = process.and_then(|process| process.leave(Some(failure))) {
            self.say(place, left);
        }
    }

    /// One step of a whole group: those behind get the state first. Now and then the connection
    /// breaks in the middle, and only some ranks have made the step.
    fn step(&mut self, places: &[usize]) {
        let states = places.iter().filter_map(|place| self.workers[*place].process.as_ref()?.state.as_ref());
        let newest = states.filter(|held| held.has_state).map(|held| held.step).max();
        let start = newest.unwrap_or_else(|| self.restored());
        let breaks = self.rng.random_bool(0.002);
        for (n, place) in places.iter().enumerate() {
            if breaks && n > 0 && self.rng.random_bool(0.5) {
                continue;
            }
            self.step_one(*place, start);
        }
        if breaks {
            self.fail(places[0]);
        }
    }

    /// What the newest committed checkpoint gives back, by the log.
    fn restored(&self) -> Step {
        let committed = self.log.iter().filter_map(|record| match &record.change {
            Change::CheckpointCommitted { step, .. } => Some(*step),
            _ => None,
        });
        committed.max().unwrap_or_default()
    }

    fn step_one(&mut self, place: usize, start: Step) {
        let Some(held) = self.held(place) else { return };
        held.has_state = true;
        let is_over = start.0 >= TOTAL_STEPS;
        held.step = if is_over { start } else { start.next() };
        let Some(group) = held.group.as_mut() else { return };
        let enters = !std::mem::replace(&mut group.entered, true);
        let (held, group) = (held.clone(), held.group.clone().unwrap());
        if enters {
            let (job, generation, step) = (held.job.clone(), held.generation, held.step);
            self.say(place, Report::Entered { job, generation, step });
        }
        let finishes = held.step.0 >= TOTAL_STEPS;
        if finishes || group.stops || held.step.0.is_multiple_of(EVERY) && !is_over {
            self.checkpoint(place, &held, &group);
        }
        if finishes || group.stops {
            let outcome = if finishes { Outcome::Finished } else { Outcome::Stopped };
            self.say(place, Process::complete(&held, outcome));
            if let Some(held) = self.held(place) {
                held.group = None;
            }
        }
    }

    fn checkpoint(&mut self, place: usize, held: &Held, group: &Membership) {
        if group.rank == Rank(0) && self.rng.random_bool(0.05) {
            let (job, generation, step, rank) = (held.job.clone(), held.generation, held.step, group.rank);
            let error = "no space is left".to_owned();
            self.say(place, Report::CheckpointFailed { job, generation, step, rank, error });
        } else {
            self.say(place, Process::parts(held, group));
        }
    }
}
