//! `cappa-worker replay`: the updates up to a step again, by this machine alone.
//!
//! What a step takes in is a function of the job's spec, its data and the step, and so is the state before it: that of the newest
//! checkpoint before, or at step 0 what the job started from, after the updates in between. It is the same loss as in the job, up to the
//! rounding of sums that several ranks made in another order.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cappa_data::corpus::Corpus;
use cappa_data::patience::Patience;
use cappa_data::shards::FetchConfig;
use cappa_data::stats::PipelineStats;
use cappa_data::{Loader, LoaderConfig};
use cappa_shared::causes::with_causes;
use cappa_shared::ids::{JobId, Step};
use cappa_shared::spec::{BadLossAction, JobSpec};
use serde::Serialize;
use tch::{Device, Tensor};

use crate::batches::RankBatch;
use crate::checkpoint::{CheckpointError, Restore, read_weights};
use crate::cli::ReplayArgs;
use crate::context::Backend;
use crate::train::loss::Plan;
use crate::train::state::TrainState;
use crate::train::stats::StepStats;
use crate::train::verdict::{Verdict, anchor, judge};

/// How long an absent store is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Batches made ahead.
const DEPTH: usize = 2;

/// A step that was made again, by the names of the job's curve.
#[derive(Serialize)]
struct Point {
    step: u64,
    /// `null` where it is no number.
    loss: f64,
    learning_rate: f64,
    grad_norm: f64,
    examples: u64,
}

/// Prints a line of JSON for every update that is made again, up to the step.
pub(crate) fn replay(args: &ReplayArgs) -> Result<()> {
    let backend = Backend::open()?;
    let document = std::fs::read(&args.spec).with_context(|| format!("cannot read --spec {}", args.spec.display()))?;
    let spec: JobSpec = serde_json::from_slice(&document)
        .with_context(|| format!("--spec {} is not a job's spec as it ran", args.spec.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let corpus = runtime.block_on(Corpus::open(&spec, PATIENCE, &PipelineStats::default()))?;
    let total_steps = Step(spec.total_steps(corpus.samples()));
    if args.step > total_steps.0 {
        bail!("the job has {total_steps} steps, so there is no step {}", args.step);
    }
    let job: JobId = spec.name.parse().context("the spec's name is no name of a job")?;
    let state = TrainState::initialise(&job, &spec, total_steps, backend.device())?;
    let state = runtime.block_on(restore(args, &spec, state))?;
    updates(&corpus, &spec, state, Step(args.step), &args.cache, backend.device())
}

/// The state of the first of the checkpoints that can be read; without any, what the job started from.
async fn restore(args: &ReplayArgs, spec: &JobSpec, mut state: TrainState) -> Result<TrainState> {
    let patience = Patience { limit: PATIENCE, stats: &PipelineStats::default() };
    for manifest in &args.manifest {
        match (Restore { folder: &args.folder, manifest }).read(&mut state, patience).await {
            Ok(()) => return Ok(state),
            Err(CheckpointError::Unread(unread)) => return Err(unread.into()),
            Err(error) => {
                eprintln!("{manifest} can't be restored, the one before it is tried: {}", with_causes(&error));
            }
        }
    }
    if let Some(init) = &spec.init {
        let weights = read_weights(&init.from, patience)
            .await
            .with_context(|| format!("init.from {} can't be read", init.from))?;
        state.start_from(spec, init, &weights.tensors)?;
    }
    Ok(state)
}

/// Makes the updates from the state's step to the last, as the training page does, without a group.
fn updates(
    corpus: &Corpus,
    spec: &JobSpec,
    mut state: TrainState,
    last: Step,
    cache: &Path,
    device: Device,
) -> Result<()> {
    let mut loader = Loader::start(LoaderConfig {
        first_step: state.step,
        end_step: Some(last),
        fetch: FetchConfig { patience: PATIENCE, ..FetchConfig::default() },
        depth: DEPTH,
        ..corpus.loader(spec, cache)?
    })?;
    let batch_size = f64::from(spec.batch_size);
    let plan = Plan::new(spec, 1);
    let rewinds = spec.on_bad_loss.action == BadLossAction::Rewind;
    let mut kept = Kept::default();
    while state.step < last {
        if rewinds && anchor(spec, &state) == state.step {
            kept = Kept::of(&state);
        }
        let batch = RankBatch::new(loader.next_batch()?, device, spec.data.image_size)?;
        let RankBatch { examples, weight, seen, quarantined, .. } = batch.sent_to(device)?;
        let mut passes = plan.passes(&state.model, &examples, None)?;
        while passes.remaining() > 0 {
            passes.forward()?.backward(batch_size.recip())?;
        }
        let all = StepStats { loss: passes.sum(), weight, seen, bad: quarantined.len() as f64, ..StepStats::default() };
        let verdict = judge(spec, &state, &all)?;
        let to = anchor(spec, &state);
        let update = state.update(&verdict, &all, spec.batch_size)?;
        if let Verdict::Rewind(_) = verdict {
            state.rewind(kept.at(to)?, &all)?;
        }
        print(&Point {
            step: state.step.0,
            loss: all.mean_loss(),
            learning_rate: update.as_ref().map_or(0.0, |update| update.learning_rate),
            grad_norm: update.as_ref().map_or(0.0, |update| update.grad_norm.double_value(&[])),
            examples: update.map_or(0, |_| all.weight as u64),
        })?;
    }
    Ok(())
}

/// The newest state that a bad update would go back to.
#[derive(Default)]
struct Kept {
    step: Option<Step>,
    tensors: Vec<(String, Tensor)>,
}

impl Kept {
    fn of(state: &TrainState) -> Self {
        let copy = |(name, tensor): (String, Tensor)| (name, tensor.to_device(Device::Cpu).copy());
        Self { step: Some(state.step), tensors: state.named().into_iter().map(copy).collect() }
    }

    fn at(&self, step: Step) -> Result<&[(String, Tensor)]> {
        if self.step != Some(step) {
            bail!(
                "the run went back to the state of step {step}, whose checkpoint is gone; replay a step before that, or one after the next checkpoint"
            );
        }
        Ok(&self.tensors)
    }
}

/// A line on stdout, at once: whoever started us shows how far we are.
fn print(point: &Point) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, point)?;
    out.write_all(b"\n")?;
    out.flush()
}
