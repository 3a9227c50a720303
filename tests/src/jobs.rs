//! Submitting jobs and following what becomes of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cappa_proto as wire;
use wire::JobState;

use crate::cluster::Cluster;
use crate::corpus::Corpus;

/// How long anything may take that should take seconds, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// A small job over a corpus.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// What is learned.
    pub objective: String,
    /// Updates.
    pub steps: u64,
    /// The network.
    pub model: String,
    /// Lanes of an epoch.
    pub lanes: u32,
    /// Gang bounds.
    pub workers: (u32, u32),
    /// Updates between checkpoints.
    pub checkpoint_every: u64,
    /// Sources in place of the corpus's training manifest, as the document writes them.
    pub train: Option<String>,
    /// URL of the tokenizer in place of the corpus's.
    pub tokenizer: Option<String>,
    /// Further fields of the data section, each with a comma before it.
    pub data: String,
    /// Further lines of the document.
    pub more: String,
}

impl Default for JobSpec {
    fn default() -> Self {
        let model = "{ preset: tiny, width: 64, layers: 2, mlp: 128 }".to_owned();
        Self {
            objective: "{ type: cappa, parallel_fraction: 0.5 }".to_owned(),
            steps: 50,
            model,
            lanes: 12,
            workers: (1, 3),
            checkpoint_every: 1_000,
            train: None,
            tokenizer: None,
            data: String::new(),
            more: String::new(),
        }
    }
}

impl JobSpec {
    /// The document.
    pub fn document(&self, corpus: &Corpus) -> String {
        let Self {
            objective,
            steps,
            model,
            lanes,
            workers: (min, max),
            checkpoint_every,
            train,
            tokenizer,
            data,
            more,
        } = self;
        let or_local = |given: &Option<String>, name: &str| {
            given.clone().unwrap_or_else(|| corpus.path(name).display().to_string())
        };
        format!(
            "apiVersion: cappa.dev/v1
name: test
objective: {objective}
model: {model}
data: {{ train: {}, tokenizer: {}, lanes: {lanes}, seed: 7, shuffle_window: 4{data} }}
batch_size: 24
optimizer: {{ name: adamw, learning_rate: 1e-3 }}
schedule: {{ name: cosine, warmup_steps: 5 }}
duration: {{ steps: {steps} }}
workers: {{ min: {min}, max: {max} }}
checkpoint: {{ every: {checkpoint_every}, keep: 2 }}
{more}
",
            or_local(train, "train.json"),
            or_local(tokenizer, "tokenizer.json"),
        )
    }
}

impl Cluster {
    /// Submits a job; gives its id.
    pub async fn submit(&self, spec: &JobSpec, corpus: &Corpus) -> Result<String> {
        self.submit_document(&spec.document(corpus)).await
    }

    /// Submits a job by its document; gives its id.
    pub async fn submit_document(&self, document: &str) -> Result<String> {
        let request = wire::SubmitRequest { spec: document.to_owned(), ..Default::default() };
        let job = self.jobs().await?.submit(request).await?.into_inner().job;
        Ok(job.unwrap_or_default().id)
    }

    /// The job as it is now.
    pub async fn job(&self, id: &str) -> Result<wire::Job> {
        Ok(self.jobs().await?.get(wire::GetRequest { job_id: id.into() }).await?.into_inner())
    }

    /// Waits until something holds of the job.
    pub async fn wait(&self, id: &str, what: &str, holds: impl Fn(&wire::Job) -> bool) -> Result<wire::Job> {
        let begun = Instant::now();
        loop {
            let job = self.job(id).await;
            match &job {
                Ok(job) if holds(job) => return Ok(job.clone()),
                Ok(job) if is_over(job) => bail!("{what} was wanted, but {job:?}\n{}", self.logs()),
                _ if begun.elapsed() > PATIENCE => bail!("{what} was wanted, but {job:?}\n{}", self.logs()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits for so many updates.
    pub async fn wait_step(&self, id: &str, step: u64) -> Result<wire::Job> {
        self.wait(id, &format!("step {step}"), |job| job.step >= step).await
    }

    /// Waits for a state.
    pub async fn wait_state(&self, id: &str, state: JobState) -> Result<wire::Job> {
        self.wait(id, state.as_str_name(), |job| job.state() == state).await
    }

    /// Waits for success; gives the loss of every step.
    pub async fn finish(&self, id: &str) -> Result<Curve> {
        self.wait_state(id, JobState::Succeeded).await?;
        self.curve(id).await
    }

    /// The loss of every step so far.
    pub async fn curve(&self, id: &str) -> Result<Curve> {
        Ok(Curve(self.points(id).await?.into_iter().map(|point| (point.step, point.loss)).collect()))
    }

    /// What every step so far came to.
    pub async fn points(&self, id: &str) -> Result<Vec<wire::StepMetrics>> {
        let request = wire::CurveRequest { job_id: id.into(), from_step: 0 };
        Ok(self.jobs().await?.curve(request).await?.into_inner().points)
    }

    /// What happened to the job, by kind.
    pub async fn events(&self, id: &str) -> Result<Vec<wire::JobEvent>> {
        let request = wire::WatchRequest { job_id: id.into(), after_event: 0 };
        let mut stream = self.jobs().await?.watch(request).await?.into_inner();
        let mut events = Vec::new();
        // The stream of a job that goes on does not end; what has happened comes before the first view of the job.
        let all = async {
            while let Some(update) = stream.message().await? {
                match update.update {
                    Some(wire::job_update::Update::Event(event)) => events.push(event),
                    _ => break,
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, all).await.context("the job's history does not come")??;
        Ok(events)
    }
}

fn is_over(job: &wire::Job) -> bool {
    matches!(job.state(), JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Preempted)
}

/// Loss by step.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve(pub BTreeMap<u64, f64>);

impl Curve {
    /// The largest relative difference of two curves that have exactly the steps 1 to `steps`, and its step.
    pub fn difference(&self, other: &Curve, steps: u64) -> Result<(u64, f64)> {
        for curve in [self, other] {
            ensure!(curve.0.keys().copied().eq(1..=steps), "not every step once: {:?}", curve.0.keys());
        }
        let difference = |(&step, &a): (&u64, &f64)| {
            let b = other.0[&step];
            (step, (a - b).abs() / a.abs().max(b.abs()))
        };
        self.0.iter().map(difference).max_by(|a, b| a.1.total_cmp(&b.1)).context("a run has steps")
    }

    /// Panics unless both have exactly the steps 1 to `steps`, with losses that differ by at most
    /// `tolerance`, relative.
    #[track_caller]
    pub fn assert_same(&self, other: &Curve, steps: u64, tolerance: f64) {
        let (step, worst) = self.difference(other, steps).unwrap_or_else(|error| panic!("{error}"));
        println!("largest relative difference {worst:.1e}, at step {step}");
        assert!(worst <= tolerance, "step {step}: {} and {}, {worst:.1e} apart", self.0[&step], other.0[&step]);
    }
}
