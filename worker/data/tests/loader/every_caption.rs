//! Every caption of an image as a sample of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use cappa_data::index::{IndexOptions, IndexReport, index};
use cappa_data::replay::{self, BatchDigest};
use cappa_data::{Batch, DataError, Loader, LoaderConfig};
use cappa_shared::ids::{Rank, Step};
use cappa_shared::manifest::{Filter, ScoreRange};
use cappa_shared::order::{JobOrder, Weights, lanes_of_rank};
use cappa_shared::spec::{CaptionChoice, CaptionSource, Captions};

use crate::corpus::{BATCH_SIZE, Corpus, Files, LANES, jpeg, take};
use crate::join;

/// A picture with so many captions, and a score.
fn picture(number: usize, captions: usize, score: f64) -> Files {
    let captions: Vec<String> = (0..captions).map(|caption| format!("star {number} said {caption}")).collect();
    let json = serde_json::json!({ "alt": captions, "score": score });
    vec![("jpg", jpeg(number)), ("json", json.to_string().into_bytes())]
}

fn source() -> CaptionSource {
    CaptionSource::Json { field: "alt".into() }
}

fn counting() -> IndexOptions {
    IndexOptions { captions: source(), every_caption: true, ..IndexOptions::default() }
}

fn indexed(corpus: &Corpus, options: &IndexOptions) -> IndexReport {
    let folder = corpus.folder.path().to_str().unwrap().to_owned();
    index(&[folder], &corpus.origin(), options, |_| {}).unwrap()
}

/// The configuration of a job that takes every caption.
fn every_caption(corpus: &mut Corpus, options: &IndexOptions) -> LoaderConfig {
    corpus.manifest = indexed(corpus, options).manifest;
    let captions = Captions { source: source(), choose: CaptionChoice::All };
    let usual = corpus.config();
    let counts = usual.sources.epoch_counts(&captions).unwrap();
    let order = Arc::new(JobOrder::new(counts, &Weights::alone(), 7, LANES, 2, BATCH_SIZE).unwrap());
    LoaderConfig { captions, order, ..usual }
}

/// How often every (key, caption) was met.
type Met = BTreeMap<(String, String), usize>;

/// What an epoch brought, and what was found bad in it.
fn met(batches: &[Batch]) -> (Met, Vec<(String, &'static str)>) {
    let mut met = Met::new();
    for origin in batches.iter().flat_map(|batch| batch.origins.iter().flatten()) {
        *met.entry((origin.key.clone(), origin.caption.clone())).or_default() += 1;
    }
    let bad = batches.iter().flat_map(|batch| &batch.quarantined);
    let mut bad: Vec<_> = bad.map(|bad| (bad.key.clone().unwrap(), bad.reason.as_str())).collect();
    bad.sort();
    (met, bad)
}

#[test]
fn every_caption_of_every_image_comes_once_per_epoch() {
    let mut damaged = picture(3, 2, 1.0);
    damaged[0].1.truncate(200);
    let mut corpus = Corpus::with(vec![
        vec![picture(0, 1, 1.0), picture(1, 3, 1.0), picture(2, 0, 1.0), damaged],
        vec![picture(4, 5, 1.0)],
    ]);
    let config = every_caption(&mut corpus, &counting());
    assert_eq!(config.order.total_samples(), 1 + 3 + 1 + 2 + 5);
    let epoch = config.order.steps_per_epoch().unwrap();
    for first in [0, epoch] {
        let batches = take(LoaderConfig { first_step: Step(first), ..config.clone() }, epoch);
        let (met, bad) = met(&batches);
        let captions = |key: &'static str, number: usize, count: usize| {
            (0..count).map(move |caption| ((key.to_owned(), format!("star {number} said {caption}")), 1))
        };
        let expected = captions("0000000", 0, 1).chain(captions("0000001", 1, 3)).chain(captions("0010000", 4, 5));
        assert_eq!(met, expected.collect::<BTreeMap<_, _>>());
        // What has no caption counts once, a bad picture with each of its captions.
        let expected = [("0000002", "caption_missing"), ("0000003", "image_damaged"), ("0000003", "image_damaged")];
        assert_eq!(bad, expected.map(|(key, reason)| (key.to_owned(), reason)));
    }
}

#[test]
fn a_step_has_the_same_captions_for_every_world_size_and_when_it_is_replayed() {
    let counts = [vec![1, 4, 2, 5], vec![3; 6], vec![2, 1]];
    let picture = |(number, &captions): (usize, &usize)| picture(number, captions, 1.0);
    let mut corpus = Corpus::with(counts.iter().map(|shard| shard.iter().enumerate().map(picture).collect()).collect());
    let config = every_caption(&mut corpus, &counting());
    let steps = config.order.steps_per_epoch().unwrap() + 2;
    let alone = take(config.clone(), steps);
    for world_size in [2, 3, 4] {
        let of_rank =
            |rank| take(LoaderConfig { lanes: lanes_of_rank(Rank(rank), world_size, LANES), ..config.clone() }, steps);
        let ranks: Vec<Vec<Batch>> = (0..world_size).map(of_rank).collect();
        for (step, whole) in alone.iter().enumerate() {
            assert_eq!(&join(ranks.iter().map(|batches| batches[step].clone()).collect()), whole, "step {step}");
        }
    }
    for batch in &alone {
        let replayed = replay::step(LoaderConfig { first_step: batch.step, ..config.clone() }).unwrap();
        assert_eq!(replayed.sha256, BatchDigest::of([batch]));
    }
}

#[test]
fn captions_are_counted_of_the_samples_that_a_filter_kept() {
    let mut corpus =
        Corpus::with(vec![vec![picture(0, 4, 0.1), picture(1, 3, 0.9), picture(2, 9, 0.2), picture(3, 2, 0.8)]]);
    let scores = vec![ScoreRange { field: "score".into(), min: Some(0.5), max: None }];
    let config =
        every_caption(&mut corpus, &IndexOptions { filter: Filter { scores, ..Filter::default() }, ..counting() });
    assert_eq!(corpus.manifest.caption_counts(), Some(vec![5]));
    let (met, bad) = met(&take(config.clone(), config.order.steps_per_epoch().unwrap()));
    let keys: Vec<&str> = met.keys().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, bad), (vec!["0000001", "0000001", "0000001", "0000003", "0000003"], vec![]));
}

#[test]
fn an_index_without_the_counts_is_refused_and_an_update_reads_the_shards_for_them() {
    let corpus = Corpus::with(vec![vec![picture(0, 2, 1.0); 4]]);
    let uncounted = indexed(&corpus, &IndexOptions::default());
    assert_eq!(uncounted.manifest.caption_counts(), None);
    let captions = Captions { source: source(), choose: CaptionChoice::All };
    let Err(DataError::Captions { source, .. }) = Loader::start(LoaderConfig { captions, ..corpus.config() }) else {
        panic!("a job that takes every caption was started");
    };
    assert!(source.to_string().contains("--every-caption --captions json:alt"), "{source}");
    let again = IndexOptions { update: true, ..counting() };
    let counted = indexed(&corpus, &again);
    assert_eq!((counted.unchanged, counted.manifest.caption_counts()), (0, Some(vec![8])));
    assert_eq!(indexed(&corpus, &again).unchanged, 1);
}
