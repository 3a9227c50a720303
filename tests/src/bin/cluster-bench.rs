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

type Jobs = JobsClient<tonic::transport::Channel>;

#[tokio::main]
async fn main() -> Result<()> {
    let corpus = Corpus::new(400)?;
    submit_to_first_step(&corpus).await?;
    recovery(&corpus, Fault::Killed).await?;
    recovery(&corpus, Fault::Hung).await
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

fn print(name: &str, ours: f64, limit: f64, unit: &str, samples: &[f64]) {
    let round = |value: f64| (value * 1e3).round() / 1e3;
    let samples: Vec<f64> = samples.iter().copied().map(round).collect();
    println!("{}", json!({"name": name, "ours": round(ours), "limit": limit, "unit": unit, "samples": samples}));
}
