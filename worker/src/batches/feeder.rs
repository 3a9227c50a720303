//! The feeding thread: makes the tensors of the batches to come while the training thread computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cappa_data::loader::{DataError, Loader};
use cappa_data::stats::PipelineStats;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tch::Device;

use super::PATIENCE;
use super::tensors::RankBatch;
use crate::train::outcome::Departure;

/// Gives the batches of a loader as tensors in host memory, in step order. At most two are made ahead: one lies ready, one is held by the
/// thread. Dropping it ends the thread, and with it the loader's.
pub(super) struct Feeder {
    batches: Receiver<Result<RankBatch, Departure>>,
    stats: Arc<PipelineStats>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts taking a loader's batches, for a model on this device and with images of this size.
    ///
    /// # Errors
    /// [`DataError::Thread`] when there can be no further thread.
    pub(super) fn start(
        loader: Loader,
        device: Device,
        image_size: u32,
        stats: Arc<PipelineStats>,
    ) -> Result<Self, DataError> {
        let (sender, batches) = bounded(1);
        let stop = Arc::<AtomicBool>::default();
        let feeding = Feeding { loader, device, image_size, stats: stats.clone(), stop: stop.clone(), batches: sender };
        let thread = std::thread::Builder::new().name("data-feed".into()).spawn(move || feeding.run());
        let thread = thread.map_err(|error| DataError::Thread(Arc::new(error)))?;
        Ok(Self { batches, stats, stop, thread: Some(thread) })
    }

    /// The next step's batch, or nothing when it is not made in time. All waiting counts as training's wait for data, and nothing else
    /// does: making a batch beside a step holds up nobody.
    ///
    /// # Errors
    /// As [`Loader::next_batch`], and when libtorch can't make the tensors. None of them passes, so the thread has ended then.
    pub(super) fn next_within(&self, limit: Duration) -> Result<Option<RankBatch>, Departure> {
        match self.stats.waited.of(|| self.batches.recv_timeout(limit)) {
            Ok(batch) => batch.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(DataError::Panicked.into()),
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A closed channel ends a thread that waits to hand its batch over.
        (_, self.batches) = bounded(0);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Feeding {
    loader: Loader,
    device: Device,
    image_size: u32,
    stats: Arc<PipelineStats>,
    stop: Arc<AtomicBool>,
    batches: Sender<Result<RankBatch, Departure>>,
}

impl Feeding {
    /// Runs until the last batch, an error, or the end of the [`Feeder`].
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(batch) = self.next().transpose() else { continue };
            let is_last = batch.is_err();
            if self.batches.send(batch).is_err() || is_last {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Option<RankBatch>, Departure> {
        let batch = self.stats.unfed.of(|| self.loader.next_batch_within(PATIENCE))?;
        let made = batch.map(|batch| self.stats.copy.of(|| RankBatch::new(batch, self.device, self.image_size)));
        Ok(made.transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::ops::Range;
    use std::time::Instant;

    use cappa_data::image::Preparation;
    use cappa_data::shards::FetchConfig;
    use cappa_data::synth::{SynthConfig, generate};
    use cappa_data::text::{Buckets, Tokenizer, train};
    use cappa_data::{LoaderConfig, Sources, Target};
    use cappa_shared::ids::Step;
    use cappa_shared::manifest::{DataManifest, Shard};
    use cappa_shared::order::{JobOrder, Weights};
    use cappa_shared::spec::{Augment, Captions};
    use cappa_shared::storage;
    use sha2::{Digest, Sha256};
    use tempfile::TempDir;

    use super::*;

    const IMAGE_SIZE: u32 = 16;
    const BATCH_SIZE: u64 = 8;
    const DEPTH: usize = 2;
    const SAMPLES: u64 = 64;

    /// Shards in a folder.
    struct Shards {
        folder: TempDir,
        manifest: DataManifest,
    }

    impl Shards {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = SynthConfig {
                samples: SAMPLES,
                heldout: 0,
                image_size: 48,
                samples_per_shard: 16,
                ..SynthConfig::default()
            };
            generate(&config, folder.path(), &|_, _| {}).unwrap();
            let entry = |number| {
                let name = format!("train-{number:06}.tar");
                let content = std::fs::read(folder.path().join(&name)).unwrap();
                Shard::tar(&name, content.len() as u64, hex::encode(Sha256::digest(&content)), 16)
            };
            let manifest = DataManifest::new((0..SAMPLES / 16).map(entry).collect()).unwrap();
            Self { manifest, folder }
        }

        /// Where the shards lie.
        fn url(&self) -> String {
            self.folder.path().join("train.json").display().to_string()
        }

        /// A loader of some of four lanes, from a step to the end of the epoch, with the shards read from a URL.
        fn loader(&self, url: &str, lanes: Range<u32>, first_step: u64, stats: &Arc<PipelineStats>) -> Loader {
            let sources = Sources::alone(self.manifest.clone(), storage::open(url).unwrap());
            let order = JobOrder::new(sources.sample_counts(), &Weights::alone(), 7, 4, 2, BATCH_SIZE).unwrap();
            let captions = ["a red star", "a blue disc left of a green star"];
            Loader::start(LoaderConfig {
                sources: Arc::new(sources),
                order: Arc::new(order),
                lanes,
                first_step: Step(first_step),
                end_step: Some(Step(SAMPLES / BATCH_SIZE)),
                preparation: Preparation::exact(IMAGE_SIZE as usize),
                augment: Augment::default(),
                text_lengths: Buckets::new(vec![24]).unwrap(),
                tokenizer: Tokenizer::from_bytes(&train(captions.iter(), 100).unwrap()).unwrap(),
                captions: Captions::default(),
                target: Target::default(),
                parallel_fraction: 0.75,
                masking_ratio: 1.0,
                cache_folder: self.folder.path().join("cache"),
                cache_bytes: 1 << 30,
                decode_threads: 2,
                fetch: FetchConfig::default(),
                depth: DEPTH,
                stats: Arc::clone(stats),
            })
            .unwrap()
        }
    }

    fn feed(loader: Loader, stats: &Arc<PipelineStats>) -> Feeder {
        Feeder::start(loader, Device::Cpu, IMAGE_SIZE, Arc::clone(stats)).unwrap()
    }

    fn next(feeder: &Feeder) -> Result<RankBatch, Departure> {
        feeder.next_within(Duration::from_secs(60)).map(|batch| batch.expect("a batch within a minute"))
    }

    fn until(holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Drops a feeder, which must take no longer than an image's decoding and a few looks for the end.
    fn leaves_at_once(feeder: Feeder, stats: &Arc<PipelineStats>) {
        let begun = Instant::now();
        drop(feeder);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(Arc::strong_count(stats), 1, "a thread still counts");
    }

    #[test]
    fn every_batch_is_the_loaders_and_a_new_place_begins_where_the_old_one_ended() {
        let (shards, stats) = (Shards::new(), Arc::default());
        let check = |feeder: &Feeder, loader: &mut Loader, steps: u64| {
            for _ in 0..steps {
                let (fed, batch) = (next(feeder).unwrap(), loader.next_batch().unwrap());
                let expected = RankBatch::new(batch, Device::Cpu, IMAGE_SIZE).unwrap();
                assert_eq!(fed.examples.images, expected.examples.images);
                assert_eq!(fed.examples.tokens, expected.examples.tokens);
                assert_eq!(fed.examples.weights, expected.examples.weights);
                assert_eq!(fed.examples.parallel, expected.examples.parallel);
            }
        };
        let loader = |lanes: &Range<u32>, first| shards.loader(&shards.url(), lanes.clone(), first, &stats);
        let (before, after) = (0..4, 1..3);
        let feeder = feed(loader(&before, 0), &stats);
        check(&feeder, &mut loader(&before, 0), 3);
        leaves_at_once(feeder, &stats);

        let feeder = feed(loader(&after, 3), &stats);
        check(&feeder, &mut loader(&after, 3), SAMPLES / BATCH_SIZE - 3);
        assert!(matches!(next(&feeder), Err(Departure::Data(DataError::Finished))));
        leaves_at_once(feeder, &stats);
    }

    #[test]
    fn few_batches_are_made_ahead_and_one_that_is_there_costs_no_wait() {
        let (shards, stats) = (Shards::new(), Arc::default());
        let feeder = feed(shards.loader(&shards.url(), 0..4, 0, &stats), &stats);
        let ahead = (DEPTH as u64 + 2) * BATCH_SIZE;
        until(|| stats.samples.get() >= ahead && !feeder.batches.is_empty());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(stats.samples.get(), ahead);
        assert_eq!(stats.waited.get(), Duration::ZERO, "making batches is no wait");
        next(&feeder).unwrap();
        assert!(stats.waited.get() < Duration::from_secs(1), "{:?}", stats.waited.get());
        assert!(stats.copy.get() > Duration::ZERO);
        leaves_at_once(feeder, &stats);
    }

    #[test]
    fn a_wait_for_a_store_that_is_silent_is_counted_and_ends_with_the_group() {
        let (shards, stats) = (Shards::new(), Arc::default());
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/train.json", silent.local_addr().unwrap());
        let feeder = feed(shards.loader(&url, 0..4, 0, &stats), &stats);
        let limit = Duration::from_millis(300);
        assert!(feeder.next_within(limit).unwrap().is_none());
        assert!(stats.waited.get() >= limit);
        until(|| stats.unfed.get() > Duration::ZERO);
        leaves_at_once(feeder, &stats);
    }

    #[test]
    fn a_shard_that_is_missing_fails_the_step_as_the_loader_says_it() {
        let (shards, stats) = (Shards::new(), Arc::default());
        std::fs::remove_file(shards.folder.path().join("train-000002.tar")).unwrap();
        let mut loader = shards.loader(&shards.url(), 0..4, 0, &stats);
        let said = std::iter::repeat_with(|| loader.next_batch()).find_map(Result::err).unwrap();
        drop(loader);
        let feeder = feed(shards.loader(&shards.url(), 0..4, 0, &stats), &stats);
        let failed = std::iter::repeat_with(|| next(&feeder)).find_map(Result::err).unwrap();
        let Departure::Data(error) = &failed else { panic!("{failed:?}") };
        assert!(matches!(error, DataError::Shard(_)), "{error:?}");
        assert_eq!(format!("{error:?}"), format!("{said:?}"));
        leaves_at_once(feeder, &stats);
    }
}
