//! How long, how fast and on how many workers a job trains. Defaults: paper, appendix A.

use super::Checker;
use crate::spec::error::Mistake;
use crate::spec::load::default_warmup;
use crate::spec::raw::{RawCheckpoint, RawDuration, RawOnBadLoss, RawOptimizer, RawSchedule, RawWorkers, Short};
use crate::spec::{
    BadLossAction, Checkpoint, Length, OnBadLoss, Optimizer, OptimizerName, Schedule, ScheduleName, Workers,
};

/// Past it a count of updates or examples is a slip.
const MAX_COUNT: u64 = 1 << 50;

pub(super) fn duration(raw: &RawDuration, checker: &mut Checker<'_>) -> Length {
    let given: Vec<_> = [
        ("duration.steps", raw.steps.map(Length::Steps), raw.steps),
        ("duration.epochs", raw.epochs.map(Length::Epochs), raw.epochs),
        ("duration.examples", raw.examples.map(Length::Examples), raw.examples),
    ]
    .into_iter()
    .filter_map(|(path, length, count)| Some((path, length?, count?)))
    .collect();
    for (path, _, count) in &given {
        checker.within(path, *count, 1..=MAX_COUNT);
    }
    if given.len() != 1 {
        let message = "needs exactly one of steps, epochs and examples".into();
        checker.report(
            &["duration", "duration.steps", "duration.epochs", "duration.examples"],
            Mistake::Inconsistent,
            message,
        );
    }
    given.first().map_or(Length::Epochs(1), |(_, length, _)| *length)
}

pub(super) fn optimizer(raw: Option<Short<OptimizerName, RawOptimizer>>, checker: &mut Checker<'_>) -> Optimizer {
    let raw = match raw {
        None => RawOptimizer::default(),
        Some(Short::Name(name)) => RawOptimizer { name: Some(name), ..RawOptimizer::default() },
        Some(Short::Map(raw)) => raw,
    };
    let name = raw.name.unwrap_or(OptimizerName::Adafactor);
    let optimizer = Optimizer {
        name,
        learning_rate: raw.learning_rate.unwrap_or(1e-3),
        weight_decay: raw.weight_decay.unwrap_or(1e-4),
        clip_norm: raw.clip_norm.unwrap_or(1.0),
        beta1: raw.beta1.unwrap_or(0.9),
        beta2: raw.beta2.unwrap_or(if name == OptimizerName::Lion { 0.99 } else { 0.999 }),
    };
    let Optimizer { learning_rate, weight_decay, clip_norm, beta1, beta2, .. } = optimizer;
    checker.require(learning_rate > 0.0, "optimizer.learning_rate", learning_rate, "is not above 0");
    checker.require(weight_decay >= 0.0, "optimizer.weight_decay", weight_decay, "is below 0");
    checker.require(clip_norm > 0.0, "optimizer.clip_norm", clip_norm, "is not above 0");
    checker.require((0.0..1.0).contains(&beta1), "optimizer.beta1", beta1, "is not from 0 to below 1");
    checker.require((0.0..1.0).contains(&beta2), "optimizer.beta2", beta2, "is not from 0 to below 1");
    optimizer
}

pub(super) fn schedule(
    raw: Option<Short<ScheduleName, RawSchedule>>,
    total_steps: Option<u64>,
    checker: &mut Checker<'_>,
) -> Schedule {
    let raw = match raw {
        None => RawSchedule::default(),
        Some(Short::Name(name)) => RawSchedule { name: Some(name), ..RawSchedule::default() },
        Some(Short::Map(raw)) => raw,
    };
    let name = raw.name.unwrap_or(ScheduleName::Cosine);
    for (path, of, is_given) in [
        ("schedule.end", ScheduleName::Linear, raw.end.is_some()),
        ("schedule.timescale", ScheduleName::Rsqrt, raw.timescale.is_some()),
    ] {
        if is_given && of != name {
            let message = format!("is for the schedule `{}` only", format!("{of:?}").to_lowercase());
            checker.report(&[path, "schedule.name"], Mistake::Inconsistent, message);
        }
    }
    checker.fraction("schedule.end", raw.end.unwrap_or_default());
    checker.within("schedule.timescale", raw.timescale.unwrap_or(1), 1..=MAX_COUNT);
    let cooldown_steps = raw.cooldown_steps.unwrap_or_default();
    check_ramps(raw.warmup_steps, cooldown_steps, total_steps, checker);
    Schedule {
        name,
        warmup_steps: raw.warmup_steps.or_else(|| total_steps.map(default_warmup)),
        cooldown_steps,
        end: raw.end.unwrap_or_default(),
        timescale: raw.timescale,
    }
}

/// Warm-up and cool-down have room in the job.
fn check_ramps(warmup: Option<u64>, cooldown: u64, total_steps: Option<u64>, checker: &mut Checker<'_>) {
    let Some(total) = total_steps else { return };
    let involved = ["duration", "duration.steps", "duration.examples", "batch_size"];
    if let Some(warmup) = warmup.filter(|&warmup| warmup > total) {
        let message = format!("{warmup} is more than the job's {total} steps");
        checker.report(&[&["schedule.warmup_steps"], &involved[..]].concat(), Mistake::Inconsistent, message);
    }
    let room = total.saturating_sub(warmup.unwrap_or_else(|| default_warmup(total)));
    if cooldown > room {
        let message = format!("{cooldown} is more than the {room} steps of the job after its warm-up");
        let paths = ["schedule.cooldown_steps", "schedule.warmup_steps"];
        checker.report(&[&paths, &involved[..]].concat(), Mistake::Inconsistent, message);
    }
}

pub(super) fn workers(raw: Option<&Short<u32, RawWorkers>>, lanes: u32, checker: &mut Checker<'_>) -> Workers {
    let (most, workers) = match raw {
        None => ("workers", Workers { min: 1, max: 1 }),
        Some(&Short::Name(count)) => ("workers", Workers { min: count, max: count }),
        Some(&Short::Map(RawWorkers { min, max })) => {
            let min = min.unwrap_or(1);
            ("workers.max", Workers { min, max: max.unwrap_or(min) })
        }
    };
    let least = if most == "workers" { most } else { "workers.min" };
    checker.within(least, workers.min, 1..=u32::MAX.into());
    if workers.min > workers.max {
        let message = format!("{} is more than workers.max, {}", workers.min, workers.max);
        checker.report(&["workers.min", "workers.max"], Mistake::Inconsistent, message);
    }
    if workers.max > lanes {
        let message = format!("{} is more than data.lanes, {lanes}, and a worker owns at least one lane", workers.max);
        checker.report(&[most, "data.lanes", "batch_size"], Mistake::Inconsistent, message);
    }
    workers
}

pub(super) fn on_bad_loss(raw: Option<Short<BadLossAction, RawOnBadLoss>>, checker: &mut Checker<'_>) -> OnBadLoss {
    let raw = match raw {
        None => RawOnBadLoss::default(),
        Some(Short::Name(action)) => RawOnBadLoss { action: Some(action), ..RawOnBadLoss::default() },
        Some(Short::Map(raw)) => raw,
    };
    let usual = OnBadLoss::default();
    let action = raw.action.unwrap_or_default();
    let is_factor = raw.spike.is_none_or(|factor| factor > 1.0);
    checker.require(is_factor, "on_bad_loss.spike", raw.spike.unwrap_or_default(), "is not above 1");
    checker.within("on_bad_loss.most", raw.most.unwrap_or(usual.most), 1..=u32::MAX.into());
    OnBadLoss { action, spike: raw.spike, most: raw.most.unwrap_or(usual.most) }
}

pub(super) fn verify_replicas(every: Option<u64>, checker: &mut Checker<'_>) -> Option<u64> {
    checker.within("verify_replicas", every.unwrap_or(1), 1..=MAX_COUNT);
    every
}

pub(super) fn checkpoint(raw: &RawCheckpoint, checker: &mut Checker<'_>) -> Checkpoint {
    let checkpoint = Checkpoint { every: raw.every.unwrap_or(1000), keep: raw.keep.unwrap_or(3) };
    checker.within("checkpoint.every", checkpoint.every, 1..=MAX_COUNT);
    checker.within("checkpoint.keep", checkpoint.keep, 1..=u32::MAX.into());
    checkpoint
}
