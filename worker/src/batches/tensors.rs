//! A batch as tensors.

use cappa_data::Batch as DataBatch;
use cappa_model::{Batch as Examples, ModelError};
use cappa_proto as wire;
use cappa_shared::order::SampleRef;
use tch::{Device, Tensor};

/// What one rank brings to a step.
#[derive(Debug)]
pub(crate) struct RankBatch {
    /// Its examples. Images are bytes, and become numbers on the device: a quarter of what would have to be copied otherwise.
    pub examples: Examples,
    /// The sum of their weights.
    pub weight: f64,
    /// Slots that held a sample, good or bad.
    pub seen: f64,
    /// The bad ones.
    pub quarantined: Vec<wire::Quarantined>,
    /// The good ones, with their keys in their shards.
    pub good: Vec<(SampleRef, String)>,
}

impl RankBatch {
    /// A rank's part of a batch in host memory, its images ready to be sent to a device: in pinned memory where that is a GPU.
    pub(crate) fn new(batch: DataBatch, device: Device, image_size: u32) -> Result<Self, ModelError> {
        let rows = batch.slots.iter().zip(&batch.origins);
        let good = rows.filter_map(|(slot, origin)| Some((slot.sample?, origin.as_ref()?.key.clone()))).collect();
        let (size, length) = (i64::from(image_size), batch.text_length as i64);
        Ok(Self {
            weight: batch.weight.iter().map(|&weight| f64::from(weight)).sum(),
            seen: batch.samples() as f64,
            examples: Examples {
                images: sendable(Tensor::from_slice(&batch.images), device)?.view([-1, size, size, 3]),
                tokens: Tensor::from_slice(&batch.tokens).view([-1, length]),
                prefix: batch.prefix.iter().any(|&tokens| tokens > 0).then(|| Tensor::from_slice(&batch.prefix)),
                causal_length: batch.causal_length as i64,
                weights: Tensor::from_slice(&batch.weight),
                parallel: batch.parallel,
                mask_locations: (!batch.hidden.is_empty())
                    .then(|| Tensor::from_slice(&batch.hidden).view([-1, length])),
            },
            good,
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
        })
    }

    /// Sends the images to the device. From pinned memory the copy runs by itself: whoever uses the tensor waits for it on the device,
    /// not here. libtorch's allocator of pinned memory notes the copy and gives the source to nobody else before it is done, so the
    /// source may be dropped at once.
    pub(crate) fn sent_to(self, device: Device) -> Result<Self, ModelError> {
        let (images, is_asynchronous) = (&self.examples.images, true);
        let images = images.f_to_device_(device, images.kind(), is_asynchronous, false).map_err(ModelError::Torch)?;
        Ok(Self { examples: Examples { images, ..self.examples }, ..self })
    }
}

fn sendable(tensor: Tensor, device: Device) -> Result<Tensor, ModelError> {
    match device {
        Device::Cuda(_) => tensor.f_pin_memory(device).map_err(ModelError::Torch),
        _ => Ok(tensor),
    }
}
