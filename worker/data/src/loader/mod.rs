//! The loader: the batches of a rank's lanes, strictly in step order, made ahead by plain threads.
//!
//! ```text
//! plan (1 thread) ─ tasks ─> decode (n threads) ─ rows ─> assemble (1 thread) ─ batches ─> next_batch
//!      └ leases ─> shards (m threads: fetch, check, scan) ─┘
//! ```
//!
//! Every channel is bounded, and at most `depth` steps are under way: who is slow holds up those before it.
//!
//! **Memory.** At most `depth + 1` batches of B × (3 × H × W + 8 × L) bytes, one image being decoded for every decoding thread, and
//! the parts of shards on their way to the disk ([`FetchConfig::memory_bytes`]).

mod assemble;
mod batch;
mod decode;
mod epochs;
mod error;
mod example;
mod plan;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cappa_shared::ids::Step;
use cappa_shared::order::{JobOrder, SampleOrder};
use cappa_shared::spec::{Augment, Captions};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use batch::{Batch, BatchTiming, Origin, Quarantined};
pub use error::DataError;
pub(crate) use example::bad_image;

use crate::image::Preparation;
use crate::labels::Target;
use crate::shards::{FetchConfig, PoolConfig, ShardPool};
use crate::sources::Sources;
use crate::stats::PipelineStats;
use crate::text::{Buckets, Tokenizer};
use assemble::Assembler;
use decode::Decoder;
use example::ExampleMaker;
use plan::Planner;

/// What a loader reads and how.
#[derive(Clone)]
pub struct LoaderConfig {
    /// What is read.
    pub sources: Arc<Sources>,
    /// The order of the sources' samples; its seed also keys the draws.
    pub order: Arc<JobOrder>,
    /// The lanes of this rank.
    pub lanes: Range<u32>,
    /// The first step to give.
    pub first_step: Step,
    /// The step before which to end; without it the loader goes on for ever.
    pub end_step: Option<Step>,
    /// How images become squares of pixels.
    pub preparation: Preparation,
    /// Random changes of the images.
    pub augment: Augment,
    /// The lengths in tokens that texts are padded to.
    pub text_lengths: Buckets,
    /// Makes tokens of captions.
    pub tokenizer: Tokenizer,
    /// Where captions are found, and which of several is taken.
    pub captions: Captions,
    /// What of a sample is predicted.
    pub target: Target,
    /// Share of the examples that are decoded in parallel, from 0 to 1.
    pub parallel_fraction: f64,
    /// Share of the places of a text that are hidden from an example decoded in parallel, above 0 and at most 1.
    pub masking_ratio: f64,
    /// Folder for downloaded shards; local shards are read in place.
    pub cache_folder: PathBuf,
    /// How much the folder may hold.
    pub cache_bytes: u64,
    /// Threads that decode.
    pub decode_threads: usize,
    /// How shards are fetched.
    pub fetch: FetchConfig,
    /// Steps made ahead. The batches under way, made and being made, are at most one more.
    pub depth: usize,
    /// What is counted.
    pub stats: Arc<PipelineStats>,
}

/// Gives the batches of a rank. Dropping it stops and joins its threads.
pub struct Loader {
    batches: Receiver<Result<Batch, DataError>>,
    /// One message lets one more step be planned.
    permits: Sender<()>,
    remaining: Option<u64>,
    /// Waited in vain for the batch that comes next.
    waited: Duration,
    stop: Arc<AtomicBool>,
    pool: Arc<ShardPool>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts making batches ahead.
    ///
    /// # Errors
    /// When the settings contradict each other, or the cache or a thread can't be made.
    pub fn start(config: LoaderConfig) -> Result<Self, DataError> {
        check(&config)?;
        let pool = ShardPool::start(PoolConfig {
            sources: Arc::clone(&config.sources),
            cache_folder: config.cache_folder.clone(),
            cache_bytes: config.cache_bytes,
            fetch: config.fetch,
            stats: Arc::clone(&config.stats),
        });
        let pool = Arc::new(pool.map_err(|error| DataError::Shard(Arc::new(error)))?);
        let maker = ExampleMaker {
            draws: config.order.draws(),
            preparation: config.preparation,
            augment: config.augment.clone(),
            text_lengths: config.text_lengths.clone(),
            tokenizer: config.tokenizer.clone(),
            captions: config.captions.clone(),
            target: config.target.clone(),
            parallel_fraction: config.parallel_fraction,
            masking_ratio: config.masking_ratio,
            stats: Arc::clone(&config.stats),
        };
        let decode_threads = config.decode_threads.max(1);
        let depth = config.depth.max(1);
        let (permit, permits) = bounded(depth);
        let (task, tasks) = bounded(4 * decode_threads);
        let (event, events) = bounded(4 * decode_threads);
        let (batch, batches) = bounded(depth);
        for _ in 0..depth {
            permit.send(()).expect("the channel has room for all permits");
        }
        let remaining = config.end_step.map(|end| end.0.saturating_sub(config.first_step.0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut loader =
            Self { batches, permits: permit, remaining, waited: Duration::ZERO, stop, pool, threads: Vec::new() };

        let planner = Planner {
            order: Arc::clone(&config.order),
            lanes: config.lanes.clone(),
            range: config.first_step.0..config.end_step.map_or(u64::MAX, |end| end.0),
            pool: Arc::clone(&loader.pool),
            permits,
            events: event.clone(),
            tasks: task,
        };
        loader.spawn("data-plan".into(), move || planner.run())?;
        for number in 0..decode_threads {
            let decoder = Decoder {
                maker: maker.clone(),
                tasks: tasks.clone(),
                events: event.clone(),
                stop: Arc::clone(&loader.stop),
            };
            loader.spawn(format!("data-decode-{number}"), move || decoder.run())?;
        }
        drop((event, tasks));
        let assembler = Assembler::new(config.sources, maker, config.first_step, events, batch);
        loader.spawn("data-batch".into(), move || assembler.run())?;
        Ok(loader)
    }

    /// The next step's batch; waits until it is made.
    ///
    /// # Errors
    /// [`DataError::Shard`] when a shard of the batch can't be had, [`DataError::Finished`] after the last step.
    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        loop {
            if let Some(batch) = self.next_batch_within(Duration::from_secs(3600))? {
                return Ok(batch);
            }
        }
    }

    /// The next step's batch, or nothing when it is not made in time: the caller may look whether it still wants it,
    /// and ask again.
    ///
    /// # Errors
    /// As [`Loader::next_batch`].
    pub fn next_batch_within(&mut self, limit: Duration) -> Result<Option<Batch>, DataError> {
        if self.remaining == Some(0) {
            return Err(DataError::Finished);
        }
        let begin = Instant::now();
        let received = self.batches.recv_timeout(limit);
        self.waited += begin.elapsed();
        let mut batch = match received {
            Ok(batch) => batch?,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(DataError::Panicked),
        };
        batch.timing.waited = std::mem::take(&mut self.waited);
        self.remaining = self.remaining.map(|remaining| remaining - 1);
        // After the last step nobody takes permits any more.
        let _ = self.permits.try_send(());
        Ok(Some(batch))
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), DataError> {
        let thread = std::thread::Builder::new().name(name).spawn(body);
        self.threads.push(thread.map_err(|error| DataError::Thread(Arc::new(error)))?);
        Ok(())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pool.stop();
        // Closed channels end the threads wherever they wait.
        (self.permits, _) = bounded(0);
        (_, self.batches) = bounded(0);
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn check(config: &LoaderConfig) -> Result<(), DataError> {
    let wrong = |setting, value: &dyn std::fmt::Display, must| {
        Err(DataError::Setting { setting, value: value.to_string(), must })
    };
    let counts = config.sources.epoch_counts(&config.captions);
    let counts = counts.map_err(|(url, source)| DataError::Captions { url, source })?;
    if !config.order.sources().iter().map(SampleOrder::counts).eq(&counts) {
        let manifests = counts.iter().flatten().map(|&count| u64::from(count)).sum();
        let order = config.order.total_samples();
        return Err(DataError::OtherManifests { order, manifests });
    }
    if config.lanes.end > config.order.lanes() {
        return wrong("the end of the rank's lanes", &config.lanes.end, "at most the number of lanes");
    }
    if !(0.0..=1.0).contains(&config.parallel_fraction) {
        return wrong("the parallel fraction", &config.parallel_fraction, "from 0 to 1");
    }
    if !(config.masking_ratio > 0.0 && config.masking_ratio <= 1.0) {
        return wrong("the masking ratio", &config.masking_ratio, "above 0 and at most 1");
    }
    if config.preparation.size == 0 {
        return wrong("the image size", &config.preparation.size, "at least 1 pixel");
    }
    Ok(())
}
