//! From shards to a manifest.

use std::fs;

use cappa_data::index::{IndexError, default_manifest, index};
use cappa_data::{read_manifest, write_manifest};

use crate::corpus::{Corpus, jpeg, sample};

fn pattern(corpus: &Corpus, name: &str) -> String {
    corpus.folder.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn folders_braces_and_wildcards_name_the_same_shards() {
    let corpus = Corpus::of(&[3, 5, 2]);
    for name in ["", "train-{000000..000002}.tar", "train-*.tar", "train-00000?.tar"] {
        let mut last = None;
        let report = index(&pattern(&corpus, name), &corpus.origin(), |progress| last = Some(progress)).unwrap();
        assert_eq!(report.manifest, corpus.manifest, "{name}");
        assert_eq!(report.problems().count(), 0);
        let last = last.unwrap();
        assert_eq!((last.shards, last.of, last.samples), (3, 3, 10));
    }
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
    let report = index(&pattern(&corpus, ""), &elsewhere.origin(), |_| {}).unwrap();
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
    let report = index(&pattern(&corpus, ""), &corpus.origin(), |_| {}).unwrap();
    assert_eq!(report.manifest.shards().len(), 2, "a shard without samples is left out");
    let [cut, incomplete, empty] = report.problems().collect::<Vec<_>>()[..] else { panic!("{report:?}") };
    assert!(cut.damage.as_ref().is_some_and(|damage| damage.contains("cut off")), "{cut}");
    assert_eq!((incomplete.without_image, incomplete.without_caption), (1, 2));
    assert_eq!(empty.samples, 0);
}

#[test]
fn a_pattern_without_samples_is_refused() {
    let corpus = Corpus::with(vec![vec![vec![("md", b"no sample".to_vec())]]]);
    let found = |name: &str| index(&pattern(&corpus, name), &corpus.origin(), |_| {});
    assert!(matches!(found(""), Err(IndexError::NoSamples { .. })));
    assert!(matches!(found("other-*.tar"), Err(IndexError::NoShards(_))));
    assert!(matches!(found("train-{000000.tar"), Err(IndexError::Pattern(_))));
    fs::remove_file(corpus.shard(0)).unwrap();
    assert!(matches!(found("train-000000.tar"), Err(IndexError::Disk { .. })));
}
