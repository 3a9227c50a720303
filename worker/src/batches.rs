//! A rank's batches: from the data crate's bytes to the model crate's tensors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_data::image::Preparation;
use cappa_data::loader::{Loader, LoaderConfig};
use cappa_data::text::{Buckets, Tokenizer, TokenizerError};
use cappa_data::{Batch as DataBatch, DataError, Source, Sources};
use cappa_model::Batch as Examples;
use cappa_proto as wire;
use cappa_session::Assignment;
use cappa_shared::ids::Step;
use cappa_shared::manifest::{DataManifest, ManifestError};
use cappa_shared::order::{JobOrder, OrderError, Weights, lanes_of_rank};
use cappa_shared::spec::JobSpec;
use cappa_shared::storage::{self, Location, StorageError};
use tch::{Device, Tensor};
use thiserror::Error;

use crate::context::Context;
use crate::train::outcome::Departure;

/// Steps made ahead of the one in training.
const DEPTH: usize = 4;
/// How often a wait for data looks whether it is in vain.
const PATIENCE: Duration = Duration::from_millis(50);
/// Pause before a store that does not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a job's data can't be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The store.
    #[error("`{url}` can't be read (waited {} s for its store)", waited.as_secs())]
    Storage {
        /// What was to be read.
        url: String,
        /// How long the store did not answer.
        waited: Duration,
        /// What it said last.
        #[source]
        source: StorageError,
    },
    /// The manifest.
    #[error("`{0}` is no data manifest")]
    Manifest(String, #[source] ManifestError),
    /// The tokenizer.
    #[error("`{0}` is no tokenizer for this job")]
    Tokenizer(String, #[source] TokenizerError),
    /// The order.
    #[error("the sample order does not fit the job")]
    Order(#[from] OrderError),
}

/// A job's training data, opened.
pub(crate) struct Corpus {
    sources: Arc<Sources>,
    order: Arc<JobOrder>,
    tokenizer: Tokenizer,
}

impl Corpus {
    /// Opens what the spec names; waits so long for stores that don't answer.
    pub(crate) async fn open(spec: &JobSpec, patience: Duration) -> Result<Self, OpenError> {
        let data = &spec.data;
        let mut sources = Vec::new();
        for source in data.train.iter() {
            let (manifest, origin) = manifest(&source.source, patience).await?;
            sources.push(Source { manifest: Arc::new(manifest), origin });
        }
        let sources = Sources::new(sources);
        let weights: Vec<f64> = data.train.iter().map(|source| source.weight).collect();
        let weights = Weights::new(&weights)?;
        let counts = sources.sample_counts();
        let (window, batch_size) = (data.shuffle_window, spec.batch_size.into());
        let order = JobOrder::new(counts, &weights, data.seed, data.lanes, window, batch_size)?;
        let tokenizer = tokenizer(spec, patience).await?;
        Ok(Self { sources: Arc::new(sources), order: Arc::new(order), tokenizer })
    }

    /// Samples of an epoch of every source, together.
    pub(crate) fn samples(&self) -> u64 {
        self.sources.total_samples()
    }
}

/// The data manifest at a URL, and where it lies.
pub(crate) async fn manifest(url: &str, patience: Duration) -> Result<(DataManifest, Location), OpenError> {
    let (document, at) = document(url, patience).await?;
    Ok((DataManifest::from_json(&document).map_err(|e| OpenError::Manifest(url.into(), e))?, at))
}

/// The job's tokenizer, checked against its model.
pub(crate) async fn tokenizer(spec: &JobSpec, patience: Duration) -> Result<Tokenizer, OpenError> {
    let url = &spec.data.tokenizer;
    let (document, _) = document(url, patience).await?;
    let opened = Tokenizer::from_bytes(&document).and_then(|tokenizer| {
        tokenizer.check_vocabulary(spec.model.vocabulary as usize)?;
        Ok(tokenizer)
    });
    opened.map_err(|e| OpenError::Tokenizer(url.clone(), e))
}

/// A document of a store. A group also re-forms while a store is away: that is waited for, as for shards.
async fn document(url: &str, patience: Duration) -> Result<(bytes::Bytes, Location), OpenError> {
    let begun = Instant::now();
    let failed = |source| OpenError::Storage { url: url.into(), waited: begun.elapsed(), source };
    let at = storage::open(url).map_err(failed)?;
    loop {
        match at.get("").await {
            Ok(document) => return Ok((document, at)),
            Err(error) if error.is_transient() && begun.elapsed() < patience => {
                let waiting_s = begun.elapsed().as_secs();
                tracing::warn!(%url, waiting_s, %error, "the store does not answer; waiting and trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

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
        let lengths = spec.data.text_length.all().iter().map(|&length| length as usize);
        let loader = Loader::start(LoaderConfig {
            sources: corpus.sources.clone(),
            order: corpus.order.clone(),
            lanes: lanes_of_rank(assignment.rank, world_size, spec.data.lanes),
            first_step,
            end_step: Some(assignment.total_steps),
            preparation: Preparation { mode: spec.data.decode, ..Preparation::exact(spec.data.image_size as usize) },
            augment: spec.data.augment.clone(),
            text_lengths: Buckets::new(lengths.collect()).map_err(DataError::from)?,
            tokenizer: corpus.tokenizer.clone(),
            captions: spec.data.captions.clone(),
            parallel_fraction: spec.objective.parallel_fraction(),
            cache_folder: context.cache.clone(),
            cache_bytes: context.cache_bytes,
            decode_threads: context.decode_threads(assignment.members_on_host()),
            fetch: context.fetch,
            depth: DEPTH,
            stats: context.metrics.data(),
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

fn to_tensors(batch: DataBatch, device: Device, image_size: u32) -> RankBatch {
    let (size, length) = (i64::from(image_size), batch.text_length as i64);
    RankBatch {
        weight: batch.weight.iter().map(|&weight| f64::from(weight)).sum(),
        seen: batch.samples() as f64,
        examples: Examples {
            images: placed(Tensor::from_slice(&batch.images), device).view([-1, size, size, 3]),
            tokens: Tensor::from_slice(&batch.tokens).view([-1, length]),
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
