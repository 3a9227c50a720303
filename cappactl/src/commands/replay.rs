//! `cappactl replay`: what a step took in, made again by the loader that trained.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use cappa_data::LoaderConfig;
use cappa_data::corpus::Corpus;
use cappa_data::replay::{self, StepReplay};
use cappa_data::shards::FetchConfig;
use cappa_proto::CurveRequest;
use cappa_shared::checkpoint;
use cappa_shared::ids::Step;
use cappa_shared::spec::JobSpec;
use cappa_shared::storage::{self, Location};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::audit::JobFolder;
use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::{self, Present};

/// How long an absent store is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Letters of a caption or a digest that the table has room for.
const CAPTION: usize = 40;
const DIGEST: usize = 12;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFolder,
    /// Which update, counted from 1 as the curve does.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    step: u64,
    /// The job's spec as it ran, as JSON (`spec` of `cappactl describe JOB -o json`) [default: the coordinator's].
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Folder for downloaded shards [default: a temporary one].
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

#[derive(Serialize)]
struct View {
    folder: String,
    step: u64,
    #[serde(flatten)]
    batch: StepReplay,
    /// Of the run, as the job's curve has it.
    recorded_loss: Option<f64>,
}

/// What matters here of a point of the curve.
#[derive(Deserialize)]
struct Point {
    step: u64,
    loss: f64,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let folder = arguments.job.url(global).await?;
    let at = storage::open(&folder)?;
    let document = arguments.spec(global).await?;
    let spec: JobSpec = serde_json::from_slice(&document).context("the spec is not a job's spec as it ran")?;
    let corpus = Corpus::open(&spec, PATIENCE).await?;
    check(&at, &spec, &corpus, arguments.step).await?;

    let temporary = tempfile::tempdir()?;
    let cache = arguments.cache.clone().unwrap_or_else(|| temporary.path().join("cache"));
    let fetch = FetchConfig { patience: PATIENCE, ..FetchConfig::default() };
    let config = LoaderConfig { first_step: Step(arguments.step - 1), fetch, ..corpus.loader(&spec, &cache)? };
    let batch = tokio::task::spawn_blocking(move || replay::step(config)).await??;
    let recorded_loss = arguments.job.loss(global, &at, arguments.step).await?;
    let view = View { folder, step: arguments.step, batch, recorded_loss };
    output::print(global.output, &view)?;
    Ok(Exit::Ok)
}

impl Arguments {
    /// The spec as it ran, from the file or the coordinator.
    async fn spec(&self, global: &Global) -> anyhow::Result<Vec<u8>> {
        match (&self.spec, self.job.of_coordinator()) {
            (Some(file), _) => fs::read(file).with_context(|| format!("cannot read --spec {}", file.display())),
            (None, Some(job)) => Ok(super::connect(global)?.job(job).await?.spec_json.into_bytes()),
            (None, None) => {
                let message = "without a coordinator nothing says what the job is";
                let remedy =
                    "name the job's spec as it ran with --spec FILE; `spec` of `cappactl describe JOB -o json` is it";
                Err(Failure::new(Exit::Usage, message).remedy(remedy).into())
            }
        }
    }
}

/// The step must be one of the job's, and its data what it was trained on.
async fn check(at: &Location, spec: &JobSpec, corpus: &Corpus, step: u64) -> anyhow::Result<()> {
    let total = spec.total_steps(corpus.samples());
    if step > total {
        return Err(Failure::new(Exit::Usage, format!("the job has {total} steps, so there is no step {step}")).into());
    }
    if let Some(newest) = checkpoint::newest(at).await?
        && newest.contents().data_digest != corpus.digest()
    {
        let message = "the data manifest is not the one that the job was trained on: it was written again";
        let remedy = "put back the manifest of then; its digest is the data_digest of every checkpoint";
        return Err(Failure::new(Exit::Failed, message).remedy(remedy).into());
    }
    Ok(())
}

impl JobFolder {
    /// The loss of a step, if the coordinator or the job's folder knows it.
    async fn loss(&self, global: &Global, at: &Location, step: u64) -> anyhow::Result<Option<f64>> {
        if let Some(job_id) = self.of_coordinator() {
            let client = super::connect(global)?;
            let request = CurveRequest { job_id: job_id.to_owned(), from_step: step };
            let curve = client.jobs.clone().curve(request).await.map_err(|status| client.failure(&status))?;
            return Ok(curve.into_inner().points.iter().find(|point| point.step == step).map(|point| point.loss));
        }
        for segment in at.list("curve").await? {
            let content = at.get(&format!("curve/{}", segment.path)).await?;
            let lines = content.split(|byte| *byte == b'\n');
            let mut points = lines.filter_map(|line| serde_json::from_slice::<Point>(line).ok());
            if let Some(point) = points.find(|point| point.step == step) {
                return Ok(Some(point.loss));
            }
        }
        Ok(None)
    }
}

impl Present for View {
    fn table(&self) -> String {
        let StepReplay { sha256, slots } = &self.batch;
        let mut text = format!("step {} of {}\nbatch {sha256}\n", self.step, self.folder);
        if let Some(loss) = self.recorded_loss {
            text += &format!("loss  {loss} when the job ran\n");
        }
        let rows = slots.iter().map(|slot| {
            let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".into());
            let number = |value: Option<u32>| or_none(value.map(|value| value.to_string()));
            let what = slot.bad.as_ref().map(|bad| format!("bad: {bad}")).or(slot.caption.clone());
            vec![
                slot.slot.epoch.to_string(),
                slot.slot.lane.to_string(),
                or_none(slot.shard.clone()),
                number(slot.slot.sample.map(|sample| sample.index)),
                or_none(slot.key.clone()),
                if slot.parallel { "parallel" } else { "autoregressive" }.into(),
                or_none(slot.choice.zip(slot.captions).map(|(choice, of)| format!("{}/{of}", choice + 1))),
                slot.pixels_sha256.chars().take(DIGEST).collect(),
                or_none(what.map(|what| what.chars().take(CAPTION).collect())),
            ]
        });
        let headers = [">EPOCH", ">LANE", "SHARD", ">INDEX", "KEY", "DECODED", ">CHOICE", "PIXELS", "CAPTION"];
        text += &format!("\n{}", output::columns(&headers, rows));
        text
    }

    fn names(&self) -> Vec<String> {
        self.batch.slots.iter().filter_map(|slot| slot.key.clone()).collect()
    }
}
