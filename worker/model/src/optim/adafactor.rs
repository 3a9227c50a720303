//! The authors' Adafactor (Zhai et al., arXiv 2106.04560, section 3.4, after Shazeer and Stern,
//! arXiv 1804.04235): factored second moments, a cap on their decay, momentum in bfloat16, neither
//! relative steps nor parameter scaling.

use cappa_collective::ops;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Update, zeros_like};
use crate::{ModelError, ParamTable};

/// Settings of the rule; the default is the authors'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdafactorConfig {
    /// Most that the second moments' decay becomes.
    pub beta2_cap: f64,
    /// Exponent of the second moments' decay.
    pub decay_rate: f64,
    /// Decay of the momentum.
    pub momentum: f64,
    /// A parameter is factored when its second largest dimension has this size at least.
    pub min_dim_size_to_factor: i64,
    /// Added to squared gradients.
    pub epsilon: f64,
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        Self { beta2_cap: 0.999, decay_rate: 0.8, momentum: 0.9, min_dim_size_to_factor: 32, epsilon: 1e-30 }
    }
}

/// Decay of the second moments in update t = 1, 2, …: min(cap, 1 - t^-rate).
#[must_use]
pub fn second_moment_decay(t: u64, cap: f64, rate: f64) -> f64 {
    (1.0 - (t as f64).powf(-rate)).min(cap)
}

/// State of every parameter of a table.
#[derive(Debug)]
pub(super) struct Adafactor {
    config: AdafactorConfig,
    slots: Vec<Option<Slot>>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    second: SecondMoment,
    /// bfloat16.
    momentum: Tensor,
}

/// Running means of squared gradients, f32.
#[derive(Debug)]
enum SecondMoment {
    Whole(Tensor),
    /// `row` has lost the largest dimension, `column` the second largest; others are batch.
    Factored {
        largest: i64,
        second: i64,
        row: Tensor,
        column: Tensor,
    },
}

impl Adafactor {
    pub(super) fn new(config: AdafactorConfig, params: &ParamTable) -> Self {
        let slot = |(name, param): (&str, &Tensor)| {
            param.requires_grad().then(|| Slot {
                name: name.to_owned(),
                second: SecondMoment::new(param, config.min_dim_size_to_factor),
                momentum: zeros_like(param, Kind::BFloat16),
            })
        };
        let slots = params.iter().map(slot).collect();
        Self { config, slots }
    }

    pub(super) fn apply(&mut self, update: &Update) -> Result<(), ModelError> {
        let decay = second_moment_decay(update.count + 1, self.config.beta2_cap, self.config.decay_rate);
        let slots: Vec<&Slot> = update.places.iter().filter_map(|&place| self.slots[place].as_ref()).collect();
        let momenta: Vec<&Tensor> = slots.iter().map(|slot| &slot.momentum).collect();
        let directions: Vec<Tensor> = slots
            .iter()
            .zip(&update.grads)
            .map(|(slot, grad)| slot.second.direction(grad, decay, self.config.epsilon))
            .collect();
        // Beside the bfloat16 momentum the authors' constant becomes bfloat16 too: 0.8984375 for
        // 0.9. The product stays f32, and so does the momentum that this update uses.
        let beta = half::bf16::from_f64(self.config.momentum).to_f64();
        ops::mul_scalar_(&directions, 1.0 - self.config.momentum)?;
        ops::add_(&directions, &momenta, beta)?;
        ops::copy_(&momenta, &directions)?;
        ops::mul_scalar_(&directions, update.learning_rate)?;
        let (decayed, weights): (Vec<&Tensor>, Vec<&Tensor>) = (directions.iter().zip(&update.params))
            .zip(&update.decayed)
            .filter_map(|((direction, param), decays)| decays.then_some((direction, *param)))
            .unzip();
        if !decayed.is_empty() && update.weight_decay != 0.0 {
            ops::add_(&decayed, &weights, update.weight_decay)?;
        }
        ops::add_(&update.params, &directions, -update.schedule)?;
        Ok(())
    }

    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for slot in self.slots.iter().flatten() {
            let mut add =
                |part: &str, tensor: &Tensor| state.push((format!("{part}/{}", slot.name), tensor.shallow_clone()));
            match &slot.second {
                SecondMoment::Whole(whole) => add("v", whole),
                SecondMoment::Factored { row, column, .. } => {
                    add("v_row", row);
                    add("v_col", column);
                }
            }
            add("ema", &slot.momentum);
        }
        state
    }
}

impl SecondMoment {
    fn new(param: &Tensor, min_dim_size_to_factor: i64) -> Self {
        let size = param.size();
        let mut dims: Vec<usize> = (0..size.len()).collect();
        // Stable: of equal dimensions the last counts as the largest.
        dims.sort_by_key(|&dim| size[dim]);
        match dims[..] {
            [.., second, largest] if size[second] >= min_dim_size_to_factor => {
                let without = |dim: usize| {
                    let mut size = size.clone();
                    size.remove(dim);
                    Tensor::zeros(size, (Kind::Float, param.device()))
                };
                let (row, column) = (without(largest), without(second));
                Self::Factored { largest: largest as i64, second: second as i64, row, column }
            }
            _ => Self::Whole(zeros_like(param, Kind::Float)),
        }
    }

    /// Takes in a gradient, and gives it divided by the root of the second moment.
    fn direction(&self, grad: &Tensor, decay: f64, epsilon: f64) -> Tensor {
        let squares = grad.square() + epsilon;
        let absorb = |moment: &Tensor, fresh: &Tensor| {
            moment.shallow_clone().copy_(&(moment * decay + fresh * (1.0 - decay)));
        };
        match self {
            Self::Whole(whole) => {
                absorb(whole, &squares);
                grad * whole.rsqrt()
            }
            Self::Factored { largest, second, row, column } => {
                let mean = |of: &Tensor, dim: i64, keep: bool| of.mean_dim([dim].as_slice(), keep, Kind::Float);
                absorb(row, &mean(&squares, *largest, false));
                absorb(column, &mean(&squares, *second, false));
                let second_in_row = second - i64::from(second > largest);
                let rows = (row / mean(row, second_in_row, true)).rsqrt().unsqueeze(*largest);
                grad * rows * column.rsqrt().unsqueeze(*second)
            }
        }
    }
}
