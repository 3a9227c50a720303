//! From shards to a manifest.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use cappa_data::index::{IndexError, IndexOptions, IndexProgress, IndexReport, default_manifest, index, scan};
use cappa_data::{read_manifest, write_manifest};
use cappa_shared::manifest::{DataManifest, Dropped, Filter, ScoreRange};
use cappa_shared::storage::StorageError;

use crate::corpus::{Corpus, Files, jpeg, sample, take};

/// A pattern below the corpus's folder.
fn pattern(corpus: &Corpus, name: &str) -> Vec<String> {
    vec![corpus.folder.path().join(name).to_str().unwrap().to_owned()]
}

/// Indexes all shards of a corpus into its manifest.
fn indexed(corpus: &Corpus, options: &IndexOptions) -> IndexReport {
    index(&pattern(corpus, ""), &corpus.origin(), options, |_| {}).unwrap()
}

fn updating() -> IndexOptions {
    IndexOptions { update: true, ..IndexOptions::default() }
}

/// Whether two manifests record the same content.
fn assert_same(found: &DataManifest, expected: &DataManifest, what: &str) {
    assert_eq!(found.digest(), expected.digest(), "{what}: {found:?} is not {expected:?}");
}

#[test]
fn folders_braces_and_wildcards_name_the_same_shards() {
    let corpus = Corpus::of(&[3, 5, 2]);
    for name in ["", "train-{000000..000002}.tar", "train-*.tar", "train-00000?.tar", "**/train-*.tar"] {
        let mut last: Option<IndexProgress> = None;
        let keep_last = |progress| last = Some(progress);
        let report = index(&pattern(&corpus, name), &corpus.origin(), &IndexOptions::default(), keep_last).unwrap();
        assert_same(&report.manifest, &corpus.manifest, name);
        assert_eq!(report.problems().count(), 0);
        let last = last.unwrap();
        assert_eq!((last.shards, last.of, last.samples), (3, 3, 10));
        assert_same(&read_manifest(&corpus.origin()).unwrap(), &corpus.manifest, "what was written");
    }
}

#[test]
fn an_index_that_is_stopped_goes_on_where_it_was() {
    let corpus = Corpus::of(&[3, 5, 2, 4]);
    let options = IndexOptions { parallel: 1, ..IndexOptions::default() };
    let stop = AtomicBool::new(false);
    let stop_at_two = |progress: IndexProgress| stop.store(progress.shards >= 2, Ordering::Relaxed);
    let stopped = scan(&pattern(&corpus, ""), &corpus.origin(), &options, &stop, stop_at_two);
    assert!(matches!(stopped, Err(IndexError::Stopped)), "{stopped:?}");
    let report = index(&pattern(&corpus, ""), &corpus.origin(), &options, |_| {}).unwrap();
    assert!((2..4).contains(&report.unchanged), "{} shards were not read again", report.unchanged);
    assert_same(&report.manifest, &corpus.manifest, "in two parts");
}

#[test]
fn several_patterns_name_every_shard_once() {
    let corpus = Corpus::of(&[3, 5, 2]);
    let patterns = [pattern(&corpus, "train-000001.tar"), pattern(&corpus, "*.tar")].concat();
    let report = index(&patterns, &corpus.origin(), &IndexOptions::default(), |_| {}).unwrap();
    let paths: Vec<&str> = report.manifest.shards().iter().map(|shard| shard.path.as_str()).collect();
    assert_eq!(paths, ["train-000001.tar", "train-000000.tar", "train-000002.tar"]);
}

#[test]
fn a_manifest_lies_beside_its_shards_and_survives_the_store() {
    let corpus = Corpus::of(&[3, 5]);
    let location = default_manifest(&pattern(&corpus, "")).unwrap();
    assert_eq!(location.url(), corpus.origin().url());
    write_manifest(&location, &corpus.manifest).unwrap();
    assert_eq!(read_manifest(&location).unwrap(), corpus.manifest);
}

#[test]
fn shards_outside_the_manifests_folder_are_named_by_url() {
    let (corpus, elsewhere) = (Corpus::of(&[3]), Corpus::of(&[1]));
    let report = index(&pattern(&corpus, ""), &elsewhere.origin(), &IndexOptions::default(), |_| {}).unwrap();
    assert!(report.manifest.shards()[0].path.starts_with("file:///"), "{:?}", report.manifest);
}

#[test]
fn problems_are_counted_by_shard() {
    let image = ("jpg", jpeg(0));
    let mut corpus = Corpus::with(vec![
        (0..3).map(sample).collect(),
        vec![vec![image.clone()], vec![("txt", b"star".to_vec())], vec![image]],
        vec![vec![("md", b"no sample".to_vec())]],
    ]);
    // Within the last file, behind which lie the padding of its block and the two blocks of the tar's end.
    corpus.spoil(0, |tar| tar.truncate(tar.len() - 1500));
    let report = indexed(&corpus, &IndexOptions::default());
    assert_eq!(report.manifest.shards().len(), 2, "a shard without samples is left out");
    let [cut, incomplete, empty] = report.problems().collect::<Vec<_>>()[..] else { panic!("{report:?}") };
    assert!(cut.damage.as_ref().is_some_and(|damage| damage.contains("cut off")), "{cut}");
    assert_eq!((incomplete.without_image, incomplete.without_caption), (1, 2));
    assert_eq!(empty.samples, 0);
}

#[test]
fn what_cannot_be_indexed_is_refused_with_the_reason() {
    let corpus = Corpus::with(vec![vec![vec![("md", b"no sample".to_vec())]]]);
    let found = |name: &str| index(&pattern(&corpus, name), &corpus.origin(), &IndexOptions::default(), |_| {});
    assert!(matches!(found(""), Err(IndexError::NoSamples { .. })));
    assert!(matches!(found("other-*.tar"), Err(IndexError::NoShards(_))));
    assert!(matches!(found("train-{000000.tar"), Err(IndexError::Pattern(_))));
    fs::remove_file(corpus.shard(0)).unwrap();
    assert!(matches!(found("train-000000.tar"), Err(IndexError::Storage(StorageError::NotFound { .. }))));
    let listed = index(&["http://127.0.0.1:9/train-*.tar".into()], &corpus.origin(), &IndexOptions::default(), |_| {});
    let message = listed.unwrap_err().to_string();
    assert!(message.contains("cannot be listed over HTTP; spell the shards out"), "{message}");
    let filter = Filter { max_aspect: Some(0.1), max_side: Some(0), ..Filter::default() };
    let refused = index(&pattern(&corpus, ""), &corpus.origin(), &IndexOptions { filter, ..updating() }, |_| {});
    assert!(matches!(refused, Err(IndexError::Filter(problems)) if problems.len() == 2));
    let corpus = Corpus::of(&[3]);
    let filter = Filter { fields: vec!["class".into()], ..Filter::default() };
    let emptied = index(&pattern(&corpus, ""), &corpus.origin(), &IndexOptions { filter, ..updating() }, |_| {});
    let message = emptied.unwrap_err().to_string();
    assert!(message.ends_with("train-000000.tar: 3 samples, 3 dropped by field"), "{message}");
}

#[test]
fn an_update_reads_only_what_is_new_or_changed() {
    let corpus = Corpus::of(&[3, 5, 2]);
    indexed(&corpus, &IndexOptions::default());
    let unchanged = indexed(&corpus, &updating());
    assert_eq!((unchanged.unchanged, unchanged.shards.len()), (3, 0));
    let other = Corpus::of(&[4, 1]);
    fs::copy(other.shard(0), corpus.shard(1)).unwrap();
    fs::copy(other.shard(1), corpus.folder.path().join("train-000009.tar")).unwrap();
    fs::remove_file(corpus.shard(2)).unwrap();
    let report = indexed(&corpus, &updating());
    let read: Vec<&str> = report.shards.iter().map(|shard| shard.path.as_str()).collect();
    assert_eq!(read, ["train-000001.tar", "train-000009.tar"]);
    assert_eq!((report.unchanged, report.removed), (1, vec!["train-000002.tar".to_owned()]));
    assert_eq!(report.manifest.sample_counts(), [3, 4, 1]);
    assert_same(&report.manifest, &indexed(&corpus, &IndexOptions::default()).manifest, "an index from nothing");
    let filter = Filter { max_caption: Some(100), ..Filter::default() };
    assert_eq!(indexed(&corpus, &IndexOptions { filter, ..updating() }).unchanged, 0, "another filter reads all");
}

#[test]
fn an_index_that_was_killed_goes_on_where_it_was() {
    let corpus = Corpus::of(&[3, 5, 2]);
    let whole = indexed(&corpus, &IndexOptions::default()).manifest;
    // What a killed one leaves: no manifest, but a segment of the shards it had read; and something that is none.
    let manifest = corpus.folder.path().join("train.manifest.json");
    fs::remove_file(&manifest).unwrap();
    let journal = corpus.folder.path().join("train.manifest.json.journal");
    fs::create_dir(&journal).unwrap();
    let segment = DataManifest::new(whole.shards()[..2].to_vec()).unwrap();
    fs::write(journal.join("0123456789abcdef.json"), segment.to_json()).unwrap();
    fs::write(journal.join("broken.json"), &segment.to_json()[..100]).unwrap();
    let report = indexed(&corpus, &IndexOptions::default());
    let read: Vec<&str> = report.shards.iter().map(|shard| shard.path.as_str()).collect();
    assert_eq!((report.unchanged, read), (2, vec!["train-000002.tar"]));
    assert_same(&report.manifest, &whole, "the whole");
    assert!(!journal.exists() && manifest.exists());
}

/// A sample whose picture is `width` × `height`, with a caption of so many letters and a score, and a label unless that is 0.7.
fn varied(width: u16, height: u16, letters: usize, score: f64) -> Files {
    let mut image = Vec::new();
    let pixels = vec![99; usize::from(width) * usize::from(height) * 3];
    jpeg_encoder::Encoder::new(&mut image, 80).encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
    let class = if score == 0.7 { "null" } else { "3" };
    let json = format!(r#"{{"similarity": {score}, "label": {{"class": {class}}}}}"#);
    vec![("jpg", image), ("txt", "é".repeat(letters).into_bytes()), ("json", json.into_bytes())]
}

#[test]
fn the_order_counts_the_samples_that_a_filter_kept() {
    let corpus = Corpus::with(vec![vec![
        varied(20, 20, 5, 0.9),
        varied(20, 60, 5, 0.9),
        varied(8, 8, 5, 0.9),
        varied(20, 20, 2, 0.9),
        varied(20, 20, 5, 0.1),
        vec![("jpg", b"no picture".to_vec()), ("txt", b"caption".to_vec())],
        varied(20, 20, 5, 0.7),
        varied(21, 21, 5, 0.3),
    ]]);
    let filter = Filter {
        min_side: Some(10),
        max_aspect: Some(2.0),
        min_caption: Some(3),
        max_caption: Some(6),
        scores: vec![ScoreRange { field: "similarity".into(), min: Some(0.3), max: None }],
        fields: vec!["label.class".into()],
        ..Filter::default()
    };
    let report = indexed(&corpus, &IndexOptions { filter: filter.clone(), ..IndexOptions::default() });
    let [shard] = report.manifest.shards() else { panic!("{report:?}") };
    assert_eq!((shard.samples, shard.all_samples()), (2, 8));
    assert_eq!((shard.index_in_shard(0), shard.index_in_shard(1), shard.index_in_shard(2)), (Some(0), Some(7), None));
    let dropped =
        [(Dropped::Size, 2), (Dropped::Aspect, 1), (Dropped::Caption, 1), (Dropped::Score, 1), (Dropped::Field, 1)];
    assert_eq!(report.dropped().into_iter().collect::<Vec<_>>(), dropped);
    let recorded = read_manifest(&corpus.origin()).unwrap();
    assert_eq!(recorded.filter().unwrap().bounds, filter);
    // Training sees those two and no others.
    let mut corpus = corpus;
    corpus.manifest = recorded;
    let samples: Vec<usize> =
        take(corpus.config(), corpus.steps_per_epoch()).iter().map(cappa_data::Batch::examples).collect();
    assert_eq!(samples.iter().sum::<usize>(), 2);
}
