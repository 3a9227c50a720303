//! Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), fused.

use cappa_collective::ops;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Update, zeros_like};
use crate::{ModelError, ParamTable};

/// Settings of the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// State of every parameter of a table.
#[derive(Debug)]
pub(super) struct AdamW {
    config: AdamWConfig,
    slots: Vec<Option<Slot>>,
    /// Updates that the slots' step counters have counted.
    counted: u64,
}

#[derive(Debug)]
struct Slot {
    name: String,
    m: Tensor,
    v: Tensor,
    /// Updates done, f32, where the fused operator wants it; set from the caller's count.
    steps: Tensor,
}

impl AdamW {
    /// State for the trained parameters that `takes` chooses by name; the others are left alone.
    pub(super) fn of(config: AdamWConfig, params: &ParamTable, takes: impl Fn(&str, &Tensor) -> bool) -> Self {
        let slot = |(name, param): (&str, &Tensor)| {
            (param.requires_grad() && takes(name, param)).then(|| Slot {
                name: name.to_owned(),
                m: zeros_like(param, Kind::Float),
                v: zeros_like(param, Kind::Float),
                steps: Tensor::zeros([0i64; 0], (Kind::Float, param.device())),
            })
        };
        Self { config, slots: params.iter().map(slot).collect(), counted: 0 }
    }

    pub(super) fn apply(&mut self, update: &Update) -> Result<(), ModelError> {
        if self.counted != update.count {
            let steps: Vec<&Tensor> = self.slots.iter().flatten().map(|slot| &slot.steps).collect();
            ops::zero_(&steps)?;
            ops::add_scalar_(&steps, update.count as f64)?;
        }
        for decayed in [true, false] {
            self.apply_to(update, decayed)?;
        }
        self.counted = update.count + 1;
        Ok(())
    }

    /// Updates the parameters that decay, or those that do not.
    fn apply_to(&self, update: &Update, decayed: bool) -> Result<(), ModelError> {
        let mut lists: [Vec<Tensor>; 5] = Default::default();
        for (i, &place) in update.places.iter().enumerate() {
            let Some(slot) = self.slots[place].as_ref().filter(|_| update.decayed[i] == decayed) else { continue };
            let tensors = [update.params[i], update.grads[i], &slot.m, &slot.v, &slot.steps];
            lists.iter_mut().zip(tensors).for_each(|(list, tensor)| list.push(tensor.shallow_clone()));
        }
        let [params, grads, m, v, steps] = &lists;
        if params.is_empty() {
            return Ok(());
        }
        // The operator multiplies weight decay by the learning rate; ours is independent of it.
        let decays = decayed && update.learning_rate > 0.0;
        let options = ops::AdamW {
            lr: update.schedule * update.learning_rate,
            betas: (self.config.beta1, self.config.beta2),
            weight_decay: if decays { update.weight_decay / update.learning_rate } else { 0.0 },
            eps: self.config.epsilon,
        };
        ops::adamw_(params, grads, ops::AdamWState { m, v, steps }, &options)?;
        Ok(())
    }

    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let of = |slot: &Slot| {
            [("m", &slot.m), ("v", &slot.v)]
                .map(|(part, tensor)| (format!("{part}/{}", slot.name), tensor.shallow_clone()))
        };
        self.slots.iter().flatten().flat_map(of).collect()
    }
}
