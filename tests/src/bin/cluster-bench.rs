//! `cluster-bench`: how long operators wait, measured on a local cluster of real processes.
//!
//! Prints one JSON line per measurement: name, ours (the median), limit, unit, samples. All
//! measurements use the tiny preset, and workers that are connected and idle beforehand.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cappa_proto as wire;
use cappa_tests::corpus::cappactl;
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use serde_json::json;
use wire::jobs_client::JobsClient;

/// Of the clusters that lose one.
const WORKERS: usize = 4;
/// What a recovery may take from the loss's detection on; what detects a hang comes on top.
const RECOVERY: Duration = Duration::from_secs(3);
/// Repetitions of each measurement.
const SAMPLES: usize = 5;
/// How often the job is looked at: the resolution of the measurements.
const POLL: Duration = Duration::from_millis(5);
/// When a wait is given up.
const LIMIT: Duration = Duration::from_secs(120);
/// Steps that are done before a worker is killed, and after.
const STEPS_AROUND: u64 = 10;

/// Updates between checkpoints where their cost is measured, and checkpoints of such a run.
const CHECKPOINT_EVERY: u64 = 100;
const CHECKPOINTS: u64 = 5;
/// What a checkpoint may cost: seconds for which training stands still, and the share of the run's time in all.
const STALL: f64 = 0.05;
const OVERHEAD: f64 = 0.01;
/// Updates from a checkpoint on within which it is written, and updates before and after those that show what one takes without.
const WRITING: u64 = 30;
const BESIDE: u64 = 30;

type Jobs = JobsClient<tonic::transport::Channel>;

#[tokio::main]
async fn main() -> Result<()> {
    let corpus = Corpus::new(400)?;
    submit_to_first_step(&corpus).await?;
    recovery(&corpus, Fault::Killed).await?;
    recovery(&corpus, Fault::Hung).await?;
    checkpoints(&corpus).await
}

/// More steps than any measurement waits for.
fn spec(workers: (u32, u32)) -> JobSpec {
    JobSpec { steps: 100_000, model: "{ preset: tiny }".into(), workers, ..JobSpec::default() }
}

/// From the start of `cappactl submit` to the first completed step, with two idle workers.
async fn submit_to_first_step(corpus: &Corpus) -> Result<()> {
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() })?;
    let mut jobs = cluster.jobs().await?;
    let file = cluster.folder().join("job.yaml");
    std::fs::write(&file, spec((2, 2)).document(corpus))?;
    let file = file.display().to_string();
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        cluster.wait_idle(2).await?;
        let begun = Instant::now();
        let id = cappactl(&["--coordinator", &cluster.url(), "submit", "--output", "name", "--file", &file])?;
        let id = id.trim().to_owned();
        until(&mut jobs, &id, |job| job.step >= 1).await?;
        samples.push(begun.elapsed().as_secs_f64());
        cancel(&mut jobs, &id).await?;
    }
    print("submit to first step, 2 warm workers", median(&samples), 3.0, "s", &samples);
    Ok(())
}

/// What is done to a worker.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// SIGKILL: its stream ends.
    Killed,
    /// SIGSTOP: it is silent.
    Hung,
}

/// From SIGKILL or SIGSTOP of one of four workers to the next step that the others complete. Each worker is hit in turn, so
/// that the group's lead is among them.
async fn recovery(corpus: &Corpus, fault: Fault) -> Result<()> {
    let options = Options { workers: WORKERS, ..Options::default() };
    let (name, limit) = match fault {
        Fault::Killed => ("a killed worker", RECOVERY),
        Fault::Hung => ("a hung worker", options.detection + RECOVERY),
    };
    let mut cluster = Cluster::start(options)?;
    let mut jobs = cluster.jobs().await?;
    let (mut samples, mut lost) = (Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        cluster.wait_idle(WORKERS).await?;
        let id = cluster.submit(&spec((1, WORKERS as u32)), corpus).await?;
        let before = until(&mut jobs, &id, |job| job.step >= STEPS_AROUND).await?;
        let begun = Instant::now();
        match fault {
            Fault::Killed => cluster.kill_worker(sample % WORKERS),
            Fault::Hung => cluster.signal_worker(sample % WORKERS, libc::SIGSTOP)?,
        }
        // A step of the broken group may be reported late; one of the next generation can't be.
        let in_new_group =
            |job: &wire::Job| job.latest.as_ref().is_some_and(|step| step.generation > before.generation);
        let after = until(&mut jobs, &id, in_new_group).await?;
        samples.push(begun.elapsed().as_secs_f64());
        until(&mut jobs, &id, |job| job.step >= after.step + STEPS_AROUND).await?;
        lost.push(missing_steps(&cluster, &id).await? as f64);
        cancel(&mut jobs, &id).await?;
        cluster.kill_worker(sample % WORKERS);
        cluster.start_worker(sample % WORKERS)?;
    }
    let (worst, limit) = (samples.iter().copied().fold(0.0, f64::max), limit.as_secs_f64());
    print(&format!("recovery from {name}, median"), median(&samples), limit, "s", &samples);
    print(&format!("recovery from {name}, worst"), worst, limit, "s", &samples);
    print(&format!("steps lost with {name}"), lost.iter().sum(), 0.0, "steps", &lost);
    Ok(())
}

/// How long training of two workers stands still for a checkpoint, and what a checkpoint at every hundredth update costs in all: what the
/// updates during which it is written take longer than as many beside them.
async fn checkpoints(corpus: &Corpus) -> Result<()> {
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() })?;
    let steps = CHECKPOINT_EVERY * CHECKPOINTS + WRITING + BESIDE;
    let spec = JobSpec { steps, checkpoint_every: CHECKPOINT_EVERY, ..spec((2, 2)) };
    let (mut stalls, mut overheads, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        cluster.wait_idle(2).await?;
        let id = cluster.submit(&spec, corpus).await?;
        cluster.wait_state(&id, wire::JobState::Succeeded).await?;
        let points = cluster.points(&id).await?;
        let took = |first: u64, last: u64| -> f64 {
            points.iter().filter(|point| (first..last).contains(&point.step)).map(|point| point.seconds).sum()
        };
        let at = (1..=CHECKPOINTS).map(|number| number * CHECKPOINT_EVERY);
        stalls.extend(
            points
                .iter()
                .filter(|point| at.clone().any(|at| at == point.step))
                .map(|point| point.checkpoint_stall_seconds),
        );
        let beside =
            |at: u64| (took(at - BESIDE, at) + took(at + WRITING, at + WRITING + BESIDE)) / (2 * BESIDE) as f64;
        let longer: f64 = at.clone().map(|at| took(at, at + WRITING) - beside(at) * WRITING as f64).sum();
        let all = took(CHECKPOINT_EVERY, CHECKPOINT_EVERY * CHECKPOINTS);
        overheads.push(longer / CHECKPOINTS as f64 / (all / (CHECKPOINTS - 1) as f64));
        seconds.push(all / (CHECKPOINT_EVERY * (CHECKPOINTS - 1)) as f64);
    }
    ensure!(stalls.len() as u64 == CHECKPOINTS * SAMPLES as u64, "{} checkpoints", stalls.len());
    let worst = stalls.iter().copied().fold(0.0, f64::max);
    print("stall of a checkpoint, median", median(&stalls), STALL, "s", &stalls);
    print("stall of a checkpoint, worst", worst, STALL, "s", &stalls);
    print("checkpoints at every 100th update, share of the time, median", median(&overheads), OVERHEAD, "", &overheads);
    print("an update meanwhile", median(&seconds), None, "s", &seconds);
    Ok(())
}

/// Steps that the loss curve lacks, up to its last one.
async fn missing_steps(cluster: &Cluster, id: &str) -> Result<u64> {
    let steps = cluster.curve(id).await?.0;
    let last = *steps.keys().next_back().context("a job that ran has a curve")?;
    Ok(last - steps.len() as u64)
}

/// Looks at the job until something holds of it.
async fn until(jobs: &mut Jobs, id: &str, holds: impl Fn(&wire::Job) -> bool) -> Result<wire::Job> {
    let begun = Instant::now();
    loop {
        let job = jobs.get(wire::GetRequest { job_id: id.into() }).await?.into_inner();
        if holds(&job) {
            return Ok(job);
        }
        ensure!(begun.elapsed() < LIMIT, "what was measured did not happen within {LIMIT:?}: {job:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn cancel(jobs: &mut Jobs, id: &str) -> Result<()> {
    jobs.cancel(wire::ChangeRequest { job_id: id.into(), ..Default::default() }).await?;
    Ok(())
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn print(name: &str, ours: f64, limit: impl Into<Option<f64>>, unit: &str, samples: &[f64]) {
    let round = |value: f64| (value * 1e4).round() / 1e4;
    let samples: Vec<f64> = samples.iter().copied().map(round).collect();
    println!("{}", json!({"name": name, "ours": round(ours), "limit": limit.into(), "unit": unit, "samples": samples}));
}
