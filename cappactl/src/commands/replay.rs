//! `cappactl replay`: what a step took in, made again by the loader that trained; with `--run` the step itself, too.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use cappa_data::LoaderConfig;
use cappa_data::corpus::Corpus;
use cappa_data::replay::{self, StepReplay};
use cappa_data::shards::FetchConfig;
use cappa_data::stats::PipelineStats;
use cappa_proto::CurveRequest;
use cappa_shared::checkpoint;
use cappa_shared::ids::Step;
use cappa_shared::number;
use cappa_shared::spec::JobSpec;
use cappa_shared::storage::{self, Location};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::audit::JobFolder;
use super::rerun::{Request, Rerun};
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
    /// Also compute the updates from the checkpoint before up to this one again, on this machine, and compare their losses
    /// with those that the job logged; exit code 1 where they differ.
    #[arg(long)]
    run: bool,
    /// Largest relative difference of losses that agree [default: 1e-4 in fp32, 1e-2 in bf16].
    #[arg(long, value_name = "R", requires = "run")]
    tolerance: Option<f64>,
}

#[derive(Serialize)]
struct View {
    folder: String,
    step: u64,
    #[serde(flatten)]
    batch: StepReplay,
    /// Of the run, as the job's curve has it.
    recorded_loss: Option<f64>,
    /// The update itself, made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Rerun>,
}

/// What matters here of a point of the curve.
#[derive(Debug, Deserialize)]
pub(super) struct Point {
    pub(super) step: u64,
    /// `null` where it is no number.
    #[serde(deserialize_with = "number::or_nan")]
    pub(super) loss: f64,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let folder = arguments.job.url(global).await?;
    let at = storage::open(&folder)?;
    let document = arguments.job.spec(global, arguments.spec.as_deref()).await?;
    let spec: JobSpec = serde_json::from_slice(&document).context("the spec is not a job's spec as it ran")?;
    let corpus = Corpus::open(&spec, PATIENCE, &PipelineStats::default()).await?;
    check(&at, &spec, &corpus, arguments.step).await?;

    let temporary = tempfile::tempdir()?;
    let cache = arguments.cache.clone().unwrap_or_else(|| temporary.path().join("cache"));
    let fetch = FetchConfig { patience: PATIENCE, ..FetchConfig::default() };
    let config = LoaderConfig { first_step: Step(arguments.step - 1), fetch, ..corpus.loader(&spec, &cache)? };
    let batch = tokio::task::spawn_blocking(move || replay::step(config)).await??;
    let recorded = arguments.job.losses(global, &at, arguments.step..=arguments.step).await?;
    let recorded_loss = recorded.get(&arguments.step).copied();
    let run = match arguments.run {
        true => {
            let Arguments { step, tolerance, .. } = *arguments;
            let (folder, cache) = (folder.as_str(), cache.as_path());
            let request = Request { at: &at, folder, spec: &spec, document: &document, step, cache, tolerance };
            Some(request.run(async |steps| arguments.job.losses(global, &at, steps).await).await?)
        }
        false => None,
    };
    let agrees = run.as_ref().is_none_or(|run| run.agrees);
    output::print(global.output, &View { folder, step: arguments.step, batch, recorded_loss, run })?;
    Ok(if agrees { Exit::Ok } else { Exit::Failed })
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
    /// The losses of steps that the coordinator or the job's folder knows. Of a step that was computed again after its state was
    /// lost, the last counts.
    async fn losses(
        &self,
        global: &Global,
        at: &Location,
        steps: RangeInclusive<u64>,
    ) -> anyhow::Result<BTreeMap<u64, f64>> {
        if let Some(job_id) = self.of_coordinator() {
            let client = super::connect(global)?;
            let request = CurveRequest { job_id: job_id.to_owned(), from_step: *steps.start() };
            let curve = client.jobs.clone().curve(request).await.map_err(|status| client.failure(&status))?;
            let points = curve.into_inner().points.into_iter().filter(|point| steps.contains(&point.step));
            return Ok(points.map(|point| (point.step, point.loss)).collect());
        }
        let mut losses = BTreeMap::new();
        for segment in at.list("curve").await? {
            let content = at.get(&format!("curve/{}", segment.path)).await?;
            let lines = content.split(|byte| *byte == b'\n');
            let points = lines.filter_map(|line| serde_json::from_slice::<Point>(line).ok());
            losses.extend(points.filter(|point| steps.contains(&point.step)).map(|point| (point.step, point.loss)));
        }
        Ok(losses)
    }
}

impl Present for View {
    fn table(&self) -> String {
        let StepReplay { sha256, slots } = &self.batch;
        let mut text = format!("step {} of {}\nbatch {sha256}\n", self.step, self.folder);
        if let Some(loss) = self.recorded_loss {
            text += &format!("loss  {loss} when the job ran\n");
        }
        if let Some(run) = &self.run {
            text += &format!("\n{}", run.table());
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
