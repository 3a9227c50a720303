//! Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675, algorithm 2): the sign of a mixture of
//! momentum and gradient, so that every element of a parameter moves by the learning rate.

use cappa_collective::ops;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Update, zeros_like};
use crate::{ModelError, ParamTable};

/// Settings of the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LionConfig {
    /// Weight of the momentum in a direction.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
}

impl Default for LionConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99 }
    }
}

/// State of every parameter of a table.
#[derive(Debug)]
pub(super) struct Lion {
    config: LionConfig,
    /// Name and momentum.
    slots: Vec<Option<(String, Tensor)>>,
}

impl Lion {
    pub(super) fn new(config: LionConfig, params: &ParamTable) -> Self {
        let slot = |(name, param): (&str, &Tensor)| {
            param.requires_grad().then(|| (name.to_owned(), zeros_like(param, Kind::Float)))
        };
        Self { config, slots: params.iter().map(slot).collect() }
    }

    /// u = sign(β₁ m + (1 - β₁) g), then m ← β₂ m + (1 - β₂) g.
    pub(super) fn apply(&mut self, update: &Update) -> Result<(), ModelError> {
        let LionConfig { beta1, beta2 } = self.config;
        let slot = |&place: &usize| self.slots[place].as_ref().map(|(_, momentum)| momentum);
        let momenta: Vec<&Tensor> = update.places.iter().map(|place| slot(place).expect("it is trained")).collect();
        let directions: Vec<Tensor> =
            momenta.iter().zip(&update.grads).map(|(m, grad)| m.lerp(grad, 1.0 - beta1).sign_()).collect();
        ops::lerp_(&momenta, &update.grads, 1.0 - beta2)?;
        ops::mul_scalar_(&directions, update.learning_rate)?;
        if update.weight_decay != 0.0 {
            let decayed = |i: &usize| update.decayed[*i];
            let places: Vec<usize> = (0..directions.len()).filter(decayed).collect();
            let of: Vec<&Tensor> = places.iter().map(|&i| &directions[i]).collect();
            let params: Vec<&Tensor> = places.iter().map(|&i| update.params[i]).collect();
            ops::add_(&of, &params, update.weight_decay)?;
        }
        ops::add_(&update.params, &directions, -update.schedule)?;
        Ok(())
    }

    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let of = |(name, momentum): &(String, Tensor)| (format!("m/{name}"), momentum.shallow_clone());
        self.slots.iter().flatten().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::super::{Optimizer, OptimizerConfig, RuleConfig};
    use super::*;
    use crate::schedule::{Decay, Schedule};

    /// Algorithm 2 of the paper, element by element in double precision; weight decay as everywhere here, not multiplied by
    /// the learning rate.
    fn by_hand(start: &[f64], grads: &[[f64; 4]], decay: f64) -> Vec<f64> {
        let (mut p, mut m) = (start.to_vec(), [0.0; 4]);
        for grad in grads {
            for i in 0..4 {
                let c: f64 = 0.9 * m[i] + 0.1 * grad[i];
                let sign = if c == 0.0 { 0.0 } else { c.signum() };
                p[i] -= 0.01 * sign + decay * p[i];
                m[i] = 0.99 * m[i] + 0.01 * grad[i];
            }
        }
        p
    }

    #[test]
    fn the_updates_are_those_of_the_published_algorithm() {
        let start = [0.5, -0.25, 1.0, 0.0];
        // The second gradient is too small to turn the sign that the first has left, in its first element.
        let grads = [[1.0, -2.0, 0.3, 0.0], [-0.05, 3.0, 0.3, 0.0], [-0.5, -0.1, -9.0, 1.0]];
        let tensor = |values: &[f64]| Tensor::from_slice(values).to_kind(Kind::Float);
        let params = ParamTable::from_tensors([("a/kernel", &tensor(&start)), ("a/bias", &tensor(&start))]);
        let schedule = Schedule { total_steps: 10, warmup_steps: 0, cooldown_steps: 0, decay: Decay::Constant };
        let rule = RuleConfig::Lion(LionConfig::default());
        let config = OptimizerConfig { rule, learning_rate: 0.01, weight_decay: 0.1, clip_norm: None, schedule };
        let mut optimizer = Optimizer::new(config, &params);
        for (count, grad) in (0..).zip(&grads) {
            let grads = [Some(tensor(grad)), Some(tensor(grad))];
            optimizer.step(&params, &grads, count, 1.0).unwrap();
        }
        for (name, decay) in [("a/kernel", 0.1), ("a/bias", 0.0)] {
            let found = params.get(name).unwrap().detach().to_device(Device::Cpu).to_kind(Kind::Double);
            let found = Vec::<f64>::try_from(found).unwrap();
            for (found, wanted) in found.iter().zip(by_hand(&start, &grads, decay)) {
                assert!((found - wanted).abs() < 1e-6, "{name}: {found}, not {wanted}");
            }
        }
    }
}
