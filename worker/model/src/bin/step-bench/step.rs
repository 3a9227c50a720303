//! One training step, alone or with other ranks.

use cappa_collective::{Group, Reducer, ReducerOptions, ops};
use cappa_model::optim::{AdamWConfig, Optimizer, OptimizerConfig, RuleConfig};
use cappa_model::schedule::{Decay, Schedule};
use cappa_model::{Batch, Captioner, ModelConfig};
use tch::{Device, Kind, Tensor};

use crate::args::Args;

/// The same images and texts at every step, with new draws of the parallel examples.
pub(crate) struct Data {
    images: Tensor,
    tokens: Tensor,
    weights: Tensor,
    parallel: f64,
}

impl Data {
    /// Drawn on the CPU, so that a seed gives the same data on every device.
    pub(crate) fn random(args: &Args, config: &ModelConfig, device: Device) -> Self {
        let [height, width] = config.image_size;
        let size = i64::from(args.batch.get());
        Self {
            images: Tensor::randn([size, height, width, 3], (Kind::Float, Device::Cpu)).to_device(device),
            tokens: Tensor::randint_low(1, config.vocab, [size, config.text_length], (Kind::Int64, Device::Cpu)),
            weights: Tensor::ones([size], (Kind::Float, Device::Cpu)),
            parallel: args.parallel,
        }
    }

    fn batch(&self) -> Batch {
        let draws = self.weights.rand_like();
        let parallel = (0..draws.size()[0]).map(|row| draws.double_value(&[row]) < self.parallel).collect();
        Batch {
            images: self.images.shallow_clone(),
            tokens: self.tokens.shallow_clone(),
            parallel,
            causal_length: self.tokens.size()[1],
            prefix: None,
            mask_locations: None,
            weights: self.weights.shallow_clone(),
        }
    }
}

/// A model in training.
pub(crate) struct Trainer {
    captioner: Captioner,
    optimizer: Optimizer,
    reducer: Option<Reducer>,
    steps: u64,
}

impl Trainer {
    /// With a group, gradients are averaged over it.
    pub(crate) fn new(captioner: Captioner, group: Option<&Group>) -> anyhow::Result<Self> {
        let params: Vec<Tensor> = captioner.params().tensors().map(Tensor::shallow_clone).collect();
        let reducer = group.map(|group| Reducer::new(group, &params, ReducerOptions::default())).transpose()?;
        Ok(Self { optimizer: Optimizer::new(adamw(), captioner.params()), captioner, reducer, steps: 0 })
    }

    pub(crate) fn captioner(&self) -> &Captioner {
        &self.captioner
    }

    /// One step, to its end on the device; the mean loss of this rank.
    pub(crate) fn step(&mut self, data: &Data) -> anyhow::Result<f64> {
        let batch = data.batch();
        let count = batch.parallel.len() as f64;
        let loss = self.backward(&batch)?;
        let grads = self.captioner.params().grads();
        self.optimizer.step(self.captioner.params(), &grads, self.steps, 1.0 / count)?;
        self.steps += 1;
        match self.reducer {
            // Gradients are views of the reducer's buckets and must stay so.
            Some(_) => ops::zero_(&grads.into_iter().flatten().collect::<Vec<_>>())?,
            None => self.captioner.params().clear_grads()?,
        }
        if let Device::Cuda(index) = loss.device() {
            tch::Cuda::synchronize(i64::try_from(index)?);
        }
        Ok(loss.double_value(&[]) / count)
    }

    /// Leaves the gradients of the summed loss, averaged over ranks, and gives this rank's loss.
    fn backward(&mut self, batch: &Batch) -> anyhow::Result<Tensor> {
        let Some(reducer) = &mut self.reducer else {
            let loss = self.captioner.loss(batch)?.sum;
            loss.backward();
            return Ok(loss);
        };
        reducer.prepare_forward()?;
        let loss = self.captioner.loss(batch)?.sum;
        reducer.prepare_backward(&[&loss])?;
        let backward = loss.f_backward();
        reducer.finish(backward)?;
        Ok(loss)
    }
}

fn adamw() -> OptimizerConfig {
    let schedule = Schedule { total_steps: 1, warmup_steps: 0, cooldown_steps: 0, decay: Decay::Constant };
    OptimizerConfig {
        rule: RuleConfig::AdamW(AdamWConfig::default()),
        learning_rate: 1e-3,
        weight_decay: 1e-7,
        clip_norm: Some(1.0),
        schedule,
    }
}
