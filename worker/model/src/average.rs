//! An exponential moving average of parameters, which often evaluates better than the newest ones.

use cappa_collective::ops;
use tch::Tensor;

use crate::{ModelError, ParamTable};

/// The prefix of averages in checkpoints.
const PREFIX: &str = "ema/";

/// The average of the parameters that are trained: a ← d · a + (1 - d) · p after every update (Polyak and Juditsky,
/// SIAM J. Control Optim. 1992).
#[derive(Debug)]
pub struct Average {
    decay: f64,
    table: ParamTable,
}

impl Average {
    /// Starts with the parameters as they are; frozen ones have no average.
    #[must_use]
    pub fn new(params: &ParamTable, decay: f64) -> Self {
        let mut table = ParamTable::from_tensors(params.iter().filter(|(_, param)| param.requires_grad()));
        table.freeze(|_| true);
        Self { decay, table }
    }

    /// Takes in the parameters after an update.
    ///
    /// # Errors
    /// The operation on the list fails.
    pub fn update(&self, params: &ParamTable) -> Result<(), ModelError> {
        let averages: Vec<&Tensor> = self.table.tensors().collect();
        Ok(ops::lerp_(&averages, &self.trained(params), 1.0 - self.decay)?)
    }

    /// Exchanges averages and parameters, bit for bit.
    ///
    /// # Errors
    /// The operation on the list fails.
    pub fn swap(&self, params: &ParamTable) -> Result<(), ModelError> {
        let (averages, trained): (Vec<&Tensor>, _) = (self.table.tensors().collect(), self.trained(params));
        let kept: Vec<Tensor> = averages.iter().map(|average| average.copy()).collect();
        ops::copy_(&averages, &trained)?;
        Ok(ops::copy_(&trained, &kept)?)
    }

    fn trained<'p>(&self, params: &'p ParamTable) -> Vec<&'p Tensor> {
        self.table.iter().map(|(name, _)| params.get(name).expect("the table it was made of")).collect()
    }

    /// The averages by name, `ema/<name>`, sharing memory.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.table.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.shallow_clone())).collect()
    }

    /// Overwrites the averages in place (further tensors are ignored).
    ///
    /// # Errors
    /// One is missing or has another shape; nothing is overwritten then.
    pub fn load_state(&mut self, named: &[(String, Tensor)]) -> Result<(), ModelError> {
        let averages =
            named.iter().filter_map(|(name, t)| Some((name.strip_prefix(PREFIX)?.to_owned(), t.shallow_clone())));
        self.table.load_named(&averages.collect::<Vec<_>>())
    }
}

/// A checkpoint's parameters `params/<name>`, averaged where it has averages.
#[must_use]
pub fn averaged(named: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let (averages, others): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _)| name.starts_with(PREFIX));
    let mut params: std::collections::BTreeMap<_, _> =
        others.into_iter().filter(|(name, _)| name.starts_with("params/")).collect();
    params.extend(averages.into_iter().map(|(name, value)| (name.replacen(PREFIX, "params/", 1), value)));
    params.into_iter().collect()
}
