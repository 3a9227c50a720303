//! A rank's batches: from the data crate's bytes to the model crate's tensors.

use std::time::Duration;

use cappa_data::Batch as DataBatch;
use cappa_data::corpus::Corpus;
use cappa_data::loader::{Loader, LoaderConfig};
use cappa_model::Batch as Examples;
use cappa_proto as wire;
use cappa_session::Assignment;
use cappa_shared::ids::Step;
use cappa_shared::order::lanes_of_rank;
use tch::{Device, Tensor};

use crate::context::Context;
use crate::train::outcome::Departure;

/// Steps made ahead of the one in training.
const DEPTH: usize = 4;
/// How often a wait for data looks whether it is in vain.
const PATIENCE: Duration = Duration::from_millis(50);

/// What one rank brings to a step.
pub(crate) struct RankBatch {
    /// Its examples.
    pub examples: Examples,
    /// The sum of their weights.
    pub weight: f64,
    /// Slots that held a sample, good or bad.
    pub seen: f64,
    /// The bad ones.
    pub quarantined: Vec<wire::Quarantined>,
}

/// A rank's batches, in step order.
pub(crate) struct Batches<'a> {
    loader: Loader,
    assignment: &'a Assignment,
    context: &'a Context,
}

impl<'a> Batches<'a> {
    /// Starts making the batches of this rank's lanes, from a step on.
    pub(crate) fn start(
        corpus: &Corpus,
        assignment: &'a Assignment,
        context: &'a Context,
        first_step: Step,
    ) -> Result<Self, Departure> {
        let spec = &assignment.spec;
        let world_size = u32::try_from(assignment.world_size()).expect("a world size is small");
        let loader = Loader::start(LoaderConfig {
            lanes: lanes_of_rank(assignment.rank, world_size, spec.data.lanes),
            first_step,
            end_step: Some(assignment.total_steps),
            cache_folder: context.cache.clone(),
            cache_bytes: context.cache_bytes,
            decode_threads: context.decode_threads(assignment.members_on_host()),
            fetch: context.fetch,
            depth: DEPTH,
            stats: context.metrics.data(),
            ..corpus.loader(spec, &context.cache)?
        })?;
        Ok(Self { loader, assignment, context })
    }

    /// The next step's batch; gives up when the group is.
    pub(crate) fn next(&mut self) -> Result<RankBatch, Departure> {
        loop {
            if let Some(batch) = self.loader.next_batch_within(PATIENCE)? {
                let (device, size) = (self.context.device, self.assignment.spec.data.image_size);
                return Ok(self.context.metrics.data().copy.of(|| to_tensors(batch, device, size)));
            }
            self.context.interrupt.check(&self.assignment.job, self.assignment.generation)?;
        }
    }
}

/// The bulk of a batch, on its way to the device: from pinned memory a copy runs beside what the device computes, and whoever uses the
/// tensor waits for it on the device, not here.
fn placed(tensor: Tensor, device: Device) -> Tensor {
    match device {
        Device::Cuda(_) => tensor.pin_memory(device).to_device_(device, tensor.kind(), true, false),
        _ => tensor,
    }
}

/// A rank's part of a batch as tensors on a device.
pub(crate) fn to_tensors(batch: DataBatch, device: Device, image_size: u32) -> RankBatch {
    let (size, length) = (i64::from(image_size), batch.text_length as i64);
    RankBatch {
        weight: batch.weight.iter().map(|&weight| f64::from(weight)).sum(),
        seen: batch.samples() as f64,
        examples: Examples {
            images: placed(Tensor::from_slice(&batch.images), device).view([-1, size, size, 3]),
            tokens: Tensor::from_slice(&batch.tokens).view([-1, length]),
            causal_length: batch.causal_length as i64,
            weights: Tensor::from_slice(&batch.weight),
            parallel: batch.parallel,
            mask_locations: None,
        },
        quarantined: batch
            .quarantined
            .into_iter()
            .map(|bad| wire::Quarantined {
                shard: bad.shard,
                index: bad.sample.index.into(),
                key: bad.key.unwrap_or_default(),
                reason: format!("{}: {}", bad.reason.as_str(), bad.message),
            })
            .collect(),
    }
}
