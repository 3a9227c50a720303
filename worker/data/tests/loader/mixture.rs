//! Several sources mixed by weight.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::Arc;

use cappa_data::{Batch, LoaderConfig, Source, Sources};
use cappa_shared::ids::{Rank, Step};
use cappa_shared::order::{Weights, lanes_of_rank};
use cappa_shared::storage::{self, Location};

use crate::corpus::{BATCH_SIZE, Corpus, Files, IMAGE_SIZE, LANES, config, jpeg, sample, take};
use crate::join;

/// Shards of the two sources; their names are the same.
const COUNTS: [&[usize]; 2] = [&[9, 0, 4, 17, 6], &[5, 8]];
const STEPS: u64 = 24;

/// Two corpora; the pictures of the second have numbers from 100 on.
fn corpora() -> [Corpus; 2] {
    [0, 1].map(|source| {
        let mut number = 100 * source..;
        let shard = |&count: &usize| -> Vec<Files> { number.by_ref().take(count).map(sample).collect() };
        Corpus::with(COUNTS[source].iter().map(shard).collect())
    })
}

fn mixed(corpora: &[Corpus; 2], origins: [Location; 2]) -> LoaderConfig {
    let source = |(corpus, origin): (&Corpus, Location)| Source { manifest: Arc::new(corpus.manifest.clone()), origin };
    let sources = Sources::new(corpora.iter().zip(origins).map(source).collect());
    config(sources, &Weights::new(&[3.0, 1.0]).unwrap(), corpora[0].folder.path())
}

fn local(corpora: &[Corpus; 2]) -> LoaderConfig {
    mixed(corpora, [corpora[0].origin(), corpora[1].origin()])
}

/// A corpus as a store that is no folder, so that its shards are downloaded.
fn store(corpus: &Corpus) -> Location {
    let folder = storage::open(corpus.folder.path().to_str().unwrap()).unwrap();
    let manifest = folder.prefix.clone().join("train.manifest.json");
    Location::new(folder.store, manifest, "s3://bucket/second/train.manifest.json")
}

#[test]
fn a_step_of_a_mixture_has_the_same_content_for_every_world_size_and_start() {
    let corpora = corpora();
    let alone = take(local(&corpora), STEPS);
    for world_size in [2, 3] {
        let of_rank = |rank: u32| {
            let lanes = lanes_of_rank(Rank(rank), world_size, LANES);
            take(LoaderConfig { lanes, decode_threads: 1 + rank as usize, ..local(&corpora) }, STEPS)
        };
        let ranks: Vec<Vec<Batch>> = (0..world_size).map(of_rank).collect();
        for (step, whole) in alone.iter().enumerate() {
            let joined = join(ranks.iter().map(|batches| batches[step].clone()).collect());
            assert_eq!(&joined, whole, "step {step} of {world_size} ranks");
        }
    }
    for first in [1, 7, 17] {
        let later = take(LoaderConfig { first_step: Step(first), ..local(&corpora) }, STEPS - first);
        assert_eq!(later, alone[first as usize..]);
    }
}

#[test]
fn every_source_has_its_share_and_each_of_its_samples_once_in_its_epochs() {
    let mut uses: HashMap<(usize, u64), HashSet<_>> = HashMap::new();
    let firsts = [vec![0, 9, 9, 13, 30], vec![100, 105]].concat();
    for batch in take(local(&corpora()), STEPS) {
        let sources = batch.slots.iter().zip(&batch.weight).zip(batch.images.chunks(IMAGE_SIZE * IMAGE_SIZE * 3));
        let mut of_first = 0;
        for ((slot, weight), image) in sources {
            let sample = slot.sample.expect("a mixture has no null slots");
            assert_eq!(*weight, 1.0);
            let number = firsts[sample.shard as usize] + sample.index as usize;
            let expected = cappa_data::image::decode(&jpeg(number)).unwrap();
            assert_eq!(image[..3], expected.pixels[..3], "the picture of sample {number}");
            let source = usize::from(number >= 100);
            of_first += 1 - source;
            assert!(uses.entry((source, slot.epoch)).or_default().insert(sample), "{sample:?} came twice");
        }
        assert_eq!(of_first as u64, BATCH_SIZE * 3 / 4);
    }
    for (source, counts) in COUNTS.iter().enumerate() {
        for epoch in 0..2 {
            assert_eq!(uses[&(source, epoch)].len(), counts.iter().sum::<usize>(), "epoch {epoch} of source {source}");
        }
    }
}

#[test]
fn sources_of_different_stores_are_mixed_and_only_what_is_remote_is_cached() {
    let corpora = corpora();
    let config = mixed(&corpora, [corpora[0].origin(), store(&corpora[1])]);
    let cache = config.cache_folder.clone();
    assert_eq!(take(config, STEPS), take(local(&corpora), STEPS));
    let files = fs::read_dir(cache).unwrap().map(|file| file.unwrap().path());
    let tars = files.filter(|file| file.extension().is_some_and(|extension| extension == "tar"));
    assert_eq!(tars.count(), COUNTS[1].len());
}

/// The plan goes by the sources' own epochs: a cache that holds a part of the corpora must serve all of them, again and again.
#[test]
fn a_small_cache_serves_a_mixture() {
    let corpora = corpora();
    let largest = corpora.iter().flat_map(|corpus| corpus.manifest.shards()).map(|shard| shard.bytes).max().unwrap();
    let origins = || [store(&corpora[0]), store(&corpora[1])];
    let config = LoaderConfig { cache_bytes: 3 * largest, depth: 1, ..mixed(&corpora, origins()) };
    assert_eq!(take(config, STEPS), take(local(&corpora), STEPS));
}

#[test]
fn a_bad_sample_of_a_mixture_is_named_by_the_url_of_its_shard() {
    let [first, second] = corpora();
    let mut shards: Vec<Vec<Files>> = vec![(100..105).map(sample).collect(), (105..113).map(sample).collect()];
    shards[1][3][0].1.truncate(20);
    let corpora = [first, Corpus::with(shards)];
    drop(second);
    let batches = take(local(&corpora), STEPS);
    let bad: HashSet<_> = batches.iter().flat_map(|batch| &batch.quarantined).map(|bad| bad.shard.clone()).collect();
    let expected = corpora[1].origin().sibling("train-000001.tar").unwrap().to_string();
    assert_eq!(bad, HashSet::from([expected]));
}
