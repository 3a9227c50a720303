//! A core, its log and its clock, and workers that say what a test has them say.

use std::time::Duration;

use cappa_core::{
    Command, Core, Holding, Incarnation, Job, JobId, Link, Part, Phase, Rank, RankParts, Record, Refusal, Report,
    Scheduling, Step, Submission, Time, Timings, WorkerId, WorkerReport,
};

pub(crate) const TIMINGS: Timings = Timings {
    detection: Duration::from_secs(5),
    grace: Duration::from_secs(10),
    settle: Duration::from_secs(1),
    forming: Duration::from_secs(60),
    sweep: Duration::from_secs(120),
};

/// A core, its log and its clock.
pub(crate) struct Bench {
    pub(crate) core: Core,
    pub(crate) log: Vec<Record>,
    pub(crate) now: Time,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let now = Time(1_000_000);
        Self { core: Core::recover(TIMINGS, now, []), log: Vec::new(), now }
    }

    pub(crate) fn perform(&mut self, command: Command) -> Result<(), Refusal> {
        self.log.extend(self.core.perform(self.now, &command)?);
        self.log.extend(self.core.review(self.now));
        Ok(())
    }

    /// Time passes, and the workers whose names are given are heard all the while.
    pub(crate) fn wait(&mut self, seconds: f64, heard: &[u64]) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            self.now = self.now + Duration::from_millis(100);
            for worker in heard {
                let at = self.holding(*worker).map(|holding| (holding.job, holding.generation, holding.step));
                self.say(*worker, Report::Heartbeat { at, pace: None });
            }
            self.log.extend(self.core.review(self.now));
        }
    }

    pub(crate) fn holding(&self, worker: u64) -> Option<Holding> {
        self.core.presence().worker(&name(worker))?.holding.clone()
    }

    pub(crate) fn say(&mut self, worker: u64, report: Report) {
        self.perform(Command::Worker(WorkerReport { worker: name(worker), link: Link(worker), report })).unwrap();
    }

    pub(crate) fn connect(&mut self, worker: u64, holding: Option<Holding>) {
        let incarnation = Incarnation::from(worker.to_string());
        let (host, store_address) = ("host".to_owned(), format!("{worker}:1"));
        self.say(worker, Report::Hello { incarnation, host, store_address, holding });
    }

    pub(crate) fn submit(&mut self, job: &str, priority: i32, min: u32, max: u32) {
        self.submit_under(Scheduling::default(), job, priority, min, max);
    }

    pub(crate) fn submit_under(&mut self, scheduling: Scheduling, job: &str, priority: i32, min: u32, max: u32) {
        let submission = Submission {
            name: job.to_owned(),
            namespace: "default".to_owned(),
            priority,
            min_workers: min,
            max_workers: max,
            lanes: 64,
            keep: 1,
            total_steps: Step(100),
            spec_json: String::new(),
            spec_digest: String::new(),
            data_digest: String::new(),
            folder: String::new(),
            idempotency_key: None,
            scheduling,
            needs_index: false,
        };
        self.perform(Command::Submit { job: JobId::from(job), submission }).unwrap();
    }

    /// Every member has made its first step.
    pub(crate) fn enter(&mut self, job: &str, workers: &[u64]) {
        let group = self.core.state().job(&JobId::from(job)).unwrap().group().unwrap();
        let (generation, step) = (group.generation, group.step.next());
        for worker in workers {
            self.say(*worker, Report::Entered { job: JobId::from(job), generation, step });
        }
    }

    pub(crate) fn job(&self, job: &str) -> &Job {
        self.core.state().job(&JobId::from(job)).unwrap()
    }

    /// Every rank of the job's group has written its part of a step's checkpoint.
    pub(crate) fn write(&mut self, job: &str, step: u64) {
        let group = self.job(job).group().unwrap().clone();
        let world_size = u32::try_from(group.members.len()).unwrap();
        for (rank, member) in (0..).map(Rank).zip(&group.members) {
            let part = Part { name: format!("part-{rank}"), bytes: 100, sha256: String::new() };
            let parts = RankParts { parts: vec![part], quarantined: Vec::new() };
            let (job, generation, step) = (JobId::from(job), group.generation, Step(step));
            let worker = member.worker.as_str().trim_start_matches("worker-").parse().unwrap();
            self.say(worker, Report::PartsWritten { job, generation, step, rank, world_size, parts });
        }
    }

    /// The job's group checkpoints: parts and manifest.
    pub(crate) fn checkpoint(&mut self, job: &str, step: u64) {
        let generation = self.job(job).group().unwrap().generation;
        self.write(job, step);
        self.perform(Command::ManifestCommitted { job: JobId::from(job), step: Step(step), generation }).unwrap();
    }

    /// The worker is out of its group and holds this step.
    pub(crate) fn leave(&mut self, worker: u64, job: &str, step: u64) {
        let generation = self.holding(worker).unwrap().generation;
        let job = JobId::from(job);
        self.say(worker, Report::Left { job, generation, step: Step(step), has_state: true, failure: None });
    }

    /// The steps of the checkpoints that are kept.
    pub(crate) fn kept(&self, job: &str) -> Vec<u64> {
        self.job(job).checkpoints.iter().map(|checkpoint| checkpoint.step.0).collect()
    }

    pub(crate) fn is_active(&self, job: &str) -> bool {
        matches!(self.core.state().job(&JobId::from(job)).unwrap().phase, Phase::Active(_))
    }

    pub(crate) fn world_size(&self, job: &str) -> usize {
        self.core.state().job(&JobId::from(job)).unwrap().group().map_or(0, |group| group.members.len())
    }
}

pub(crate) fn name(worker: u64) -> WorkerId {
    WorkerId::from(format!("worker-{worker}"))
}
