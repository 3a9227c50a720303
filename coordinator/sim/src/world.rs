//! The world: virtual time, what is about to happen, and everything that is not code under test.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use cappa_core::{Job, JobId, Policy, Record, Time};
use cappa_proto::coordinator_message::Message as Told;
use cappa_proto::worker_message::Message as Tell;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::coordinator::{Coordinator, Stored};
use crate::streams::Stream;
use crate::tamper::Tamper;
use crate::truth::Truth;
use crate::worker::Place;
use crate::{Failure, Summary, Trace};

/// The world's beginning.
pub(crate) const START: Time = Time(1_000_000);
/// Faults stop so long after it.
const FAULTS: Duration = Duration::from_secs(40);
/// Every job must have ended so long after that.
const PATIENCE: Duration = Duration::from_secs(420);

/// What is about to happen. Workers are named by place and incarnation: what was meant for a dead process is void.
#[derive(Debug)]
pub(crate) enum Event {
    Fault,
    Person,
    Submit(u64),
    CoordinatorStarts,
    Fenced(usize),
    Tick(usize),
    Turn(usize),
    Appended(usize),
    Stored(usize, Stored),
    Up(usize, Tell),
    UpEnd(usize),
    Down(usize, Told),
    DownEnd(usize),
    Start(usize),
    Worker(usize, u64, Own),
    Step(String, u64),
}

/// What happens inside a worker's process: delayed while it hangs.
#[derive(Debug)]
pub(crate) enum Own {
    Connect,
    Beat(usize),
    Progress(usize),
    Aborted(u64),
    PeerGone(u64),
    FormingOver(u64),
    Written(crate::engine::Snapshot),
    Ended,
}

/// The store that all coordinators and workers share.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) log: Vec<Record>,
    /// How often the log was opened: who opened it last may append.
    pub(crate) epoch: u64,
    pub(crate) fails_until: Time0,
    /// Until then workers can't read from it.
    pub(crate) unread_until: Time0,
    pub(crate) slow_until: Time0,
    /// Until when it takes nothing into the jobs' folders, while the log goes on.
    pub(crate) refuses_until: Time0,
    /// Generation by job and step.
    pub(crate) manifests: BTreeMap<(String, u64), u64>,
    /// Checkpoints that were deleted.
    pub(crate) deleted: std::collections::BTreeSet<Attempt>,
    /// Checkpoints that some member can't restore from.
    pub(crate) damaged: std::collections::BTreeSet<Attempt>,
    /// Who has written: by job, step, generation, rank.
    pub(crate) parts: std::collections::BTreeSet<(String, u64, u64, u32)>,
}

impl Store {
    pub(crate) fn is_away_for_jobs(&self, now: Time0) -> bool {
        self.fails_until.max(self.refuses_until) > now
    }
}

/// A checkpoint: job, step, generation.
pub(crate) type Attempt = (String, u64, u64);

/// Virtual milliseconds.
pub(crate) type Time0 = u64;

pub(crate) struct World<'t> {
    pub(crate) seed: u64,
    pub(crate) rng: StdRng,
    pub(crate) now: Time,
    pub(crate) tamper: Tamper,
    trace: Trace<'t>,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: std::collections::HashMap<u64, Event>,
    next: u64,
    pub(crate) timings: cappa_shared::timing::Timings,
    pub(crate) store: Store,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) places: Vec<Place>,
    pub(crate) jobs: Vec<JobId>,
    /// What the operator allows.
    pub(crate) policy: Policy,
    pub(crate) lanes: u32,
    pub(crate) step_time: u64,
    pub(crate) truth: Truth,
    /// Every rollback in the log: the job, and the newest generation that was given up.
    pub(crate) rollbacks: Vec<(JobId, cappa_core::Generation)>,
    pub(crate) summary: Summary,
    pub(crate) broken: Option<String>,
}

impl<'t> World<'t> {
    pub(crate) fn new(seed: u64, tamper: Tamper, trace: Trace<'t>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let places = rng.random_range(1..=5);
        let mut world = Self {
            seed,
            now: START,
            tamper,
            trace,
            queue: BinaryHeap::new(),
            events: std::collections::HashMap::new(),
            next: 0,
            timings: cappa_shared::timing::Timings::derive(Duration::from_secs(2)).unwrap(),
            store: Store::default(),
            coordinators: Vec::new(),
            streams: Vec::new(),
            places: (0..places).map(|_| Place::default()).collect(),
            jobs: Vec::new(),
            policy: crate::wishes::policy(&mut rng, u32::try_from(places).unwrap()),
            lanes: rng.random_range(u32::try_from(places).unwrap()..=8),
            step_time: rng.random_range(50..400),
            truth: Truth::default(),
            rollbacks: Vec::new(),
            summary: Summary::default(),
            broken: None,
            rng,
        };
        world.start_coordinator();
        for place in 0..places {
            let at = world.random(0..2_000);
            world.at(at, Event::Start(place));
        }
        world.submit(0);
        for number in 1..world.random(1..4) {
            let at = world.random(0..15_000);
            world.at(at, Event::Submit(number));
        }
        world.at(100, Event::Fault);
        world.at(1_000, Event::Person);
        world
    }

    /// Faults for a while, then peace; every job must end.
    pub(crate) fn run(&mut self) -> Result<Summary, Failure> {
        let end = START + FAULTS + PATIENCE;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            self.now = at;
            if at > end {
                self.broken = Some(format!("EveryJobEnds: {}", self.unfinished()));
            } else {
                let event = self.events.remove(&number).unwrap();
                self.summary.events += 1;
                self.happen(event);
            }
            if let Some(broken) = self.broken.take() {
                self.tell(|| format!("BROKEN {broken}"));
                return Err(self.failure(broken));
            }
            if !self.is_faulty() && self.all_ended() {
                break;
            }
        }
        self.check_log();
        match self.broken.take() {
            Some(broken) => Err(self.failure(broken)),
            None => Ok(self.summary),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault => self.go_wrong(),
            Event::Person => self.person(),
            Event::Submit(number) => self.submit(number),
            Event::CoordinatorStarts => self.restart_coordinator(),
            Event::Fenced(id) => self.fenced(id),
            Event::Tick(id) => self.tick(id),
            Event::Turn(id) => self.turn(id),
            Event::Appended(id) => self.appended(id),
            Event::Stored(id, stored) => self.stored(id, stored),
            Event::Up(stream, tell) => self.arrive_up(stream, tell),
            Event::UpEnd(stream) => self.end_up(stream),
            Event::Down(stream, told) => self.arrive_down(stream, told),
            Event::DownEnd(stream) => self.end_down(stream),
            Event::Start(place) => self.start_process(place),
            Event::Worker(place, incarnation, own) => self.own(place, incarnation, own),
            Event::Step(job, generation) => self.step(&job, generation),
        }
    }

    /// Something happens in so many milliseconds.
    pub(crate) fn at(&mut self, after: u64, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((self.now + Duration::from_millis(after), self.next)));
        self.events.insert(self.next, event);
    }

    pub(crate) fn random(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(crate) fn millis(&self) -> u64 {
        self.now.0 - START.0
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.now < START + FAULTS
    }

    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        let at = self.millis();
        if let Some(trace) = &mut self.trace {
            trace(format!("{at:>8} {}", what()));
        }
    }

    pub(crate) fn breaks(&mut self, promise: &str, how: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(format!("{promise}: {}", how()));
        }
    }

    pub(crate) fn failure(&self, broken: String) -> Failure {
        Failure { seed: self.seed, at_ms: self.millis(), broken }
    }

    fn newest(&self) -> Option<&Coordinator> {
        self.coordinators.iter().rev().find(|coordinator| coordinator.alive)
    }

    fn all_ended(&self) -> bool {
        let Some(newest) = self.newest().filter(|newest| newest.epoch == self.store.epoch) else { return false };
        let state = newest.core.state();
        newest.is_idle() && self.jobs.iter().all(|job| state.job(job).is_none_or(Job::has_ended))
    }

    fn unfinished(&self) -> String {
        let jobs = self.newest().map(|newest| newest.core.state().live_jobs().map(|job| (&job.id, &job.phase)));
        format!("{:?}", jobs.into_iter().flatten().collect::<Vec<_>>())
    }
}
