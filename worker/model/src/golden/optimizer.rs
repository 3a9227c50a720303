//! Checks of the optimizer, alone and in training.

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::compare::{Comparison, Tolerance};
use super::network::is_encoder_key_bias;
use super::reference::{GoldenError, Reference, image_size};
use crate::optim::{AdafactorConfig, Optimizer, OptimizerConfig, RuleConfig, second_moment_decay};
use crate::schedule::{Decay, Schedule};
use crate::{Batch, Captioner, ParamTable};

const SCHEDULE: Tolerance = Tolerance::absolute(1e-6);
/// One step of bfloat16, whose mantissa has 8 bits, relative.
const BFLOAT16: f64 = 1.0 / 128.0;

/// The json's `train`.
#[derive(Deserialize)]
struct Train {
    total_steps: u64,
    warmup_steps: u64,
    lr: f64,
    wd: f64,
    grad_clip_norm: f64,
    decay_type: String,
    optax: String,
    beta2_cap: f64,
    min_dim_size_to_factor: i64,
    decay_rate: f64,
    clipping_threshold: Option<f64>,
    momentum: f64,
    dtype_momentum: String,
    eps: f64,
}

impl Train {
    fn optimizer(&self) -> Result<OptimizerConfig, GoldenError> {
        let other = |what: &str| Err(GoldenError::Description(what.to_owned(), None));
        if self.optax != "big_vision.scale_by_adafactor" || self.clipping_threshold.is_some() {
            return other("/train/optax");
        }
        if self.decay_type != "cosine" || self.dtype_momentum != "bfloat16" {
            return other("/train/decay_type");
        }
        Ok(OptimizerConfig {
            rule: RuleConfig::Adafactor(AdafactorConfig {
                beta2_cap: self.beta2_cap,
                decay_rate: self.decay_rate,
                momentum: self.momentum,
                min_dim_size_to_factor: self.min_dim_size_to_factor,
                epsilon: self.eps,
            }),
            learning_rate: self.lr,
            weight_decay: self.wd,
            clip_norm: Some(self.grad_clip_norm),
            schedule: Schedule {
                total_steps: self.total_steps,
                warmup_steps: self.warmup_steps,
                cooldown_steps: 0,
                decay: Decay::Cosine,
            },
        })
    }
}

/// Tolerances of an optimizer check.
struct Tolerances {
    grads: Tolerance,
    updates: Tolerance,
    params: Tolerance,
    /// Second moments.
    states: Tolerance,
    /// Momenta, beyond one step of bfloat16.
    momenta: f64,
}

/// `optimizer_unit`: the chain alone, on given gradients.
pub(super) fn unit(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let train: Train = reference.describe("/train")?;
    let params = reference.param_table();
    let mut run = Run::new(&train, &params)?;
    let calls = reference.tensor("outputs/l2_grads")?.size()[0];
    for call in 0..calls {
        let grad = |name: &str| Ok(Some(reference.tensor(&format!("inputs/grads/{name}"))?.get(call).copy()));
        let grads = params.iter().map(|(name, _)| grad(name)).collect::<Result<Vec<_>, GoldenError>>()?;
        run.step(&params, &grads)?;
        for (name, change) in &run.changes {
            let place = format!("outputs/updates_after_call_{}/{name}", call + 1);
            comparison.check_if_there(&place, change, Tolerance { absolute: 5e-6, relative: 1e-5 });
        }
    }
    let decays: Vec<f64> =
        (1..=calls as u64).map(|t| second_moment_decay(t, train.beta2_cap, train.decay_rate)).collect();
    comparison.check("outputs/beta2", &Tensor::from_slice(&decays), SCHEDULE)?;
    let tolerances = Tolerances {
        grads: Tolerance::relative(1e-5),
        updates: Tolerance::relative(2e-6),
        params: Tolerance::absolute(5e-6),
        states: Tolerance::relative(1e-5),
        momenta: 1e-7,
    };
    run.compare(&params, comparison, &tolerances)
}

/// `trajectory`: full training updates on a fixed sequence of batches.
pub(super) fn trajectory(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let train: Train = reference.describe("/train")?;
    let (images, labels) = (reference.tensor("inputs/images")?, reference.tensor("inputs/labels")?);
    let config = reference.model("/model", image_size(images)?)?;
    let captioner = Captioner::from_named(&config, &reference.named_params(), reference.device())?;
    let params = captioner.params();
    let mut run = Run::new(&train, params)?;
    let order = reference.tensor("inputs/batch_index")?;
    let mut losses = Vec::new();
    let mut traces: Vec<(&str, &Tensor, Vec<Tensor>)> =
        reference.below("outputs/trace/").into_iter().map(|(name, wanted)| (name, wanted, Vec::new())).collect();
    for step in 0..order.size()[0] {
        let index = order.int64_value(&[step]);
        let tokens = labels.get(index).to_kind(Kind::Int64);
        let rows = tokens.size()[0];
        let batch = Batch {
            images: images.get(index),
            causal_length: tokens.size()[1],
            tokens,
            parallel: vec![false; usize::try_from(rows).unwrap_or_default()],
            prefix: None,
            mask_locations: None,
            weights: Tensor::ones([rows], (Kind::Float, Device::Cpu)),
        };
        let loss = captioner.loss(&batch)?.sum / rows as f64;
        params.tensors().for_each(|param| param.shallow_clone().zero_grad());
        loss.backward();
        losses.push(loss.double_value(&[]));
        run.step(params, &params.grads())?;
        for (name, change) in &run.changes {
            let place = format!("outputs/update_at_step_{}/{name}", step + 1);
            comparison.check_if_there(&place, change, Tolerance::absolute(1e-4));
        }
        for (name, _, values) in &mut traces {
            values.extend(params.get(name).map(|param| param.detach().copy()));
        }
    }
    for (name, wanted, values) in traces {
        let values = if values.is_empty() { Tensor::new() } else { Tensor::stack(&values, 0) };
        comparison.tensors(&format!("outputs/trace/{name}"), &values, wanted, Tolerance::absolute(1e-4));
    }
    comparison.check("outputs/loss", &Tensor::from_slice(&losses), Tolerance::absolute(2e-5))?;
    let rates: Vec<f64> = run.factors.iter().map(|factor| factor * train.lr).collect();
    comparison.check("outputs/lr", &Tensor::from_slice(&rates), SCHEDULE)?;
    mean_difference(params, reference, comparison)?;
    let tolerances = Tolerances {
        grads: Tolerance::relative(1e-5),
        updates: Tolerance::relative(1e-3),
        params: Tolerance::absolute(1e-4),
        // As far as the trajectories of gradients may part in rounding.
        states: Tolerance { absolute: 1e-9, relative: 2e-2 },
        momenta: 2e-3,
    };
    run.compare(params, comparison, &tolerances)
}

/// The mean difference over all final parameters sees what the largest can't.
fn mean_difference(params: &ParamTable, reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let (mut sum, mut count) = (0.0, 0.0);
    for (name, param) in params.iter().filter(|(name, _)| !is_encoder_key_bias(name)) {
        let wanted = reference.tensor(&format!("final_params/{name}"))?;
        sum += (param.detach() - wanted).abs().sum(Kind::Double).double_value(&[]);
        count += wanted.numel() as f64;
    }
    comparison.numbers("mean difference of final_params", sum / count, 0.0, Tolerance::absolute(5e-7));
    Ok(())
}

/// Updates, and what is compared of them.
struct Run {
    optimizer: Optimizer,
    count: u64,
    factors: Vec<f64>,
    grad_norms: Vec<f64>,
    param_norms: Vec<f64>,
    change_norms: Vec<f64>,
    /// What the last update added to each parameter.
    changes: Vec<(String, Tensor)>,
}

impl Run {
    fn new(train: &Train, params: &ParamTable) -> Result<Self, GoldenError> {
        Ok(Self {
            optimizer: Optimizer::new(train.optimizer()?, params),
            count: 0,
            factors: Vec::new(),
            grad_norms: Vec::new(),
            param_norms: Vec::new(),
            change_norms: Vec::new(),
            changes: Vec::new(),
        })
    }

    fn step(&mut self, params: &ParamTable, grads: &[Option<Tensor>]) -> Result<(), GoldenError> {
        let before: Vec<Tensor> = params.tensors().map(|param| param.detach().copy()).collect();
        let stats = self.optimizer.step(params, grads, self.count, 1.0)?;
        self.grad_norms.push(stats.grad_norm.double_value(&[]));
        self.factors.push(self.optimizer.config().schedule.factor(self.count));
        self.count += 1;
        let changed = params.iter().zip(&before);
        self.changes = changed.map(|((name, param), before)| (name.to_owned(), param.detach() - before)).collect();
        self.change_norms.push(norm(self.changes.iter().map(|(_, change)| change)));
        self.param_norms.push(norm(params.tensors()));
        Ok(())
    }

    fn compare(&self, params: &ParamTable, comparison: &mut Comparison, t: &Tolerances) -> Result<(), GoldenError> {
        let list = |values: &[f64]| Tensor::from_slice(values);
        comparison.check("outputs/schedule", &list(&self.factors), SCHEDULE)?;
        comparison.check("outputs/l2_grads", &list(&self.grad_norms), t.grads)?;
        comparison.check("outputs/l2_params", &list(&self.param_norms), Tolerance::relative(2e-6))?;
        comparison.check("outputs/l2_updates", &list(&self.change_norms), t.updates)?;
        for (name, param) in params.iter() {
            let place = format!("final_params/{name}");
            if is_encoder_key_bias(name) {
                // Amplified rounding noise, bounded by the sum of all learning rates.
                comparison.check(&place, param, Tolerance::absolute(0.1))?;
            } else {
                comparison.check(&place, param, t.params)?;
            }
        }
        for (name, state) in self.optimizer.state() {
            let place = name.replacen("opt/", "final_opt/", 1);
            let tolerance = match () {
                () if name.contains("/key/bias") && name.starts_with("opt/v/encoder/") => Tolerance::absolute(1e-9),
                () if name.starts_with("opt/ema/") => Tolerance { absolute: t.momenta, relative: BFLOAT16 },
                () => t.states,
            };
            comparison.check_if_there(&place, &state.to_kind(Kind::Float), tolerance);
        }
        Ok(())
    }
}

/// The joint norm, in f64.
fn norm<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> f64 {
    tensors.map(|tensor| tensor.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt()
}
