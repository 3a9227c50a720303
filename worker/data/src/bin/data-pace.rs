//! Whether a training step waits for data: takes batches from the loader at the pace of a simulated device and counts the waiting.
//!
//! Usage: `data-pace MANIFEST TOKENIZER IMAGES_PER_SECOND [THREADS [SECONDS]]`. A step is a sleep, as the step of a GPU is for the CPU.
//! Prints a JSON line.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_data::image::Preparation;
use cappa_data::shards::FetchConfig;
use cappa_data::stats::PipelineStats;
use cappa_data::text::{Buckets, Tokenizer};
use cappa_data::{Loader, LoaderConfig, Sources, Target, read_manifest};
use cappa_shared::ids::Step;
use cappa_shared::order::{JobOrder, Weights};
use cappa_shared::spec::{Augment, Captions};
use cappa_shared::storage;

const LANES: u32 = 8;
const BATCH: u32 = 64;
const IMAGE_SIZE: usize = 224;
const TEXT_LENGTH: usize = 64;
/// Batches that fill the pipeline before the clock starts.
const WARM_UP: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [manifest, tokenizer, rate, rest @ ..] = arguments.as_slice() else {
        return Err("usage: data-pace MANIFEST TOKENIZER IMAGES_PER_SECOND [THREADS [SECONDS]]".into());
    };
    let rate: f64 = rate.parse()?;
    let threads = rest.first().map_or(Ok(1), |threads| threads.parse())?;
    let seconds = Duration::from_secs_f64(rest.get(1).map_or(Ok(20.0), |seconds| seconds.parse())?);

    let origin = storage::open(manifest)?;
    let sources = Sources::alone(read_manifest(&origin)?, origin);
    let order = JobOrder::new(sources.sample_counts(), &Weights::alone(), 0, LANES, 2, BATCH.into())?;
    let cache = tempfile::tempdir()?;
    let stats: Arc<PipelineStats> = Arc::default();
    let mut loader = Loader::start(LoaderConfig {
        sources: Arc::new(sources),
        order: Arc::new(order),
        lanes: 0..LANES,
        first_step: Step(0),
        end_step: None,
        preparation: Preparation::exact(IMAGE_SIZE),
        augment: Augment::default(),
        text_lengths: Buckets::new(vec![TEXT_LENGTH])?,
        tokenizer: Tokenizer::from_bytes(&std::fs::read(tokenizer)?)?,
        captions: Captions::default(),
        target: Target::default(),
        parallel_fraction: 0.75,
        masking_ratio: 1.0,
        cache_folder: cache.path().to_owned(),
        cache_bytes: 1 << 30,
        decode_threads: threads,
        fetch: FetchConfig::default(),
        depth: 4,
        stats: Arc::clone(&stats),
    })?;
    for _ in 0..WARM_UP {
        loader.next_batch()?;
    }
    let step = Duration::from_secs_f64(f64::from(BATCH) / rate);
    let (begin, mut waited, mut images) = (Instant::now(), Duration::ZERO, 0);
    stats.bottleneck();
    while begin.elapsed() < seconds {
        let batch = loader.next_batch()?;
        waited += batch.timing.waited;
        stats.waited.add(batch.timing.waited);
        images += batch.examples();
        std::thread::sleep(step);
    }
    let elapsed = begin.elapsed();
    writeln!(
        std::io::stdout(),
        r#"{{"name":"data/pace","asked_images_per_second":{rate},"images_per_second":{:.1},"decode_threads":{threads},"data_wait_fraction":{:.5},"bottleneck":"{}"}}"#,
        images as f64 / elapsed.as_secs_f64(),
        waited.as_secs_f64() / elapsed.as_secs_f64(),
        stats.bottleneck().as_str(),
    )?;
    Ok(())
}
