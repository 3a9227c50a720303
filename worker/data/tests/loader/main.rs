//! What the loader promises, on small corpora of real shards.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod corpus;
mod damage;
mod download;
mod every_caption;
mod formats;
mod index;
mod mixture;
mod preparation;
mod replay;
mod s3;
mod targets;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_data::records::{Records, records_of_rank};
use cappa_data::shards::{FetchConfig, PoolConfig};
use cappa_data::{Batch, DataError, Loader, LoaderConfig};
use cappa_shared::ids::{Rank, Step};
use cappa_shared::order::lanes_of_rank;
use corpus::{BATCH_SIZE, Corpus, IMAGE_SIZE, LANES, TEXT_LENGTH, take};

/// The first batches of a run on `world_size` ranks, each put together from those of all.
fn together(config: &LoaderConfig, world_size: u32, steps: u64) -> Vec<Batch> {
    let ranks: Vec<Vec<Batch>> = (0..world_size)
        .map(|rank| {
            let lanes = lanes_of_rank(Rank(rank), world_size, LANES);
            take(LoaderConfig { lanes, decode_threads: 1 + rank as usize, ..config.clone() }, steps)
        })
        .collect();
    (0..steps as usize).map(|step| join(ranks.iter().map(|batches| batches[step].clone()).collect())).collect()
}

/// The batch of a step, put together from those of all ranks.
pub(crate) fn join(parts: Vec<Batch>) -> Batch {
    parts
        .into_iter()
        .reduce(|mut whole, part| {
            assert_eq!(whole.step, part.step);
            whole.images.extend(part.images);
            whole.tokens.extend(part.tokens);
            whole.prefix.extend(part.prefix);
            whole.parallel.extend(part.parallel);
            whole.weight.extend(part.weight);
            whole.slots.extend(part.slots);
            whole.origins.extend(part.origins);
            whole
        })
        .unwrap()
}

#[test]
fn a_step_has_the_same_content_for_every_world_size() {
    let corpus = Corpus::of(&[9, 0, 4, 17, 6, 11]);
    let steps = 2 * corpus.steps_per_epoch() + 1;
    let alone = take(corpus.config(), steps);
    for world_size in [2, 3, 4, 6] {
        for (step, (joined, whole)) in together(&corpus.config(), world_size, steps).iter().zip(&alone).enumerate() {
            assert_eq!(joined, whole, "step {step} of {world_size} ranks");
        }
    }
}

#[test]
fn a_run_that_begins_later_goes_on_as_if_it_had_not_stopped() {
    let corpus = Corpus::of(&[9, 4, 17, 6]);
    let whole = take(corpus.config(), 12);
    for first in [1, 5, 11] {
        let later = take(LoaderConfig { first_step: Step(first), ..corpus.config() }, 12 - first);
        assert_eq!(later, whole[first as usize..]);
    }
}

#[test]
fn every_sample_comes_once_per_epoch_and_null_slots_weigh_nothing() {
    let corpus = Corpus::of(&[9, 4, 17, 3]);
    let per_epoch = corpus.steps_per_epoch();
    for (epoch, batches) in take(corpus.config(), 2 * per_epoch).chunks(per_epoch as usize).enumerate() {
        let mut seen = HashSet::new();
        for batch in batches {
            for (slot, weight) in batch.slots.iter().zip(&batch.weight) {
                assert_eq!(slot.epoch, epoch as u64);
                assert_eq!(*weight, if slot.sample.is_some() { 1.0 } else { 0.0 });
                assert!(slot.sample.is_none_or(|sample| seen.insert(sample)));
            }
        }
        assert_eq!(seen.len(), 33);
    }
}

#[test]
fn pixels_tokens_and_draws_are_those_of_the_slots_sample() {
    let corpus = Corpus::of(&[9, 4, 17, 6]);
    let config = corpus.config();
    let firsts = [0, 9, 13, 30];
    let (mut captions, mut parallel, mut rows) = (HashSet::new(), 0, 0);
    for batch in take(config.clone(), 20) {
        assert_eq!(batch.images.len(), BATCH_SIZE as usize * IMAGE_SIZE * IMAGE_SIZE * 3);
        let images = batch.images.chunks(IMAGE_SIZE * IMAGE_SIZE * 3);
        for (row, (image, tokens)) in images.zip(batch.tokens.chunks(TEXT_LENGTH)).enumerate() {
            let Some(sample) = batch.slots[row].sample else { continue };
            let number = firsts[sample.shard as usize] + sample.index as usize;
            let expected = cappa_data::image::decode(&corpus::jpeg(number)).unwrap();
            assert_eq!(image[..3], expected.pixels[..3], "the picture of sample {number}");
            let text = config.tokenizer.decode(tokens).unwrap();
            let known = [format!("star {number}"), format!("a star of number {number}")];
            let caption = known.iter().position(|caption| *caption == text);
            captions.insert(caption.unwrap_or_else(|| panic!("{text:?} is no caption of sample {number}")));
            parallel += usize::from(batch.parallel[row]);
            rows += 1;
        }
    }
    assert_eq!(captions.len(), 2, "both captions are drawn");
    let share = parallel as f64 / rows as f64;
    assert!((share - 0.75).abs() < 0.15, "{share} of {rows} examples are parallel");
}

#[test]
fn a_loader_ends_where_it_is_told_to() {
    let corpus = Corpus::of(&[20]);
    let config = LoaderConfig { first_step: Step(3), end_step: Some(Step(5)), ..corpus.config() };
    let mut loader = Loader::start(config).unwrap();
    assert_eq!(loader.next_batch().unwrap().step, Step(3));
    assert_eq!(loader.next_batch().unwrap().step, Step(4));
    assert!(matches!(loader.next_batch(), Err(DataError::Finished)));
}

#[test]
fn a_dropped_loader_leaves_at_once() {
    let corpus = Corpus::of(&[40; 8]);
    for taken in [0, 1, 5] {
        let mut loader = Loader::start(corpus.config()).unwrap();
        (0..taken).for_each(|_| drop(loader.next_batch().unwrap()));
        let begin = Instant::now();
        drop(loader);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let corpus = Corpus::of(&[20]);
    let refused = |config: LoaderConfig| Loader::start(config).err().map(|error| error.to_string());
    for (config, word) in [
        (LoaderConfig { lanes: 2..5, ..corpus.config() }, "lanes"),
        (LoaderConfig { parallel_fraction: 1.5, ..corpus.config() }, "fraction"),
        (LoaderConfig { masking_ratio: 0.0, ..corpus.config() }, "ratio"),
        (LoaderConfig { order: Corpus::of(&[3]).config().order, ..corpus.config() }, "manifests"),
    ] {
        let message = refused(config).expect("the configuration was accepted");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn records_come_by_number_with_their_facts() {
    let corpus = Corpus::of(&[3, 4]);
    let config = PoolConfig {
        sources: Arc::new(corpus.at(corpus.origin())),
        cache_folder: corpus.folder.path().join("cache"),
        cache_bytes: 1 << 20,
        fetch: FetchConfig::default(),
        stats: Arc::default(),
    };
    let records = Records::open(config, IMAGE_SIZE).unwrap();
    assert_eq!(records.len(), 7);
    for number in [5u64, 0, 1, 2, 3, 6] {
        let record = records.get(number).unwrap().unwrap();
        assert_eq!(record.captions[0], format!("star {number}"));
        assert_eq!(record.facts.unwrap()["captions"][1], format!("a star of number {number}"));
        assert_eq!(record.image.len(), IMAGE_SIZE * IMAGE_SIZE * 3);
    }
    let covered: Vec<u64> = (0..3).flat_map(|rank| records_of_rank(Rank(rank), 3, 7)).collect();
    assert_eq!(covered, (0..7).collect::<Vec<_>>());
}
