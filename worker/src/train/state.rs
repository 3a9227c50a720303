//! What a worker holds of a job: parameters, optimizer state, and the cursor of the run.

use cappa_model::optim::Optimizer;
use cappa_model::{Captioner, ModelError};
use cappa_session::Held;
use cappa_shared::ids::{JobId, Step};
use cappa_shared::spec::JobSpec;
use tch::{Device, Kind, Tensor};

use super::config;
use super::stats::StepStats;

/// Name of the tally among a checkpoint's tensors.
const TALLY: &str = "run/tally";

/// The state of a run. Two members at the same step hold equal bits.
#[derive(Debug)]
pub(crate) struct TrainState {
    /// Whose state this is.
    pub job: JobId,
    /// Completed updates.
    pub step: Step,
    /// The network and its parameters.
    pub model: Captioner,
    /// The update rule and its moments.
    pub optimizer: Optimizer,
    /// Samples met so far, by all ranks.
    tally: Tensor,
}

/// Samples met so far, by all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Slots that held a sample, good or bad.
    pub seen: i64,
    /// Of these, quarantined ones.
    pub bad: i64,
}

impl TrainState {
    /// The state at step 0: parameters drawn from the seed, moments zero. Equal on every rank.
    pub(crate) fn initialise(
        job: &JobId,
        spec: &JobSpec,
        total_steps: Step,
        device: Device,
    ) -> Result<Self, ModelError> {
        let model = config::captioner(spec, device)?;
        let optimizer = config::optimizer(spec, total_steps, model.params());
        let tally = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
        Ok(Self { job: job.clone(), step: Step(0), model, optimizer, tally })
    }

    /// Every tensor of the state by name, sharing memory with it; the same names, shapes and order
    /// on every rank. Weights are `params/…` as the authors name them.
    pub(crate) fn named(&self) -> Vec<(String, Tensor)> {
        let mut named = self.model.params().to_named();
        named.extend(self.optimizer.state());
        named.push((TALLY.into(), self.tally.shallow_clone()));
        named
    }

    /// What the session is told of it.
    pub(crate) fn held(&self) -> Held<'_> {
        Held { job: &self.job, step: self.step }
    }

    /// Samples met so far.
    pub(crate) fn tally(&self) -> Tally {
        Tally { seen: self.tally.int64_value(&[0]), bad: self.tally.int64_value(&[1]) }
    }

    /// One update was made, of the samples that all ranks brought.
    pub(crate) fn advance(&mut self, all: &StepStats) {
        self.tally += Tensor::from_slice(&[all.seen as i64, all.bad as i64]);
        self.step = self.step.next();
    }

    /// Overwrites the state in place with a checkpoint's tensors, as it was after `step` updates.
    pub(crate) fn load(&mut self, named: &[(String, Tensor)], step: Step) -> Result<(), ModelError> {
        self.model.params_mut().load_named(named)?;
        self.optimizer.load_state(named)?;
        let tally = named.iter().find(|(name, _)| name == TALLY);
        let (_, tally) = tally.ok_or_else(|| ModelError::MissingTensor { name: TALLY.into() })?;
        self.tally.copy_(tally);
        self.step = step;
        Ok(())
    }
}
