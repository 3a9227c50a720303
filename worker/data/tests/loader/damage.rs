//! Spoiled input: quarantined, named, and the same for every world size.

use std::fs;

use cappa_data::bad::BadReason;
use cappa_data::{Batch, DataError, Loader, LoaderConfig};
use cappa_shared::ids::Rank;
use cappa_shared::manifest::DataManifest;
use cappa_shared::order::lanes_of_rank;

use crate::corpus::{Corpus, Files, LANES, jpeg, sample, take};

/// Shard, sample and reason of all that was quarantined, in order.
fn quarantined(batches: &[Batch]) -> Vec<(u32, u32, BadReason)> {
    let all = batches.iter().flat_map(|batch| &batch.quarantined);
    let mut found: Vec<_> = all.map(|bad| (bad.sample.shard, bad.sample.index, bad.reason)).collect();
    found.sort();
    found
}

/// A corpus whose second shard holds one spoiled sample among good ones.
fn with_sample(spoiled: Files) -> Corpus {
    let good = |range: std::ops::Range<usize>| range.map(sample).collect::<Vec<_>>();
    let mut second = good(10..16);
    second[2] = spoiled;
    Corpus::with(vec![good(0..10), second])
}

#[test]
fn a_bad_sample_weighs_nothing_and_is_named_once_per_epoch() {
    let cut = jpeg(1)[..200].to_vec();
    for (spoiled, reason) in [
        (vec![("jpg", cut), ("txt", b"star".to_vec())], BadReason::ImageDamaged),
        (vec![("jpg", b"no picture".to_vec()), ("txt", b"star".to_vec())], BadReason::ImageDamaged),
        (vec![("jpg", Vec::new()), ("txt", b"star".to_vec())], BadReason::ImageDamaged),
        (vec![("txt", b"star".to_vec())], BadReason::ImageMissing),
        (vec![("jpg", jpeg(1))], BadReason::CaptionMissing),
        (vec![("jpg", jpeg(1)), ("txt", b" \n".to_vec())], BadReason::CaptionMissing),
        (vec![("jpg", jpeg(1)), ("txt", vec![0xFF, 0xFE])], BadReason::CaptionDamaged),
        (vec![("jpg", jpeg(1)), ("json", b"{".to_vec())], BadReason::CaptionDamaged),
    ] {
        let corpus = with_sample(spoiled);
        let batches = corpus.first_epoch();
        assert_eq!(quarantined(&batches), [(1, 2, reason)]);
        let bad = batches.iter().flat_map(|batch| &batch.quarantined).next().unwrap();
        assert_eq!((bad.shard.as_str(), bad.key.as_deref()), ("train-000001.tar", Some("0010002")));
        assert_eq!(batches.iter().map(Batch::samples).sum::<usize>(), 16);
        assert_eq!(batches.iter().map(Batch::examples).sum::<usize>(), 15);
    }
}

#[test]
fn a_bad_sample_is_quarantined_alike_for_every_world_size() {
    let corpus = with_sample(vec![("jpg", b"no picture".to_vec()), ("txt", b"star".to_vec())]);
    let steps = 3 * corpus.steps_per_epoch();
    let alone = quarantined(&take(corpus.config(), steps));
    assert_eq!(alone.len(), 3, "once in each of three epochs");
    let of_three = (0..3).flat_map(|rank| {
        let lanes = lanes_of_rank(Rank(rank), 3, LANES);
        quarantined(&take(LoaderConfig { lanes, ..corpus.config() }, steps))
    });
    assert_eq!(of_three.collect::<Vec<_>>(), alone);
}

#[test]
fn what_is_readable_of_a_damaged_tar_is_used() {
    let mut corpus = Corpus::of(&[10, 10]);
    corpus.spoil(1, |tar| tar.truncate(tar.len() * 6 / 10));
    let found = quarantined(&corpus.first_epoch());
    assert!((3..=5).contains(&found.len()), "{found:?}");
    assert!(found.iter().all(|&(shard, index, _)| shard == 1 && index >= 5), "{found:?}");

    let mut corpus = Corpus::of(&[10, 10]);
    corpus.spoil(0, |tar| {
        let middle = tar.len() / 2;
        tar[middle..middle + 3000].fill(0xAA);
    });
    let batches = corpus.first_epoch();
    let found = quarantined(&batches);
    assert!(found.len() >= 4 && found.iter().all(|&(shard, index, _)| shard == 0 && index >= 3), "{found:?}");
    let messages: Vec<&str> =
        batches.iter().flat_map(|batch| &batch.quarantined).map(|bad| bad.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("tar is damaged after byte")), "{messages:?}");
}

#[test]
fn an_empty_shard_file_spoils_only_its_own_samples() {
    let mut corpus = Corpus::of(&[10, 5]);
    corpus.spoil(1, |tar| tar.truncate(512));
    assert_eq!(quarantined(&corpus.first_epoch()), (0..5).map(|i| (1, i, BadReason::TarDamaged)).collect::<Vec<_>>());
}

#[test]
fn samples_that_the_manifest_promises_too_many_are_bad() {
    let mut corpus = Corpus::of(&[10, 5]);
    let mut shards = corpus.manifest.shards().to_vec();
    shards[1].samples = 7;
    corpus.manifest = DataManifest::new(shards).unwrap();
    let found = quarantined(&corpus.first_epoch());
    assert_eq!(found, [(1, 5, BadReason::TarDamaged), (1, 6, BadReason::TarDamaged)]);
}

#[test]
fn a_shard_that_was_replaced_is_not_used() {
    let corpus = Corpus::of(&[10, 5]);
    let other = Corpus::of(&[5]);
    fs::copy(other.shard(0), corpus.shard(1)).unwrap();
    let batches = corpus.first_epoch();
    assert_eq!(quarantined(&batches), (0..5).map(|i| (1, i, BadReason::ShardChanged)).collect::<Vec<_>>());
    let message = &batches.iter().flat_map(|batch| &batch.quarantined).next().unwrap().message;
    assert!(message.contains("index it again"), "{message}");
}

#[test]
fn a_shard_that_vanished_is_an_error_that_names_it() {
    let corpus = Corpus::of(&[10, 5]);
    fs::remove_file(corpus.shard(1)).unwrap();
    let mut loader = Loader::start(corpus.config()).unwrap();
    let error = loop {
        match loader.next_batch() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let DataError::Shard(source) = &error else { panic!("{error}") };
    assert!(source.to_string().contains("train-000001.tar"), "{source}");
}
