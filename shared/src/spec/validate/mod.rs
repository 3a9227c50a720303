//! From the raw spec to the validated one: defaults, bounds, and what must fit together. Every mistake is collected; a
//! value with a mistake is taken as its default, so that the rest can still be judged, and nothing is said about how others
//! fit to it.

mod checker;
mod data;
mod evaluation;
mod init;
mod label;
mod model;
mod objective;
mod scheduling;
mod training;

use std::collections::BTreeSet;

use super::document::Node;
use super::error::{Mistake, SpecError};
use super::load::SpecBase;
use super::raw::{Kind, RawDuration, RawSpec, Short};
use super::{Condition, Dependency, Init, JobKind, JobSpec, Length};
use checker::Checker;

/// Characters of a job's name: the job id adds a suffix, and is a DNS label of at most 63.
const MAX_NAME: usize = 50;
/// Lanes when the spec doesn't say: enough for large gangs, few enough for long reads.
const LANES: u32 = 64;
const BATCH_SIZE: u32 = 8192;
const MAX_BATCH_SIZE: u64 = 1 << 24;

/// The spec as it would run; only to be trusted when nothing was added to `errors`.
pub(super) fn validate(
    mut raw: RawSpec,
    tree: &Node,
    unreadable: &BTreeSet<String>,
    base: &SpecBase,
    errors: &mut Vec<SpecError>,
) -> JobSpec {
    let mut checker = Checker::new(tree, unreadable, base, errors);
    let kind = kind(&mut raw, &mut checker);
    let from = raw.from.take();
    let objective = objective::objective(raw.objective.take(), &mut checker);
    objective::check_towers(&objective, &raw, &mut checker);
    objective::check_tasks(&objective, &raw, &mut checker);
    label::check(&objective, &raw, &mut checker);
    let batch_size = raw.batch_size.unwrap_or(BATCH_SIZE);
    checker.within("batch_size", batch_size, 1..=MAX_BATCH_SIZE);
    if let Some(size) = raw.micro_batch_size {
        checker.within("micro_batch_size", size, 1..=MAX_BATCH_SIZE);
    }
    let ema_decay = raw.ema_decay;
    checker.require(
        ema_decay.is_none_or(|d| (0.0..1.0).contains(&d)),
        "ema_decay",
        ema_decay.unwrap_or_default(),
        "is not from 0 to below 1",
    );
    let sizes = model::model(raw.model, &mut checker);
    let lanes = raw.data.as_ref().and_then(|data| data.lanes);
    let lanes = lane_count(lanes, batch_size, &mut checker);
    let data = data::data(raw.data.unwrap_or_default(), &sizes, lanes, &mut checker);
    label::check_captions(&objective, &data, &mut checker);
    model::check_input(&sizes.model, &data, &mut checker);
    let duration = match kind {
        JobKind::Evaluate => Length::Steps(0),
        JobKind::Pretrain => training::duration(&raw.duration.unwrap_or_default(), &mut checker),
    };
    data::check_duration(&data, duration, &mut checker);
    let init = match kind {
        JobKind::Evaluate => init::evaluated(from, &mut checker),
        JobKind::Pretrain => init::init(raw.init, &objective, &mut checker),
    };
    let mut after = scheduling::after(raw.after.unwrap_or_default(), &mut checker);
    if let Some(job) = init.as_ref().and_then(Init::job).filter(|job| !job.is_empty())
        && !after.iter().any(|before| before.job == job)
    {
        after.push(Dependency { job: job.to_owned(), condition: Condition::Succeeded });
    }
    JobSpec {
        kind,
        name: name(raw.name, &mut checker),
        init,
        freeze: init::freeze(raw.freeze, &objective, &mut checker),
        objective,
        model: sizes.model,
        data,
        batch_size,
        micro_batch_size: raw.micro_batch_size,
        gradient_checkpointing: raw.gradient_checkpointing.unwrap_or_default(),
        optimizer: training::optimizer(raw.optimizer, &mut checker),
        ema_decay,
        schedule: training::schedule(raw.schedule, duration.steps(batch_size), &mut checker),
        duration,
        precision: raw.precision.unwrap_or(super::Precision::Fp32),
        on_bad_loss: training::on_bad_loss(raw.on_bad_loss, &mut checker),
        verify_replicas: training::verify_replicas(raw.verify_replicas, &mut checker),
        workers: training::workers(raw.workers.as_ref(), lanes, &mut checker),
        namespace: scheduling::namespace(raw.namespace, &mut checker),
        priority: scheduling::priority(raw.priority, &mut checker),
        on_preemption: raw.on_preemption.unwrap_or_default(),
        retry: scheduling::retry(&raw.retry.unwrap_or_default(), &mut checker),
        after,
        on_failed_dependency: raw.on_failed_dependency.unwrap_or_default(),
        time_limit: scheduling::limit("time_limit", raw.time_limit.as_deref(), &mut checker),
        queue_deadline: scheduling::limit("queue_deadline", raw.queue_deadline.as_deref(), &mut checker),
        checkpoint: training::checkpoint(&raw.checkpoint.unwrap_or_default(), &mut checker),
        evaluate: evaluation::evaluations(raw.evaluate.unwrap_or_default(), &mut checker),
    }
}

/// What the job does. That of a job that only evaluates is said in fewer words: its checkpoint is all that it starts from, and it reads
/// no other data.
fn kind(raw: &mut RawSpec, checker: &mut Checker<'_>) -> JobKind {
    match raw.kind {
        None | Some(Kind::Pretrain) => {
            if raw.from.is_some() {
                let message = "is for the kind `evaluate`; a job that trains starts from `init`".into();
                checker.report(&["from", "kind"], Mistake::Inconsistent, message);
            }
            if raw.data.as_ref().is_some_and(|data| data.train.is_none()) {
                checker.report(&["data.train"], Mistake::Missing, "is required".into());
            }
            JobKind::Pretrain
        }
        Some(Kind::Evaluate) => {
            evaluate_only(raw, checker);
            JobKind::Evaluate
        }
        Some(Kind::Export) => {
            let message = "`export` is not supported by this version; `cappactl export` writes an encoder".to_owned();
            checker.report(&["kind"], Mistake::Unsupported, message);
            JobKind::Pretrain
        }
    }
}

/// `init` says the same as `from`, and a duration of no steps nothing: so the spec as it runs writes them. Training data is not read.
fn evaluate_only(raw: &mut RawSpec, checker: &mut Checker<'_>) {
    let is_long =
        |duration: &RawDuration| (duration.steps, duration.epochs, duration.examples) != (Some(0), None, None);
    let (from, parts) = match raw.init.take() {
        Some(Short::Name(from)) => (Some(from), None),
        Some(Short::Map(init)) => (init.from, init.parts),
        None => (None, None),
    };
    let given = [
        ("duration", raw.duration.as_ref().is_some_and(is_long)),
        ("init", from.is_some() && raw.from.is_some()),
        ("init.parts", parts.is_some()),
        ("freeze", raw.freeze.is_some()),
        ("ema_decay", raw.ema_decay.is_some()),
    ];
    for (path, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        let message = "is for jobs that train; `evaluate` takes its network from `from`".into();
        checker.report(&[path, "kind"], Mistake::Inconsistent, message);
    }
    raw.from = raw.from.take().or(from);
    if raw.from.is_none() {
        checker.report(&["from", "kind"], Mistake::Missing, "is required: the checkpoint to evaluate".into());
    }
    let first = raw.evaluate.iter().flatten().next();
    match (first.map(|evaluation| evaluation.data.clone()), &mut raw.data) {
        (None, _) => checker.report(&["evaluate", "kind"], Mistake::Missing, "is required: what to evaluate".into()),
        (Some(first), Some(data)) => data.train = first.map(Short::Name),
        (Some(_), None) => {}
    }
}

fn name(name: Option<String>, checker: &mut Checker<'_>) -> String {
    let name = name.unwrap_or_default();
    checker.label("name", &name, MAX_NAME);
    name
}

/// Lanes that divide the batch size, or the numbers that would.
fn lane_count(given: Option<u32>, batch_size: u32, checker: &mut Checker<'_>) -> u32 {
    let lanes = given.unwrap_or(LANES.min(batch_size)).max(1);
    checker.within("data.lanes", given.unwrap_or(lanes), 1..=MAX_BATCH_SIZE);
    if !batch_size.is_multiple_of(lanes) {
        let below = batch_size / lanes * lanes;
        let above = u64::from(below) + u64::from(lanes);
        let sizes = if below == 0 { format!("{above}") } else { format!("{below} or {above}") };
        let divisor = (1..=lanes).rev().find(|lanes| batch_size.is_multiple_of(*lanes)).unwrap_or(1);
        let default = if given.is_none() { " (the default)" } else { "" };
        let message =
            format!("{batch_size} is not a multiple of data.lanes, {lanes}{default}; use {sizes}, or {divisor} lanes");
        checker.report(&["batch_size", "data.lanes"], Mistake::NotDivisible, message);
    }
    lanes
}
