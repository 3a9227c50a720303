//! Optimizers: clipping, the rule's direction, decoupled weight decay and the schedule.
//!
//! Every rule is used in the authors' order: gradients are clipped at a joint norm, the rule makes
//! a direction u of them, and p ← p - s(t) · (lr · u + wd · p), with weight decay only for
//! parameters whose names end in `/kernel`. Weight decay follows the schedule but not the
//! learning rate.

mod adafactor;
mod adamw;
mod lion;
mod muon;

use std::collections::HashMap;

use cappa_collective::ops;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::schedule::Schedule;
use crate::{ModelError, ParamTable};

use adafactor::Adafactor;
pub use adafactor::{AdafactorConfig, second_moment_decay};
use adamw::AdamW;
pub use adamw::AdamWConfig;
use lion::Lion;
pub use lion::LionConfig;
use muon::Muon;
pub use muon::MuonConfig;

/// How gradients become a direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleConfig {
    /// The authors' Adafactor variant.
    Adafactor(AdafactorConfig),
    /// Adam with decoupled weight decay.
    AdamW(AdamWConfig),
    /// The sign of momentum.
    Lion(LionConfig),
    /// Orthogonal momentum for the blocks' matrices, AdamW for the rest.
    Muon(MuonConfig),
}

/// All that an update depends on besides parameters, gradients and state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    /// The rule.
    pub rule: RuleConfig,
    /// Learning rate at schedule factor 1.
    pub learning_rate: f64,
    /// Weight decay at schedule factor 1, not multiplied by the learning rate.
    pub weight_decay: f64,
    /// Joint norm above which gradients are scaled down to it.
    pub clip_norm: Option<f64>,
    /// Factor of learning rate and weight decay at each step.
    pub schedule: Schedule,
}

/// What one update did.
#[derive(Debug)]
pub struct StepStats {
    /// Joint norm of the scaled gradients before clipping: a scalar on their device, so that the
    /// host need not wait for it.
    pub grad_norm: Tensor,
    /// Learning rate × schedule factor.
    pub learning_rate: f64,
}

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    Adafactor(Adafactor),
    AdamW(AdamW),
    Lion(Lion),
    Muon(Muon),
}

/// The parameters of one update that have gradients, in the table's order.
struct Update<'a> {
    /// Index of each in the table.
    places: Vec<usize>,
    params: Vec<&'a Tensor>,
    grads: Vec<&'a Tensor>,
    /// Whether weights decay.
    decayed: Vec<bool>,
    /// Updates done before this one.
    count: u64,
    learning_rate: f64,
    weight_decay: f64,
    schedule: f64,
}

impl Optimizer {
    /// An optimizer with fresh state for every parameter of the table that wants gradients
    /// (freeze others first).
    #[must_use]
    pub fn new(config: OptimizerConfig, params: &ParamTable) -> Self {
        let rule = match &config.rule {
            RuleConfig::Adafactor(rule) => Rule::Adafactor(Adafactor::new(rule.clone(), params)),
            RuleConfig::AdamW(rule) => Rule::AdamW(AdamW::of(rule.clone(), params, |_, _| true)),
            RuleConfig::Lion(rule) => Rule::Lion(Lion::new(rule.clone(), params)),
            RuleConfig::Muon(rule) => Rule::Muon(Muon::new(rule.clone(), params)),
        };
        Self { config, rule }
    }

    /// What it was made from.
    #[must_use]
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Updates the parameters in place. `grads` are in the order of the table (see
    /// [`ParamTable::grads`]) and are overwritten; `count` is the number of updates done before
    /// this one; `grad_scale` multiplies the gradients before anything else (1 / the weight of
    /// the batch). Never waits for the device.
    ///
    /// # Errors
    /// A list operation fails, which means that gradients and table do not belong together.
    pub fn step(
        &mut self,
        params: &ParamTable,
        grads: &[Option<Tensor>],
        count: u64,
        grad_scale: f64,
    ) -> Result<StepStats, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let factor = self.config.schedule.factor(count);
        let mut update = Update {
            places: Vec::new(),
            params: Vec::new(),
            grads: Vec::new(),
            decayed: Vec::new(),
            count,
            learning_rate: self.config.learning_rate,
            weight_decay: self.config.weight_decay,
            schedule: factor,
        };
        for (place, ((name, param), grad)) in params.iter().zip(grads).enumerate() {
            let Some(grad) = grad else { continue };
            update.places.push(place);
            update.params.push(param);
            update.grads.push(grad);
            update.decayed.push(name.ends_with("/kernel"));
        }
        let learning_rate = factor * self.config.learning_rate;
        if update.grads.is_empty() {
            return Ok(StepStats { grad_norm: Tensor::from(0f32), learning_rate });
        }
        let grad_norm = self.clip(&update.grads, grad_scale)?;
        match &mut self.rule {
            Rule::Adafactor(rule) => rule.apply(&update)?,
            Rule::AdamW(rule) => rule.apply(&update)?,
            Rule::Lion(rule) => rule.apply(&update)?,
            Rule::Muon(rule) => rule.apply(&update)?,
        }
        Ok(StepStats { grad_norm, learning_rate })
    }

    /// Scales the gradients, then clips them to a joint norm c: unchanged below c, else g · c / ‖g‖.
    fn clip(&self, grads: &[&Tensor], scale: f64) -> Result<Tensor, ModelError> {
        let norm = ops::joint_norm(grads)? * scale;
        if let Some(most) = self.config.clip_norm {
            let factor = (most / &norm).where_self(&norm.lt(most).logical_not(), &norm.ones_like()) * scale;
            ops::mul_tensor_(grads, &factor)?;
        } else if scale != 1.0 {
            ops::mul_scalar_(grads, scale)?;
        }
        Ok(norm)
    }

    /// The state by name, sharing memory: what a checkpoint must hold besides the parameters and
    /// the number of updates done.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let slots = match &self.rule {
            Rule::Adafactor(rule) => rule.state(),
            Rule::AdamW(rule) => rule.state(),
            Rule::Lion(rule) => rule.state(),
            Rule::Muon(rule) => rule.state(),
        };
        slots.into_iter().map(|(name, tensor)| (format!("opt/{name}"), tensor)).collect()
    }

    /// Overwrites the state in place (further tensors are ignored).
    ///
    /// # Errors
    /// A state tensor is missing or has another shape; nothing is overwritten then.
    pub fn load_state(&mut self, named: &[(String, Tensor)]) -> Result<(), ModelError> {
        let given: HashMap<&str, &Tensor> = named.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut pairs = Vec::new();
        for (name, tensor) in self.state() {
            let value = *given.get(name.as_str()).ok_or_else(|| ModelError::MissingTensor { name: name.clone() })?;
            if value.size() != tensor.size() {
                return Err(ModelError::shape(&name, value, tensor.size()));
            }
            pairs.push((tensor, value));
        }
        tch::no_grad(|| pairs.iter_mut().for_each(|(tensor, value)| tensor.copy_(value)));
        Ok(())
    }
}

/// State of the same form as a parameter, 0 to begin with.
fn zeros_like(param: &Tensor, kind: Kind) -> Tensor {
    Tensor::zeros(param.size(), (kind, param.device()))
}
