//! A load generator: a real coordinator, thousands of workers without training that speak with it through the production
//! session logic over gRPC, jobs that form, lose workers and form again, and people's calls meanwhile.
//!
//! Peers do not notice that a member is gone; only the coordinator's own detection and order to abort get a group on. Steps
//! go by the clock, checkpoints are reports of parts that nobody wrote: what is measured is the coordinator, not training.

mod coordinator;
mod faults;
mod fleet;
mod gang;
mod links;
mod probe;
mod report;
mod story;
mod submissions;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use coordinator::Measured;
use faults::Saboteur;
use fleet::Fleet;
use gang::{Gangs, Pace};
use links::{Links, allow_connections};
use story::Story;
use submissions::Data;
use worker::Surroundings;

pub use links::MOST_STREAMS;
pub use report::{Line, Report};

/// More workers than there are: a job that wants them waits without an effect on the others.
const NEVER: usize = 100_000;

/// The longest wait for all workers to be connected, or for all jobs to run.
const PATIENCE: Duration = Duration::from_secs(180);

/// Times that every job loses a worker at the same moment: one of them lasts for too few calls to tell their 99th percentile.
const STRIKES: usize = 4;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Load {
    /// Workers, among them spares.
    pub workers: usize,
    /// Jobs that train; each takes an equal share of the workers that are not spares.
    pub jobs: usize,
    /// Workers that no job needs until it has lost one.
    pub spares: usize,
    /// How long workers are taken away one by one.
    pub duration: Duration,
    /// How many of them a second.
    pub losses_per_second: f64,
    /// How soon a silent worker is declared lost; a heartbeat comes five times as often.
    pub detection: Duration,
    /// How much later than that it may be told.
    pub tolerance: Duration,
    /// From step to step of a group.
    pub step: Duration,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Streams that share a connection; 1 is as in a cluster.
    pub streams_per_connection: usize,
    /// Jobs that are submitted at once at the end.
    pub submissions: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            workers: 10_000,
            jobs: 100,
            spares: 200,
            duration: Duration::from_secs(60),
            losses_per_second: 3.0,
            detection: Duration::from_secs(5),
            tolerance: Duration::from_secs(1),
            step: Duration::from_secs(1),
            checkpoint_every: 30,
            streams_per_connection: 1,
            submissions: 5_000,
        }
    }
}

impl Load {
    /// A loss that is told later than this is missed.
    fn limit_ms(&self) -> Result<i64> {
        Ok(i64::try_from((self.detection + self.tolerance).as_millis())?)
    }
}

/// Runs the load against a coordinator of its own and says what it came to.
///
/// # Errors
/// When something can't run, or workers or jobs do not come up in time.
pub async fn run(load: &Load) -> Result<Report> {
    ensure!(load.workers > load.spares && load.jobs > 0, "give more workers than spares, and at least one job");
    let gang = (load.workers - load.spares) / load.jobs;
    ensure!(gang > 1, "{} workers without the spares are too few for {} jobs", load.workers - load.spares, load.jobs);
    allow_connections(load.workers, load.streams_per_connection)?;
    let folder = tempfile::tempdir()?;
    let coordinator = Measured::start(folder.path(), load.detection)?;
    let outcome = Box::pin(Run::new(load, gang, &coordinator, folder.path())).await;
    let outcome = match outcome {
        Ok(mut run) => Box::pin(run.all()).await,
        Err(error) => Err(error),
    };
    outcome.with_context(|| format!("the end of the coordinator's log:\n{}", coordinator.tail()))
}

/// A run under way.
struct Run<'a> {
    load: &'a Load,
    gang: usize,
    coordinator: &'a Measured,
    channel: Channel,
    data: Arc<Data>,
    fleet: Arc<Fleet>,
    report: Report,
}

impl<'a> Run<'a> {
    async fn new(load: &'a Load, gang: usize, coordinator: &'a Measured, folder: &std::path::Path) -> Result<Self> {
        let data = Arc::new(Data::write(folder)?);
        let channel = Endpoint::from_shared(coordinator.address.clone())?.tcp_nodelay(true).connect().await?;
        let around = Surroundings {
            links: Links::new(&coordinator.address, load.workers, load.streams_per_connection)?,
            gangs: Gangs::new(Pace { step: load.step, checkpoint_every: load.checkpoint_every }),
            streams_lost: 0.into(),
        };
        let fleet = Fleet::start(around, load.workers);
        Ok(Self { load, gang, coordinator, channel, data, fleet, report: Report::default() })
    }

    async fn all(&mut self) -> Result<Report> {
        let begun = Instant::now();
        self.until("all workers are connected", |free, _| free == self.load.workers).await?;
        self.report.connected(self.load.workers, begun.elapsed());

        let story = Story::default();
        let begun = Instant::now();
        let mut jobs = Vec::new();
        for n in 0..self.load.jobs {
            let spec = self.data.spec(&format!("load-{n}"), self.gang);
            jobs.push(submissions::submit(&self.channel, spec, "load").await?);
        }
        story.follow(&jobs, &self.channel);
        self.until_running(&story).await?;
        self.report.formed(begun.elapsed(), &story.forming());

        let stop = CancellationToken::new();
        let (calls, probe) = probe::start(&self.coordinator.address, &jobs, stop.clone());
        let mut saboteur = Saboteur::new(Arc::clone(&self.fleet), &jobs, self.load.detection);
        let (begun, cpu) = (Instant::now(), self.coordinator.cpu_seconds()?);
        let first = begun;
        saboteur.harass(self.load.duration, self.load.losses_per_second).await;
        self.until_recovered(&story, &saboteur).await?;
        let steady = begun.elapsed();
        self.report.cpu((self.coordinator.cpu_seconds()? - cpu) / steady.as_secs_f64());
        self.report.calls("while workers are lost one by one", &calls, begun);

        let begun = Instant::now();
        let (mut hit, mut longest) = (usize::MAX, Duration::ZERO);
        for _ in 0..STRIKES {
            let begun = Instant::now();
            hit = hit.min(saboteur.strike_all());
            self.until_recovered(&story, &saboteur).await?;
            longest = longest.max(begun.elapsed());
        }
        self.report.struck(STRIKES, hit, self.load.jobs, longest);
        self.report.calls("while all jobs form again at once", &calls, begun);
        self.report.calls("all the time", &calls, first);
        stop.cancel();
        probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;

        self.report.verdict(&saboteur.losses, story.judge(&saboteur.losses, self.load.limit_ms()?));
        self.report.streams_lost(self.fleet.around().streams_lost.load(Ordering::Relaxed));
        if self.load.submissions > 0 {
            let rate = submissions::flood(&self.channel, &self.data, self.load.submissions).await?;
            self.report.submitted(self.load.submissions, rate);
        }
        self.report.memory(self.coordinator.peak_mib()?);
        self.fleet.end();
        Ok(std::mem::take(&mut self.report))
    }

    /// Waits until all losses are told, or it is too late for that, and all jobs run again.
    async fn until_recovered(&self, story: &Story, saboteur: &Saboteur) -> Result<()> {
        let limit = self.load.limit_ms()?;
        let begun = Instant::now();
        while !story.judge(&saboteur.losses, limit).missed.is_empty() && begun.elapsed() < self.load.detection * 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.until_running(story).await
    }

    async fn until_running(&self, story: &Story) -> Result<()> {
        let jobs = self.load.jobs;
        self.wait("all jobs run", || std::future::ready(Ok(story.running() == jobs))).await
    }

    /// Waits until something holds of the numbers of free and of connected workers.
    async fn until(&self, what: &str, holds: impl Fn(usize, usize) -> bool) -> Result<()> {
        let look = || async {
            let mut jobs = cappa_proto::jobs_client::JobsClient::new(self.channel.clone());
            let queue = jobs.queue(cappa_proto::QueueRequest::default()).await?.into_inner();
            Ok(holds(queue.free_workers as usize, queue.connected_workers as usize))
        };
        self.wait(what, look).await
    }

    async fn wait<F: Future<Output = Result<bool>>>(&self, what: &str, look: impl Fn() -> F) -> Result<()> {
        let begun = Instant::now();
        while !look().await? {
            ensure!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}
