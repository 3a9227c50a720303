//! The world around the core: workers, streams, the log, the store, and what goes wrong with them.

mod faults;
mod links;
mod training;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use cappa_core::{
    Change, Command, Core, Ending, Generation, Job, JobId, Link, Phase, Rank, Record, Refusal, Step, Submission, Time,
    Timings, Work, WorkerId, WorkerReport, log_violations, violations,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use worker::Worker;

/// Virtual time passes in ticks of this length.
const TICK: Duration = Duration::from_millis(100);

/// Faults stop here, and the job must end within as much again.
const FAULTS_UNTIL: u64 = 60;

const TOTAL_STEPS: u64 = 400;

const TIMINGS: Timings = Timings {
    detection: Duration::from_secs(2),
    grace: Duration::from_secs(4),
    settle: Duration::from_secs(1),
    forming: Duration::from_secs(10),
    sweep: Duration::from_secs(20),
};

pub(crate) struct World {
    rng: StdRng,
    is_loud: bool,
    now: Time,
    core: Core,
    log: Vec<Record>,
    workers: Vec<Worker>,
    /// Messages on their way to the coordinator, by stream and in order.
    inbox: BTreeMap<Link, VecDeque<(Time, WorkerReport)>>,
    /// Messages on their way to workers, likewise.
    outbox: BTreeMap<Link, VecDeque<(Time, Work)>>,
    /// Messages that the reconciler has sent and that are still outstanding.
    sent: HashSet<Work>,
    /// Streams whose end is yet to be noticed.
    ended: Vec<(Time, WorkerId, Link)>,
    /// The rank and world size that each worker is told in the message to form.
    seats: BTreeMap<(Generation, WorkerId), (Rank, u32)>,
    manifests: BTreeSet<(Step, Generation)>,
    job: JobId,
    next: u64,
    coordinator_away_until: Time,
}

impl World {
    pub(crate) fn new(seed: u64, is_loud: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Time(1_000_000);
        let job = JobId::from("demo-1");
        let places = rng.random_range(1..=5);
        let submission = Submission {
            name: "demo".to_owned(),
            namespace: "default".to_owned(),
            priority: 0,
            min_workers: rng.random_range(1..=places),
            max_workers: places,
            lanes: rng.random_range(places..=8),
            keep: 2,
            total_steps: Step(TOTAL_STEPS),
            spec_json: String::new(),
            spec_digest: String::new(),
            data_digest: String::new(),
            folder: String::new(),
            idempotency_key: None,
        };
        let workers = (0..places).map(|n| Worker { id: WorkerId(format!("worker-{n}")), process: None });
        let mut world = Self {
            rng,
            is_loud,
            now,
            core: Core::recover(TIMINGS, now, []),
            log: Vec::new(),
            workers: workers.collect(),
            inbox: BTreeMap::new(),
            outbox: BTreeMap::new(),
            sent: HashSet::new(),
            ended: Vec::new(),
            seats: BTreeMap::new(),
            manifests: BTreeSet::new(),
            job: job.clone(),
            next: 1,
            coordinator_away_until: now,
        };
        world.perform(&Command::Submit { job, submission }).unwrap();
        world
    }

    /// Faults for a while, then peace; the job must succeed.
    pub(crate) fn run(mut self) {
        let ticks = FAULTS_UNTIL * 10;
        for tick in 0..ticks * 4 {
            if tick < ticks {
                self.go_wrong();
            }
            self.tick();
            if self.has_ended() {
                break;
            }
        }
        assert!(self.has_ended(), "the job did not end: {:#?}", self.core.state().job(&self.job));
        let job = self.core.state().job(&self.job).unwrap();
        assert!(
            matches!(&job.phase, Phase::Ended(Ending::Succeeded { .. })),
            "the job did not succeed: {:?}",
            job.phase
        );
        assert_eq!(log_violations(&self.log), []);
    }

    fn has_ended(&self) -> bool {
        self.core.state().job(&self.job).is_some_and(Job::has_ended)
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            println!("{:>8} {}", self.now.0 - 1_000_000, what());
        }
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        self.workers_live();
        self.deliver_to_workers();
        if self.now >= self.coordinator_away_until {
            self.deliver_to_coordinator();
            self.review();
            self.reconcile();
        }
    }

    fn perform(&mut self, command: &Command) -> Result<(), Refusal> {
        let records = self.core.perform(self.now, command)?;
        self.append(records);
        Ok(())
    }

    fn review(&mut self) {
        let records = self.core.review(self.now);
        self.append(records);
    }

    fn append(&mut self, records: Vec<Record>) {
        for record in records {
            self.tell(|| format!("log {:?}", record.change));
            self.check_no_step_lost(&record);
            self.seat(&record);
            self.log.push(record);
        }
        assert_eq!(violations(self.core.state()), []);
    }

    fn seat(&mut self, record: &Record) {
        if let Change::GroupFormed { generation, members, .. } = &record.change {
            let world_size = u32::try_from(members.len()).unwrap();
            let seats = (0..).map(Rank).zip(members);
            self.seats.extend(seats.map(|(rank, member)| ((*generation, member.worker.clone()), (rank, world_size))));
        }
    }

    /// A group starts from the highest step that any of its members really holds.
    fn check_no_step_lost(&self, record: &Record) {
        let Change::GroupFormed { members, step, .. } = &record.change else {
            return;
        };
        for member in members {
            let process =
                self.workers.iter().find(|worker| worker.id == member.worker).and_then(|w| w.process.as_ref());
            let held = process.filter(|p| p.incarnation == member.incarnation).and_then(|p| p.state.as_ref());
            // What a worker was told to drop, it will have dropped before it forms.
            let is_released = |link| {
                let queue = self.outbox.get(&link).into_iter().flatten();
                queue.into_iter().any(|(_, work)| matches!(work, Work::Release { .. }))
            };
            let is_released = process.and_then(|process| process.link).is_some_and(is_released);
            if let Some(held) = held.filter(|held| held.has_state && !is_released) {
                assert!(held.step <= *step, "{} holds step {}, its group starts at {step}", member.worker, held.step);
            }
        }
    }
}
