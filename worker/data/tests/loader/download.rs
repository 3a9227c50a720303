//! Shards from a store: cached, checked, tried again.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_data::{Batch, DataError, Loader, LoaderConfig};
use cappa_shared::storage::faults::{Failing, Faulty, Operation, Slow};
use cappa_shared::storage::{self, Location};
use object_store::ObjectStore;

use crate::corpus::{Corpus, take};

/// The corpus as a store behind a URL, through `store`.
fn remote(corpus: &Corpus, store: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> LoaderConfig {
    let folder = storage::open(corpus.folder.path().to_str().unwrap()).unwrap();
    let manifest = folder.prefix.clone().join("train.manifest.json");
    let origin = Location::new(store(folder.store), manifest, "s3://bucket/corpus/train.manifest.json");
    LoaderConfig { sources: Arc::new(corpus.at(origin)), ..corpus.config() }
}

fn all_good(batches: &[Batch]) -> bool {
    batches.iter().all(|batch| batch.quarantined.is_empty())
}

fn cached(corpus: &Corpus) -> Vec<u64> {
    let files = fs::read_dir(corpus.folder.path().join("cache")).unwrap();
    let shards = files.map(|file| file.unwrap()).filter(|file| file.path().extension().is_some_and(|e| e == "tar"));
    shards.map(|file| file.metadata().unwrap().len()).collect()
}

#[test]
fn a_store_gives_the_same_batches_as_a_folder() {
    let corpus = Corpus::of(&[9, 4, 17, 6]);
    let steps = corpus.steps_per_epoch();
    assert_eq!(take(remote(&corpus, |store| store), steps), take(corpus.config(), steps));
    assert_eq!(cached(&corpus).len(), 4, "every shard is in the cache");
}

#[test]
fn a_store_that_fails_for_a_while_costs_no_batch() {
    let corpus = Corpus::of(&[9, 4]);
    let failing = |store| -> Arc<dyn ObjectStore> {
        Faulty::new(store, Arc::new(Failing::next(Operation::Get, "train-000001", 2)))
    };
    let batches = take(remote(&corpus, failing), corpus.steps_per_epoch());
    assert!(all_good(&batches));
    assert_eq!(batches, corpus.first_epoch());
}

#[test]
fn a_full_cache_lets_go_of_what_the_plan_does_not_need() {
    let corpus = Corpus::of(&[12; 12]);
    let bytes = corpus.manifest.shards()[0].bytes;
    // One lane at a time needs two shards at once, so six of twelve must have been evicted.
    let config = LoaderConfig { cache_bytes: 6 * bytes, depth: 1, lanes: 0..1, ..remote(&corpus, |store| store) };
    let batches = take(config, 4 * corpus.steps_per_epoch());
    assert!(all_good(&batches));
    let held: u64 = cached(&corpus).iter().sum();
    assert!(held <= 6 * bytes, "{held} bytes are cached where {} are allowed", 6 * bytes);
}

#[test]
fn a_shard_that_a_store_does_not_have_is_an_error_that_names_it() {
    let corpus = Corpus::of(&[10]);
    fs::remove_file(corpus.shard(0)).unwrap();
    let mut loader = Loader::start(remote(&corpus, |store| store)).unwrap();
    let Err(DataError::Shard(source)) = loader.next_batch() else { panic!("the shard was found") };
    assert!(source.to_string().contains("s3://bucket/corpus/train-000000.tar"), "{source}");
}

#[test]
fn a_loader_that_waits_for_a_slow_store_can_be_dropped() {
    let corpus = Corpus::of(&[10]);
    let slow = |store| -> Arc<dyn ObjectStore> { Faulty::new(store, Arc::new(Slow(Duration::from_secs(60)))) };
    let loader = Loader::start(remote(&corpus, slow)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    drop(loader);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}
