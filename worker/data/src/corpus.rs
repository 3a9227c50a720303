//! A job's training data, opened: what its spec names becomes what a loader takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cappa_shared::checkpoint::data_digest;
use cappa_shared::ids::Step;
use cappa_shared::manifest::{DataManifest, ManifestError, UncountedCaptions};
use cappa_shared::order::{JobOrder, OrderError, Weights};
use cappa_shared::spec::{JobSpec, TextPooling};
use cappa_shared::storage::{self, Location, StorageError};

use crate::image::Preparation;
use crate::patience::{GaveUp, Patience};
use crate::shards::FetchConfig;
use crate::stats::PipelineStats;
use crate::text::{Buckets, Tokenizer, TokenizerError};
use crate::{DataError, Labels, LoaderConfig, Source, Sources, Target};

/// Room for downloaded shards where nobody says how much there is.
const CACHE_BYTES: u64 = 20 << 30;

/// Why a job's data can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// Every caption is wanted as a sample, and the manifest does not count them.
    #[error("`{0}` does not fit `choose: all`")]
    Captions(String, #[source] UncountedCaptions),
    /// The tokenizer.
    #[error("`{0}` is no tokenizer for this job")]
    Tokenizer(String, #[source] TokenizerError),
    /// The order.
    #[error("the sample order does not fit the job")]
    Order(#[from] OrderError),
}

/// A job's training data.
pub struct Corpus {
    sources: Arc<Sources>,
    order: Arc<JobOrder>,
    tokenizer: Tokenizer,
    vocabulary: String,
}

impl Corpus {
    /// Opens what the spec names; waits so long for stores that don't answer, and says so in `stats`.
    ///
    /// # Errors
    /// When something of it can't be read, or does not fit together.
    pub async fn open(spec: &JobSpec, patience: Duration, stats: &PipelineStats) -> Result<Self, OpenError> {
        let data = &spec.data;
        let mut sources = Vec::new();
        for source in data.train.iter() {
            let (manifest, origin) = manifest(&source.source, patience, stats).await?;
            sources.push(Source { manifest: Arc::new(manifest), origin });
        }
        let sources = Sources::new(sources);
        let weights: Vec<f64> = data.train.iter().map(|source| source.weight).collect();
        let weights = Weights::new(&weights)?;
        let counts = sources.epoch_counts(&data.captions).map_err(|(url, source)| OpenError::Captions(url, source))?;
        let (window, batch_size) = (data.shuffle_window, spec.batch_size.into());
        let order = JobOrder::new(counts, &weights, data.seed, data.lanes, window, batch_size)?;
        let tokenizer = tokenizer(spec, patience, stats).await?;
        let vocabulary = tokenizer.vocabulary_digest();
        Ok(Self { sources: Arc::new(sources), order: Arc::new(order), tokenizer, vocabulary })
    }

    /// Samples of an epoch of every source, together; each caption one where all are taken.
    pub fn samples(&self) -> u64 {
        self.order.total_samples()
    }

    /// Path of a shard in its manifest; where there are several manifests, its URL.
    pub fn shard_name(&self, shard: u32) -> String {
        self.sources.name(shard)
    }

    /// [`Tokenizer::vocabulary_digest`] of its tokenizer, as checkpoints keep it.
    pub fn vocabulary(&self) -> &str {
        &self.vocabulary
    }

    /// The identity of the data, as checkpoints keep it.
    pub fn digest(&self) -> String {
        data_digest(&self.sources.iter().map(|source| source.manifest.digest()).collect::<Vec<_>>())
    }

    /// The loader of all lanes of every step, as the spec wants it. Lanes and steps are for the caller to narrow, and whatever
    /// depends on the machine is for it to set.
    ///
    /// # Errors
    /// When the spec's text lengths can't be, which a validated spec rules out.
    pub fn loader(&self, spec: &JobSpec, cache_folder: &Path) -> Result<LoaderConfig, DataError> {
        let (target, lengths) = match &spec.data.label {
            Some(label) => (Target::Class(Arc::new(Labels::new(label))), vec![1]),
            None => {
                let lengths = spec.data.text_length.all().iter().map(|&length| length as usize);
                (Target::Caption { prefix: spec.data.prefix.clone() }, lengths.collect())
            }
        };
        Ok(LoaderConfig {
            sources: self.sources.clone(),
            order: self.order.clone(),
            lanes: 0..spec.data.lanes,
            first_step: Step(0),
            end_step: None,
            preparation: Preparation { mode: spec.data.decode, ..Preparation::exact(spec.data.image_size as usize) },
            augment: spec.data.augment.clone(),
            text_lengths: Buckets::new(lengths)?,
            tokenizer: self.tokenizer.clone(),
            captions: spec.data.captions.clone(),
            target,
            parallel_fraction: spec.objective.parallel_fraction(),
            masking_ratio: spec.objective.masking_ratio(),
            cache_folder: cache_folder.to_owned(),
            cache_bytes: CACHE_BYTES,
            decode_threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            fetch: FetchConfig::default(),
            depth: 1,
            stats: Arc::default(),
        })
    }
}

/// The data manifest at a URL, and where it lies.
///
/// # Errors
/// When it can't be read, or is none.
pub async fn manifest(
    url: &str,
    patience: Duration,
    stats: &PipelineStats,
) -> Result<(DataManifest, Location), OpenError> {
    let (document, at) = document(url, patience, stats).await?;
    Ok((DataManifest::from_json(&document).map_err(|e| OpenError::Manifest(url.into(), e))?, at))
}

/// The job's tokenizer, checked against its model.
///
/// # Errors
/// When it can't be read, or does not fit.
pub async fn tokenizer(spec: &JobSpec, patience: Duration, stats: &PipelineStats) -> Result<Tokenizer, OpenError> {
    let url = &spec.data.tokenizer;
    let (document, _) = document(url, patience, stats).await?;
    let opened = Tokenizer::from_bytes(&document).and_then(|tokenizer| {
        tokenizer.check_vocabulary(spec.model.vocabulary as usize)?;
        let last = spec.objective.text_pooling() == Some(TextPooling::Last);
        Ok(if last { tokenizer.padding_with_the_end() } else { tokenizer })
    });
    opened.map_err(|e| OpenError::Tokenizer(url.clone(), e))
}

/// A document of a store. A group also re-forms while a store is away: that is waited for, as for shards.
async fn document(url: &str, patience: Duration, stats: &PipelineStats) -> Result<(Bytes, Location), OpenError> {
    let failed = |waited, source| OpenError::Storage { url: url.into(), waited, source };
    let at = storage::open(url).map_err(|error| failed(Duration::ZERO, error))?;
    let patience = Patience { limit: patience, stats };
    let read = patience.read(url, || at.get(""), StorageError::is_transient).await;
    let document = read.map_err(|GaveUp { waited, error }| failed(waited, error))?;
    Ok((document, at))
}
