//! Workers that do at once what they are told, so that only the scheduler's decisions take time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cappa_core::{
    Command, Core, Generation, Incarnation, Job, JobId, Link, Outcome, Pace, Phase, Plan, Policy, RankParts, Reason,
    Record, Refusal, Report, Scheduling, Step, Submission, Time, Timings, Work, WorkerId, WorkerReport, log_violations,
    violations,
};

pub(crate) const TIMINGS: Timings = Timings {
    detection: Duration::from_secs(5),
    grace: Duration::from_secs(10),
    settle: Duration::from_secs(1),
    forming: Duration::from_secs(60),
    sweep: Duration::from_secs(120),
};

/// A core, its log, its clock and its workers.
pub(crate) struct Yard {
    pub(crate) core: Core,
    pub(crate) log: Vec<Record>,
    pub(crate) now: Time,
    workers: u64,
    /// Those that are lost.
    gone: BTreeSet<u64>,
    /// What workers say of their pace.
    pub(crate) paces: BTreeMap<u64, Pace>,
}

/// A job to be submitted, with what most tests don't care about filled in.
pub(crate) fn ask(min: u32, max: u32) -> Submission {
    Submission {
        name: "demo".to_owned(),
        namespace: "default".to_owned(),
        priority: 0,
        min_workers: min,
        max_workers: max,
        lanes: 64,
        keep: 1,
        total_steps: Step(1_000),
        spec_json: String::new(),
        spec_digest: String::new(),
        data_digest: String::new(),
        folder: String::new(),
        idempotency_key: None,
        scheduling: Scheduling::default(),
        needs_index: false,
    }
}

impl Yard {
    /// So many workers, two a host, long connected.
    pub(crate) fn new(workers: u64, policy: Policy) -> Self {
        let now = Time(1_000_000);
        let core = Core::recover(TIMINGS, now, []).with_policy(policy);
        let mut yard = Self { core, log: Vec::new(), now, workers: 0, gone: BTreeSet::new(), paces: BTreeMap::new() };
        (0..workers).for_each(|_| yard.connect());
        yard.pass(12);
        yard
    }

    pub(crate) fn connect(&mut self) {
        let worker = self.workers;
        self.workers += 1;
        let (incarnation, host) = (Incarnation::from(worker.to_string()), format!("host-{}", worker / 2));
        let store_address = format!("{worker}:1");
        self.say(worker, Report::Hello { incarnation, host, store_address, holding: None });
    }

    /// The worker's process is gone.
    pub(crate) fn lose(&mut self, worker: u64) {
        self.gone.insert(worker);
        self.perform(&Command::Disconnected { worker: name(worker), link: Link(worker) }).unwrap();
        self.obey();
    }

    pub(crate) fn perform(&mut self, command: &Command) -> Result<(), Refusal> {
        self.log.extend(self.core.perform(self.now, command)?);
        Ok(())
    }

    fn say(&mut self, worker: u64, report: Report) {
        let said = WorkerReport { worker: name(worker), link: Link(worker), report };
        self.perform(&Command::Worker(said)).unwrap();
    }

    pub(crate) fn submit(&mut self, id: &str, submission: Submission) {
        self.try_submit(id, submission).unwrap();
        self.obey();
    }

    pub(crate) fn try_submit(&mut self, id: &str, submission: Submission) -> Result<(), Refusal> {
        self.perform(&Command::Submit { job: JobId::from(id), submission })
    }

    /// So many seconds go by.
    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Duration::from_secs(1);
            for worker in (0..self.workers).filter(|worker| !self.gone.contains(worker)).collect::<Vec<_>>() {
                let holding = self.core.presence().worker(&name(worker)).and_then(|seen| seen.holding.clone());
                let at = holding.map(|holding| (holding.job, holding.generation, holding.step));
                self.say(worker, Report::Heartbeat { at, pace: self.paces.get(&worker).copied() });
            }
            self.obey();
        }
    }

    /// Everybody does what is outstanding, until nothing is.
    pub(crate) fn obey(&mut self) {
        loop {
            self.log.extend(self.core.review(self.now));
            assert_eq!(violations(self.core.state()), []);
            let orders: Vec<Work> = self.core.outstanding(self.now).collect();
            let mut is_idle = true;
            for order in orders {
                is_idle &= !self.follow(order);
            }
            if is_idle {
                return;
            }
        }
    }

    /// Whether the order changes anything.
    fn follow(&mut self, order: Work) -> bool {
        match order.clone() {
            Work::Form { worker, job, generation, .. } => {
                let group = self.job(job.as_str()).group().unwrap();
                let step = group.step.next();
                self.perform(&Command::Told(order)).unwrap();
                self.say(number(&worker), Report::Entered { job, generation, step });
            }
            Work::Abort { worker, job, generation, .. } => {
                let held = self.core.presence().worker(&worker).and_then(|seen| seen.holding.clone());
                let step = held.map_or(Step(0), |held| held.step);
                self.say(number(&worker), Report::Left { job, generation, step, has_state: true, failure: None });
            }
            Work::Stop { worker, job, generation, .. } => {
                self.save(&worker, &job, generation);
                self.complete(&worker, job, generation, Outcome::Stopped);
            }
            Work::CommitManifest { job, step, generation } => {
                self.perform(&Command::ManifestCommitted { job, step, generation }).unwrap();
            }
            Work::Release { .. } => self.perform(&Command::Told(order)).unwrap(),
            _ => return false,
        }
        true
    }

    fn step_of(&self, worker: &WorkerId) -> Step {
        self.core.presence().worker(worker).and_then(|seen| seen.holding.as_ref()).map_or(Step(0), |held| held.step)
    }

    /// The member writes its part of a checkpoint.
    fn save(&mut self, worker: &WorkerId, job: &JobId, generation: Generation) {
        let Some(group) = self.job(job.as_str()).group() else { return };
        let (rank, _) = group.member(worker).unwrap();
        let world_size = u32::try_from(group.members.len()).unwrap();
        let (job, step, parts) = (job.clone(), self.step_of(worker), RankParts::default());
        self.say(number(worker), Report::PartsWritten { job, generation, step, rank, world_size, parts });
    }

    fn complete(&mut self, worker: &WorkerId, job: JobId, generation: Generation, outcome: Outcome) {
        let step =
            self.core.presence().worker(worker).and_then(|seen| seen.holding.clone()).map_or(Step(0), |h| h.step);
        self.say(number(worker), Report::Completed { job, generation, step, outcome, summary: None });
    }

    /// The job has made all its steps.
    pub(crate) fn finish(&mut self, id: &str) {
        let job = self.job(id).clone();
        let group = job.group().unwrap();
        for member in &group.members {
            self.save(&member.worker, &job.id, group.generation);
            self.complete(&member.worker, job.id.clone(), group.generation, Outcome::Finished);
        }
        self.obey();
    }

    /// A member reports a failure that forming again would not help.
    pub(crate) fn fail(&mut self, id: &str, code: &str) {
        let job = self.job(id).clone();
        let group = job.group().unwrap();
        let failure = cappa_core::Failure { code: code.to_owned(), message: "broken".to_owned(), permanent: true };
        let (job, generation, worker) = (job.id.clone(), group.generation, number(&group.members[0].worker));
        let failure = Some(failure);
        self.say(worker, Report::Left { job, generation, step: group.step, has_state: true, failure });
        self.obey();
    }

    pub(crate) fn job(&self, id: &str) -> &Job {
        self.core.state().job(&JobId::from(id)).unwrap()
    }

    /// Workers of the job; zero when it has none.
    pub(crate) fn size(&self, id: &str) -> usize {
        self.job(id).group().map_or(0, |group| group.members.len())
    }

    pub(crate) fn sizes<const N: usize>(&self, ids: [&str; N]) -> [usize; N] {
        ids.map(|id| self.size(id))
    }

    pub(crate) fn active(&self) -> Vec<String> {
        let jobs = self.core.state().live_jobs().filter(|job| matches!(job.phase, Phase::Active(_)));
        jobs.map(|job| job.id.to_string()).collect()
    }

    pub(crate) fn plan(&self) -> Plan {
        self.core.plan(self.now)
    }

    pub(crate) fn reason(&self, id: &str) -> Reason {
        let waits = self.plan().waits;
        waits.into_iter().find(|wait| wait.job.as_str() == id).map(|wait| wait.reason).unwrap()
    }

    /// Checks what only shows over the whole log, and that the log alone gives the same state.
    pub(crate) fn audit(&self) {
        assert_eq!(log_violations(&self.log), []);
        let text: Vec<String> = self.log.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        let read: Vec<Record> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(Core::recover(TIMINGS, self.now, &read).state(), self.core.state());
    }
}

fn name(worker: u64) -> WorkerId {
    WorkerId::from(format!("worker-{worker:05}"))
}

fn number(worker: &WorkerId) -> u64 {
    worker.as_str().trim_start_matches("worker-").parse().unwrap()
}
