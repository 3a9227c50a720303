//! Checks of tables without tensors: schedules and initialisation.

use std::collections::BTreeMap;

use serde::Deserialize;
use tch::{Device, Kind};

use super::compare::{Comparison, Tolerance};
use super::reference::{GoldenError, Reference};
use crate::optim::second_moment_decay;
use crate::schedule::{Decay, Schedule};
use crate::{ParamTable, spec};

/// Values that a schedule must have.
#[derive(Deserialize)]
struct Curve {
    name: String,
    args: CurveArgs,
    steps: Vec<u64>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CurveArgs {
    total_steps: u64,
    base: f64,
    decay_type: String,
    #[serde(default)]
    warmup_steps: u64,
    #[serde(default)]
    cooldown_steps: u64,
    #[serde(default)]
    linear_end: f64,
    timescale: Option<f64>,
    #[serde(default)]
    shift: f64,
}

impl CurveArgs {
    fn schedule(&self) -> Result<Schedule, GoldenError> {
        let decay = match self.decay_type.as_str() {
            "cosine" => Decay::Cosine,
            "linear" => Decay::Linear { end: self.linear_end / self.base },
            "rsqrt" => Decay::Rsqrt { timescale: self.timescale.unwrap_or(10_000.0), shift: self.shift },
            "constant" => Decay::Constant,
            other => return Err(GoldenError::Description(format!("decay_type {other}"), None)),
        };
        let &Self { total_steps, warmup_steps, cooldown_steps, .. } = self;
        Ok(Schedule { total_steps, warmup_steps, cooldown_steps, decay })
    }
}

/// Adafactor's decay in update t.
#[derive(Deserialize)]
struct SecondMoment {
    t: u64,
    decay: f64,
}

/// The table's cap and exponent, which it states in words only.
const TABLE_CAP: f64 = 0.999;
const TABLE_RATE: f64 = 0.8;

/// `schedules`: the curves, and the decay of second moments.
pub(super) fn schedules(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let tolerance = Tolerance::absolute(1e-6);
    for curve in reference.describe::<Vec<Curve>>("/schedules")? {
        let schedule = curve.args.schedule()?;
        comparison.equal(&curve.name, &curve.steps.len(), &curve.values.len());
        for (&step, &value) in curve.steps.iter().zip(&curve.values) {
            let factor = schedule.factor(step) * curve.args.base;
            comparison.numbers(&format!("{} at step {step}", curve.name), factor, value, tolerance);
        }
    }
    for row in reference.describe::<Vec<SecondMoment>>("/adafactor_second_moment_decay")? {
        let decay = second_moment_decay(row.t, TABLE_CAP, TABLE_RATE);
        comparison.numbers(&format!("second-moment decay {}", row.t), decay, row.decay, tolerance);
    }
    Ok(())
}

/// Statistics of one parameter after initialisation.
#[derive(Deserialize)]
struct Statistics {
    shape: Vec<i64>,
    n: f64,
    mean: f64,
    std: f64,
    min: f64,
    max: f64,
}

/// `init_stats`: names, shapes and moments of a fresh captioner's parameters.
pub(super) fn initialisation(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let config = reference.model("/cappa/model", reference.describe("/cappa/image")?)?;
    let wanted: BTreeMap<String, Statistics> = reference.describe("/cappa/params")?;
    let specs = spec::captioner(&config);
    let params = ParamTable::init(&specs, 0, Device::Cpu);
    comparison.equal("number of parameters", &params.len(), &wanted.len());
    for spec in &specs {
        let name = &spec.name;
        let Some(wanted) = wanted.get(name) else {
            comparison.equal("parameter", &Some(name), &None);
            continue;
        };
        comparison.equal(name, &spec.shape, &wanted.shape);
        let Some(value) = params.get(name).map(|param| param.detach().to_kind(Kind::Double)) else { continue };
        let bounds = [value.min().double_value(&[]), value.max().double_value(&[])];
        comparison.numbers(&format!("n of {name}"), value.numel() as f64, wanted.n, Tolerance::EXACT);
        if wanted.std == 0.0 {
            comparison.equal(name, &bounds, &[wanted.min, wanted.max]);
            continue;
        }
        // Two draws part by as much as their number of elements lets them.
        let n = wanted.n;
        let (mean, std) = (value.mean(Kind::Double).double_value(&[]), value.std(false).double_value(&[]));
        comparison.numbers(&format!("std of {name}"), std, wanted.std, Tolerance::relative(5.0 / (2.0 * n).sqrt()));
        comparison.numbers(
            &format!("mean of {name}"),
            mean,
            wanted.mean,
            Tolerance::absolute(5.0 * wanted.std / n.sqrt()),
        );
        if let Some(limit) = spec.init.limit() {
            let outside = [bounds[0], bounds[1], wanted.min, wanted.max]
                .into_iter()
                .any(|bound| bound.abs() > limit * (1.0 + 1e-6));
            comparison.equal(&format!("{name} outside ±{limit}"), &outside, &false);
        }
    }
    Ok(())
}
