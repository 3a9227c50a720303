use super::*;

fn shard(path: &str, samples: u32) -> Shard {
    Shard::tar(path, 1024, "ab".repeat(32), samples)
}

/// Shards of every kind, with a filter.
fn varied() -> DataManifest {
    let kept = Kept::from_flags([true, false, true, true]);
    let packed = Shard { format: Format::TarZst, unpacked_bytes: 4096, kept, ..shard("train-1.tar.zst", 3) };
    let tagged = Shard { identity: Identity::Tag { etag: "\"5f\"".into() }, ..shard("s3://bucket/train-2.tar", 4) };
    let folder = Shard { format: Format::Folder, ..shard("loose", 1) };
    let bounds = Filter { max_aspect: Some(2.5), min_caption: Some(3), ..Filter::default() };
    let filter = Some(AppliedFilter { bounds, captions: "txt".into() });
    DataManifest::indexed(Recipe { filter, captions: None }, vec![shard("train-0.tar", 3), packed, tagged, folder])
        .unwrap()
}

#[test]
fn a_manifest_survives_writing_and_reading() {
    let manifest = varied();
    assert_eq!(DataManifest::from_json(&manifest.to_json()).unwrap(), manifest);
    assert_eq!(manifest.total_samples(), 11);
    assert_eq!(manifest.sample_counts(), [3, 3, 4, 1]);
    let packed = &manifest.shards()[1];
    assert_eq!((packed.all_samples(), packed.index_in_shard(1), packed.index_in_shard(3)), (4, Some(2), None));
}

/// Two shards whose captions were counted.
fn counted() -> DataManifest {
    let with = |path: &str, counts: &[u32]| Shard {
        captions: CaptionCounts::from_counts(counts.iter().copied()),
        ..shard(path, u32::try_from(counts.len()).unwrap())
    };
    let recipe = Recipe { filter: None, captions: Some(CaptionSource::Json { field: "alt".into() }) };
    DataManifest::indexed(recipe, vec![with("a.tar", &[5, 5, 2]), with("b.tar", &[1])]).unwrap()
}

#[test]
fn an_epoch_has_every_caption_where_a_job_asks_for_all_and_they_were_counted_there() {
    let manifest = counted();
    assert_eq!(DataManifest::from_json(&manifest.to_json()).unwrap(), manifest);
    let field = |field: &str| CaptionSource::Json { field: field.into() };
    let of = |source: CaptionSource, choose| manifest.epoch_counts(&Captions { source, choose });
    assert_eq!(of(field("alt"), CaptionChoice::All).unwrap(), [12, 1]);
    assert_eq!(of(field("alt"), CaptionChoice::Turn).unwrap(), [3, 1]);
    assert_eq!(of(CaptionSource::Txt, CaptionChoice::One).unwrap(), [3, 1]);
    let elsewhere = of(field("title"), CaptionChoice::All).unwrap_err().to_string();
    assert!(elsewhere.starts_with("counts the captions of `json:alt`, not of `json:title`"), "{elsewhere}");
    let captions = Captions { source: CaptionSource::Txt, choose: CaptionChoice::All };
    let uncounted = varied().epoch_counts(&captions).unwrap_err().to_string();
    assert!(uncounted.ends_with("`cappactl data index --every-caption --captions txt`"), "{uncounted}");
}

#[test]
fn counts_of_captions_that_do_not_fit_are_refused() {
    let shards = counted().shards().to_vec();
    let recipe = || counted().recipe().clone();
    let refused = |recipe, shards| match DataManifest::indexed(recipe, shards) {
        Err(ManifestError::Invalid(problems)) => problems[0].to_string(),
        other => panic!("not refused: {other:?}"),
    };
    let uncounted = vec![shards[0].clone(), Shard { captions: None, ..shards[1].clone() }];
    assert!(refused(recipe(), uncounted).starts_with("shards[1].captions: is absent"));
    assert!(refused(Recipe::default(), shards.clone()).starts_with("shards[0].captions: is there"));
    let fewer = vec![Shard { samples: 2, ..shards[0].clone() }];
    assert_eq!(refused(recipe(), fewer), "shards[0].captions: counts those of 3 samples where samples says 2");
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let bad = r#"{"version": 3, "digest": "x", "shards": [
        {"path": "a.tar", "bytes": 0, "sha256": "short", "samples": 1},
        {"path": "../b.tar", "bytes": 1, "sha256": "short", "samples": 1},
        {"path": "", "bytes": 1, "etag": "", "samples": 1},
        {"path": "c.tar.gz", "format": "tar.gz", "bytes": 1, "etag": "e", "samples": 1, "kept": "??"}]}"#;
    let paths = problems(bad.as_bytes());
    for path in [
        "version",
        "shards[0].bytes",
        "shards[0].sha256",
        "shards[1].path",
        "shards[2].path",
        "shards[2].etag",
        "shards[3].unpacked_bytes",
        "shards[3].kept",
    ] {
        assert!(paths.iter().any(|found| found == path), "{path} is missing from {paths:?}");
    }
    let Err(ManifestError::Invalid(twice)) = DataManifest::new(vec![shard("a.tar", 1), shard("a.tar", 1)]) else {
        panic!("the manifest was accepted");
    };
    assert_eq!(twice[0].path, "shards[1].path");
}

fn problems(document: &[u8]) -> Vec<String> {
    match DataManifest::from_json(document) {
        Err(ManifestError::Invalid(problems)) => problems.into_iter().map(|problem| problem.path).collect(),
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[test]
fn an_edited_manifest_is_refused() {
    let document = String::from_utf8(varied().to_json()).unwrap();
    for (old, new) in [
        ("\"samples\": 4", "\"samples\": 5"),
        ("\"max_aspect\": 2.5", "\"max_aspect\": 2.0"),
        ("\\\"5f\\\"", "\\\"60\\\""),
        ("\"captions\": \"txt\"", "\"captions\": \"auto\""),
        ("4096", "4097"),
    ] {
        assert!(document.contains(old), "{old}");
        assert_eq!(problems(document.replace(old, new).as_bytes()), ["digest"], "{old}");
    }
}

#[test]
fn an_etag_beside_a_digest_changes_no_identity() {
    let tagged = |etag: &str| {
        let identity = Identity::Content { sha256: "ab".repeat(32), etag: Some(etag.into()) };
        DataManifest::new(vec![Shard { identity, ..shard("train-0.tar", 3) }]).unwrap()
    };
    assert_eq!(tagged("one").digest(), tagged("two").digest());
    assert_eq!(DataManifest::from_json(&tagged("one").to_json()).unwrap().shards()[0].etag(), Some("one"));
}

#[test]
fn a_manifest_of_version_1_keeps_its_digest() {
    let shard = format!(r#"{{"path":"train-0.tar","bytes":1024,"sha256":"{}","samples":3}}"#, "ab".repeat(32));
    let content = format!(r#"{{"version":1,"shards":[{shard}]}}"#);
    let digest = hex::encode(Sha256::digest(content));
    let manifest =
        DataManifest::from_json(format!(r#"{{"version":1,"shards":[{shard}],"digest":"{digest}"}}"#).as_bytes())
            .unwrap();
    assert_eq!(manifest.digest(), digest);
    assert_eq!(DataManifest::from_json(&manifest.to_json()).unwrap(), manifest);
    let newer = shard.replace("\"samples\"", "\"etag\":\"e\",\"samples\"");
    let document = format!(r#"{{"version":1,"shards":[{newer}],"digest":"{digest}"}}"#);
    assert_eq!(problems(document.as_bytes()), ["version"]);
}

#[test]
fn the_digest_is_that_of_the_compact_document() {
    let manifest = DataManifest::new(vec![shard("train-0.tar", 3)]).unwrap();
    let content = format!(
        r#"{{"version":2,"shards":[{{"path":"train-0.tar","bytes":1024,"sha256":"{}","samples":3}}]}}"#,
        "ab".repeat(32)
    );
    assert_eq!(manifest.digest(), hex::encode(Sha256::digest(content)));
}

#[test]
fn a_shard_that_is_another_one_is_told_by_what_is_known_of_it() {
    let content = shard("a.tar", 3);
    let found = |bytes, sha256: &'static str, etag: &'static str| FoundShard {
        bytes: Some(bytes),
        sha256: Some(sha256).filter(|text| !text.is_empty()),
        etag: Some(etag).filter(|text| !text.is_empty()),
    };
    let own: &'static str = "ab".repeat(32).leak();
    assert_eq!(content.difference(&found(1024, own, "any")), None);
    assert!(content.difference(&found(1023, own, "")).unwrap().contains("1023 bytes"));
    assert!(content.difference(&found(1024, "cd", "")).unwrap().contains("sha256"));
    let tagged = Shard { identity: Identity::Tag { etag: "e".into() }, ..content };
    assert_eq!(tagged.difference(&found(1024, "", "e")), None);
    assert!(tagged.difference(&found(1024, "", "f")).unwrap().contains("ETag"));
    assert!(tagged.difference(&found(1024, own, "")).unwrap().contains("without --quick"));
}

#[test]
fn unknown_keys_are_refused() {
    let error = DataManifest::from_json(br#"{"version":1,"shards":[],"digest":"","extra":1}"#).unwrap_err();
    assert!(matches!(error, ManifestError::Syntax(_)), "{error}");
}
