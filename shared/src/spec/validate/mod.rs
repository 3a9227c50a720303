//! From the raw spec to the validated one: defaults, bounds, and what must fit together. Every mistake is collected; a
//! value with a mistake is taken as its default, so that the rest can still be judged, and nothing is said about how others
//! fit to it.

mod checker;
mod data;
mod evaluation;
mod model;
mod scheduling;
mod training;

use std::collections::BTreeSet;

use super::document::Node;
use super::error::{Mistake, SpecError};
use super::load::SpecBase;
use super::raw::{Kind, ObjectiveName, RawObjective, RawSpec, Short};
use super::{JobSpec, Objective};
use checker::Checker;

/// Characters of a job's name: the job id adds a suffix, and is a DNS label of at most 63.
const MAX_NAME: usize = 50;
/// Lanes when the spec doesn't say: enough for large gangs, few enough for long reads.
const LANES: u32 = 64;
const BATCH_SIZE: u32 = 8192;
const MAX_BATCH_SIZE: u64 = 1 << 24;

/// The spec as it would run; only to be trusted when nothing was added to `errors`.
pub(super) fn validate(
    raw: RawSpec,
    tree: &Node,
    unreadable: &BTreeSet<String>,
    base: &SpecBase,
    errors: &mut Vec<SpecError>,
) -> JobSpec {
    let mut checker = Checker::new(tree, unreadable, base, errors);
    kind(raw.kind, &mut checker);
    let batch_size = raw.batch_size.unwrap_or(BATCH_SIZE);
    checker.within("batch_size", batch_size, 1..=MAX_BATCH_SIZE);
    let sizes = model::model(raw.model, &mut checker);
    let lanes = raw.data.as_ref().and_then(|data| data.lanes);
    let lanes = lane_count(lanes, batch_size, &mut checker);
    let data = data::data(raw.data.unwrap_or_default(), &sizes, lanes, &mut checker);
    model::check_input(&sizes.model, &data, &mut checker);
    let duration = training::duration(&raw.duration.unwrap_or_default(), &mut checker);
    data::check_duration(&data, duration, &mut checker);
    JobSpec {
        name: name(raw.name, &mut checker),
        objective: objective(raw.objective, &mut checker),
        model: sizes.model,
        data,
        batch_size,
        optimizer: training::optimizer(raw.optimizer, &mut checker),
        schedule: training::schedule(raw.schedule, duration.steps(batch_size), &mut checker),
        duration,
        precision: raw.precision.unwrap_or(super::Precision::Fp32),
        verify_replicas: training::verify_replicas(raw.verify_replicas, &mut checker),
        workers: training::workers(raw.workers.as_ref(), lanes, &mut checker),
        namespace: scheduling::namespace(raw.namespace, &mut checker),
        priority: scheduling::priority(raw.priority, &mut checker),
        on_preemption: raw.on_preemption.unwrap_or_default(),
        retry: scheduling::retry(&raw.retry.unwrap_or_default(), &mut checker),
        after: scheduling::after(raw.after.unwrap_or_default(), &mut checker),
        on_failed_dependency: raw.on_failed_dependency.unwrap_or_default(),
        time_limit: scheduling::limit("time_limit", raw.time_limit.as_deref(), &mut checker),
        queue_deadline: scheduling::limit("queue_deadline", raw.queue_deadline.as_deref(), &mut checker),
        checkpoint: training::checkpoint(&raw.checkpoint.unwrap_or_default(), &mut checker),
        evaluate: evaluation::evaluations(raw.evaluate.unwrap_or_default(), &mut checker),
    }
}

fn kind(kind: Option<Kind>, checker: &mut Checker<'_>) {
    let word = match kind {
        None | Some(Kind::Pretrain) => return,
        Some(Kind::Evaluate) => "evaluate",
        Some(Kind::Export) => "export",
    };
    let message = format!("`{word}` is not supported by this version; only `pretrain` is");
    checker.report(&["kind"], Mistake::Unsupported, message);
}

fn name(name: Option<String>, checker: &mut Checker<'_>) -> String {
    let name = name.unwrap_or_default();
    checker.label("name", &name, MAX_NAME);
    name
}

/// Share of examples predicted in parallel (paper, section 3.2).
const PARALLEL_FRACTION: f64 = 0.75;

fn objective(raw: Option<Short<ObjectiveName, RawObjective>>, checker: &mut Checker<'_>) -> Objective {
    let (path, raw) = match raw {
        None => ("objective", RawObjective { name: None, parallel_fraction: None }),
        Some(Short::Name(name)) => ("objective", RawObjective { name: Some(name), parallel_fraction: None }),
        Some(Short::Map(raw)) => ("objective.type", raw),
    };
    let unsupported = match raw.name.unwrap_or(ObjectiveName::Cappa) {
        ObjectiveName::Cap => {
            if raw.parallel_fraction.is_some() {
                let message = "is for `cappa` only; `cap` predicts nothing in parallel".into();
                checker.report(&["objective.parallel_fraction"], Mistake::Inconsistent, message);
            }
            return Objective::Cap;
        }
        ObjectiveName::Cappa => {
            let parallel_fraction = raw.parallel_fraction.unwrap_or(PARALLEL_FRACTION);
            checker.fraction("objective.parallel_fraction", parallel_fraction);
            return Objective::Cappa { parallel_fraction };
        }
        ObjectiveName::Clip => "clip",
        ObjectiveName::Siglip => "siglip",
        ObjectiveName::Classify => "classify",
    };
    let message = format!("`{unsupported}` is not supported by this version; use `cap` or `cappa`");
    checker.report(&[path], Mistake::Unsupported, message);
    Objective::Cappa { parallel_fraction: PARALLEL_FRACTION }
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
