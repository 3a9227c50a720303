//! What a worker holds of a job: parameters, optimizer state, and the cursor of the run.

use cappa_collective::ops;
use cappa_model::ModelError;
use cappa_model::average::Average;
use cappa_model::optim::{Optimizer, StepStats as Update};
use cappa_session::Held;
use cappa_shared::ids::{JobId, Step};
use cappa_shared::spec::{Init, JobSpec};
use tch::{Device, Kind, Tensor};

use super::config;
use super::network::Network;
use super::stats::StepStats;
use super::verdict::{Losses, Verdict};

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
    pub model: Network,
    /// The update rule and its moments.
    pub optimizer: Optimizer,
    /// The average of the parameters, where the job keeps one.
    average: Option<Average>,
    /// Samples met so far, by all ranks.
    tally: Tensor,
    /// What later losses are judged by.
    losses: Losses,
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
        let model = Network::new(spec, device)?;
        let optimizer = config::optimizer(spec, total_steps, model.params());
        let average = spec.ema_decay.map(|decay| Average::new(model.params(), decay));
        let tally = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
        Ok(Self { job: job.clone(), step: Step(0), model, optimizer, average, tally, losses: Losses::new() })
    }

    /// Every tensor of the state by name, sharing memory with it; the same names, shapes and order
    /// on every rank. Weights are `params/…` as the authors name them.
    pub(crate) fn named(&self) -> Vec<(String, Tensor)> {
        let mut named = self.model.params().to_named();
        named.extend(self.optimizer.state());
        named.extend(self.average.iter().flat_map(Average::state));
        named.push((TALLY.into(), self.tally.shallow_clone()));
        named.push(self.losses.named());
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

    /// What later losses are judged by.
    pub(super) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Makes the update that the gradients ask for, the sum over `batch_size` slots as a share of them; or with another verdict
    /// none. After one that [rewinds](Self::rewind) the step is still to be counted. The gradients are 0 after it.
    pub(crate) fn update(
        &mut self,
        verdict: &Verdict,
        all: &StepStats,
        batch_size: u32,
    ) -> Result<Option<Update>, ModelError> {
        let grads = self.model.params().grads();
        let update = match verdict {
            Verdict::Skip(_) => {
                self.skip(all);
                None
            }
            Verdict::Rewind(_) => None, // what it goes back to is still to be read
            Verdict::Update => {
                // Slots without a good sample weigh nothing: the mean is over those that have one.
                let scale = f64::from(batch_size) / all.weight;
                let update = self.optimizer.step(self.model.params(), &grads, self.step.0, scale)?;
                self.advance(all)?;
                Some(update)
            }
        };
        ops::zero_(&grads.into_iter().flatten().collect::<Vec<_>>())?;
        Ok(update)
    }

    /// One update was made, of the samples that all ranks brought.
    fn advance(&mut self, all: &StepStats) -> Result<(), ModelError> {
        if let Some(average) = &self.average {
            average.update(self.model.params())?;
        }
        self.skip(all);
        Ok(())
    }

    /// The samples that all ranks brought are spent, and no update was made of them.
    fn skip(&mut self, all: &StepStats) {
        self.tally += Tensor::from_slice(&[all.seen as i64, all.bad as i64]);
        self.step = self.step.next();
    }

    /// Starts the parts that the spec names from a checkpoint's weights, and the average with them.
    pub(crate) fn start_from(
        &mut self,
        spec: &JobSpec,
        init: &Init,
        weights: &[(String, Tensor)],
    ) -> Result<(), ModelError> {
        self.model.start_from(spec, init, weights)?;
        self.average = spec.ema_decay.map(|decay| Average::new(self.model.params(), decay));
        Ok(())
    }

    /// Does something with the averaged parameters in place of the newest, where the job keeps an average.
    pub(crate) fn averaged<T, E: From<ModelError>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let swap = || self.average.as_ref().map_or(Ok(()), |average| average.swap(self.model.params()));
        swap()?;
        let done = work();
        swap()?;
        done
    }

    /// Goes back to an earlier state, as a checkpoint has it. The samples that all ranks brought are spent, as those since then are:
    /// step and tally go on.
    pub(crate) fn rewind(&mut self, named: &[(String, Tensor)], all: &StepStats) -> Result<(), ModelError> {
        let (step, tally, (rewinds, _)) = (self.step, self.tally.copy(), self.losses.rewinds());
        self.load(named, step)?;
        self.tally.copy_(&tally);
        self.skip(all);
        self.losses.rewound(rewinds + 1, self.step);
        Ok(())
    }

    /// Overwrites the state in place with a checkpoint's tensors, as it was after `step` updates.
    pub(crate) fn load(&mut self, named: &[(String, Tensor)], step: Step) -> Result<(), ModelError> {
        self.model.params_mut().load_named(named)?;
        self.optimizer.load_state(named)?;
        if let Some(average) = &mut self.average {
            average.load_state(named)?;
        }
        let tally = named.iter().find(|(name, _)| name == TALLY);
        let (_, tally) = tally.ok_or_else(|| ModelError::MissingTensor { name: TALLY.into() })?;
        self.tally.copy_(tally);
        self.losses.load(named);
        self.step = step;
        Ok(())
    }
}
