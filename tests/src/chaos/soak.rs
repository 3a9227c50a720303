//! One fault after the other, each in a job of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cappa_proto as wire;
use cappa_test_stores::S3Server;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Deserialize;
use wire::JobState;

use super::clock::Clock;
use super::limits::{self, Starved};
use super::report::{Losses, Report};
use super::{Fault, Network};
use crate::corpus::cappactl_ended;
use crate::jobs::{Curve, JobSpec};
use crate::{Cluster, Corpus, Options};

pub(super) const WORKERS: usize = 3;
const BUCKET: &str = "chaos";
const CHECKPOINT_EVERY: u64 = 25;
/// fp32 sums in another order.
const TOLERANCE: f64 = 1e-4;
const DETECTION: Duration = Duration::from_secs(2);

/// When a job that does not go on is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(150);

/// What is asked of a soak.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides the order of the faults, their moments and their victims.
    pub seed: u64,
    /// The kinds; each once before any comes again.
    pub faults: Vec<Fault>,
    /// No round begins after so long.
    pub time: Duration,
    /// Rounds at most.
    pub rounds: usize,
    /// Updates of each job.
    pub steps: u64,
    /// A take-over from a leader that was killed takes so long at most.
    pub take_over: Duration,
    /// Until the next step after workers were killed it takes so long at most; after one hangs, the detection time more.
    pub recovery: Duration,
    /// Prefix of the namespaces, if every process is to have a host of its own ([`Network::run_inside`]).
    pub hosts: Option<String>,
}

/// What a fault can get at.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) server: S3Server,
    pub(super) clock: Clock,
    pub(super) filler: Option<PathBuf>,
    network: Option<Arc<Network>>,
    starved: Option<Starved>,
    take_over: Duration,
    recovery: Duration,
    report: Report,
    /// Of the round.
    losses: Losses,
}

/// What of `cappactl audit` is counted.
#[derive(Deserialize)]
struct Audit {
    epochs: Vec<EpochUse>,
}

impl Audit {
    /// Samples that were used, each once an epoch.
    fn used(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.used).sum()
    }
}

/// What the job comes to without a fault.
struct Undisturbed {
    curve: Curve,
    /// Samples, each once an epoch.
    used: u64,
}

#[derive(Deserialize)]
struct EpochUse {
    used: u64,
    repeated: u64,
}

/// The number behind a text in a message.
fn number(message: &str, before: &str) -> Option<u64> {
    let rest = message.split_once(before)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Breaks jobs until the time is over; prints a line a round.
pub async fn run(settings: &Settings) -> Result<Report> {
    let corpus = Corpus::new(400)?;
    let mut stage = Stage::set(settings, &corpus)?;
    let spec = spec(settings.steps);
    let undisturbed = stage.cluster.submit(&spec, &corpus).await?;
    let curve = stage.cluster.finish(&undisturbed).await?;
    let expected = Undisturbed { curve, used: stage.audit(&undisturbed)?.used() };

    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut faults = Vec::new();
    let begun = Instant::now();
    for round in 0..settings.rounds {
        if begun.elapsed() > settings.time {
            break;
        }
        if faults.is_empty() {
            faults.clone_from(&settings.faults);
            faults.shuffle(&mut random);
        }
        let fault: Fault = faults.pop().context("a soak needs a kind of fault")?;
        let at = random.random_range(settings.steps / 10..settings.steps / 2);
        let victim = random.random_range(0..WORKERS);
        let ended = stage.round(fault, at, victim, &spec, &corpus, &expected).await;
        let ended = ended.map_err(|error| error.context(format!("round {round}, at step {at}, worker-{victim}")));
        match &ended {
            Ok(seconds) => println!("{round:4} {}: next step after {seconds:.2} s", fault.name()),
            Err(error) => println!("{round:4} {}: FAILED: {error:#}\n{}", fault.name(), stage.cluster.logs()),
        }
        let failed = ended.is_err();
        let losses = std::mem::take(&mut stage.losses);
        stage.report.add(fault.name(), ended, losses);
        if failed {
            stage.scrape().await;
            let report = std::mem::take(&mut stage.report);
            // Whatever was left broken goes with the old stage.
            drop(stage);
            stage = Stage::set(settings, &corpus)?;
            stage.report = report;
        }
    }
    stage.scrape().await;
    Ok(stage.report)
}

fn spec(steps: u64) -> JobSpec {
    let url = |name: &str| Some(format!("s3://{BUCKET}/{name}"));
    JobSpec {
        steps,
        workers: (1, WORKERS as u32),
        checkpoint_every: CHECKPOINT_EVERY,
        train: url("train.json"),
        tokenizer: url("tokenizer.json"),
        more: "verify_replicas: 20".into(),
        ..JobSpec::default()
    }
}

impl Stage {
    /// An S3 server with the corpus, a coordinator and the workers.
    fn set(settings: &Settings, corpus: &Corpus) -> Result<Self> {
        let network = match &settings.hosts {
            Some(prefix) => Some(Arc::new(Network::new(prefix, WORKERS + 1)?)),
            None => None,
        };
        let hub = Network::hub_address();
        let server = S3Server::start_on(if network.is_some() { &hub } else { "127.0.0.1" }, &[BUCKET]);
        corpus.put_into(&server, BUCKET)?;
        let clock = Clock::new(corpus.folder())?;
        let env = server.environment().map(|(name, value)| (name.to_owned(), value)).to_vec();
        let cluster = Cluster::start(Options {
            workers: 0,
            detection: DETECTION,
            store: Some(format!("s3://{BUCKET}/state")),
            cache_mib: Some(1),
            env,
            coordinator_env: clock.environment().to_vec(),
            worker_env: BTreeMap::new(),
            standby: true,
            network: network.clone(),
        })?;
        let mut stage = Self {
            cluster,
            server,
            clock,
            filler: None,
            network,
            starved: None,
            take_over: settings.take_over,
            recovery: settings.recovery,
            report: Report::default(),
            losses: Losses::default(),
        };
        if stage.network.is_some() {
            stage.starved = Some(Starved::new(stage.cluster.folder())?);
            for worker in 0..WORKERS {
                limits::mount_small_disk(&stage.cluster.cache_folder(worker))?;
            }
        }
        stage.cluster.restart_ended(WORKERS)?;
        Ok(stage)
    }

    /// A job, a fault at `at` updates, and everything that must hold afterwards. Returns the seconds from the fault to the next step.
    async fn round(
        &mut self,
        fault: Fault,
        at: u64,
        victim: usize,
        spec: &JobSpec,
        corpus: &Corpus,
        expected: &Undisturbed,
    ) -> Result<f64> {
        self.cluster.restart_ended(WORKERS)?;
        self.release_quarantined();
        self.cluster.wait_idle(WORKERS).await?;
        let job = self.cluster.submit(spec, corpus).await?;
        match fault {
            Fault::CoordinatorKilledAt(event) => self.bring_about(event, &job, at, victim).await?,
            _ => _ = self.cluster.wait_step(&job, at).await?,
        }
        let before = self.cluster.job(&job).await?;
        let begun = Instant::now();
        let back = tokio::spawn(back(self.cluster.coordinators(), before, fault.breaks_the_group()));
        fault.begin(self, &job, victim).await.context("the fault")?;
        back.await?.context("training did not go on")?;
        let seconds = begun.elapsed().as_secs_f64();
        fault.end(self, victim).context("the fault's end")?;
        self.cluster.restart_ended(WORKERS)?;

        let ended = self.cluster.wait_state(&job, JobState::Succeeded).await;
        self.server.faults().clear();
        ended?;
        let (step, worst) = self.cluster.curve(&job).await?.difference(&expected.curve, spec.steps)?;
        ensure!(worst <= TOLERANCE, "the loss of step {step} is {worst:.1e} beside the undisturbed one");
        self.losses = self.lost(&job, expected.used).await?;
        ensure!(self.losses.is_none(), "{}", self.losses);
        if let Fault::CoordinatorKilledAt(event) = fault {
            let events = self.cluster.events(&job).await?;
            ensure!(events.iter().any(|known| known.kind == event), "{event} was forgotten: {events:?}");
        }
        if let Some(budget) = fault.budget(DETECTION, self.recovery) {
            ensure!(
                seconds <= budget.as_secs_f64(),
                "the next step came after {seconds:.2} s, later than in {budget:?}"
            );
        }
        self.account(&["audit", &job])?;
        self.account(&["checkpoints", "verify", &job])?;
        let last = self.cluster.job(&job).await?.last_checkpoint_step;
        ensure!(last == spec.steps, "its last checkpoint is of step {last}");
        Ok(seconds)
    }

    fn audit(&self, job: &str) -> Result<Audit> {
        Ok(serde_json::from_slice(&self.cappactl(&["audit", job, "-o", "json"])?.stdout)?)
    }

    /// What a job that has ended was short of; without a fault it uses so many samples.
    async fn lost(&self, job: &str, used: u64) -> Result<Losses> {
        let audit = self.audit(job)?;
        let mut losses = Losses { steps: self.steps_lost(job).await?, ..Losses::default() };
        losses.samples_lost = used.saturating_sub(audit.used());
        losses.samples_repeated = audit.epochs.iter().map(|epoch| epoch.repeated).sum();
        losses.checkpoints = self.checkpoints_lost(job).await?;
        Ok(losses)
    }

    /// Checkpoints that were committed, were not retired since, and are not there; those that are there are verified besides.
    async fn checkpoints_lost(&self, job: &str) -> Result<u64> {
        let request = wire::GetRequest { job_id: job.into() };
        let kept = self.cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints;
        let mut missing: BTreeSet<u64> = BTreeSet::new();
        for event in self.cluster.events(job).await? {
            let step = || number(&event.message, "step ").context("a checkpoint has a step");
            match event.kind.as_str() {
                "checkpoint_committed" => _ = missing.insert(step()?),
                "checkpoint_retired" => _ = missing.remove(&step()?),
                _ => {}
            }
        }
        kept.iter()
            .filter(|checkpoint| !checkpoint.retired)
            .for_each(|checkpoint| _ = missing.remove(&checkpoint.step));
        Ok(missing.len() as u64)
    }

    /// Runs a command of cappactl that ends well only if all is well.
    fn account(&self, arguments: &[&str]) -> Result<()> {
        let ended = self.cappactl(arguments)?;
        let text = || String::from_utf8_lossy(&[&ended.stdout[..], &ended.stderr].concat()).into_owned();
        ensure!(ended.status.success(), "cappactl {}: {}", arguments.join(" "), text());
        Ok(())
    }

    fn cappactl(&self, arguments: &[&str]) -> Result<Output> {
        let url = self.cluster.url();
        cappactl_ended(&[&["--coordinator", &url], arguments].concat(), &self.server.environment())
    }

    /// Gives workers back that are kept out because this soak killed them so often.
    fn release_quarantined(&self) {
        for worker in 0..WORKERS {
            // Refused for those that are not kept out.
            let _ = self.account(&["workers", "release", &format!("worker-{worker}")]);
        }
    }

    /// Updates that were made again, by the job's history: a group that broke at a step and the next one's first.
    async fn steps_lost(&self, job: &str) -> Result<u64> {
        let (mut reached, mut lost) = (0, 0);
        for event in self.cluster.events(job).await? {
            let number = |before| number(&event.message, before);
            match event.kind.as_str() {
                "group_formed" => lost += reached - number("from step ").unwrap_or(reached).min(reached),
                // Who asked for it gave the steps up.
                "rolled_back" => reached = number("to step ").unwrap_or(reached),
                _ => reached = number(" at step ").unwrap_or(reached),
            }
        }
        Ok(lost)
    }

    /// SIGKILL for the coordinator; the next one's clock is so many seconds from the machine's.
    pub(super) async fn restart_coordinator(&mut self, clock: i64) -> Result<()> {
        self.scrape().await;
        self.cluster.kill_coordinator();
        self.clock.set(clock)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.cluster.start_coordinator()
    }

    pub(super) async fn kill_leader(&mut self) -> Result<()> {
        self.scrape().await;
        self.cluster.start_standby()?;
        let took = self.cluster.kill_leader().await?;
        println!("SIGKILL of the leader to the successor's first answer as leader: {:.2} s", took.as_secs_f64());
        ensure!(took < self.take_over, "a take-over took {took:?}\n{}", self.cluster.logs());
        Ok(())
    }

    /// Keeps what the coordinator has measured, which ends with its process.
    async fn scrape(&mut self) {
        let page = async { reqwest::get(format!("http://{}/metrics", self.cluster.http())).await?.text().await };
        if let Ok(page) = page.await {
            self.report.add_phases(&page);
        }
    }

    pub(super) fn starve(&self, victim: usize) -> Result<()> {
        self.starved.as_ref().context("needs hosts")?.admit(self.cluster.worker_pid(victim)?)
    }

    pub(super) fn network(&self) -> Result<&Network> {
        self.network.as_deref().context("needs hosts")
    }

    pub(super) fn detection(&self) -> Duration {
        DETECTION
    }
}

/// Waits for a step that was not there before; in another generation if `regrouped`.
async fn back(coordinators: String, before: wire::Job, regrouped: bool) -> Result<()> {
    let begun = Instant::now();
    let mut last = None;
    let mut coordinators = coordinators.split(',').cycle();
    while begun.elapsed() < PATIENCE {
        let url = format!("http://{}", coordinators.next().context("a coordinator")?);
        let asked = async {
            let mut jobs = wire::jobs_client::JobsClient::connect(url).await?;
            anyhow::Ok(jobs.get(wire::GetRequest { job_id: before.id.clone() }).await?.into_inner())
        };
        if let Ok(Ok(job)) = tokio::time::timeout(Duration::from_secs(1), asked).await {
            let is_later = job.latest.as_ref().is_some_and(|latest| {
                latest.step > before.step && (!regrouped || latest.generation > before.generation)
            });
            if is_later || job.state() == JobState::Succeeded {
                return Ok(());
            }
            last = Some(job);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("no new step in {PATIENCE:?}: {last:?}")
}
