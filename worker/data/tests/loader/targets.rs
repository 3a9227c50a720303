//! What is predicted of a sample: a caption behind its prefix, or a class.

use std::sync::Arc;

use cappa_data::replay::{self, BatchDigest};
use cappa_data::text::{Buckets, END_OF_TEXT};
use cappa_data::{DataError, Labels, Loader, LoaderConfig, Target};
use cappa_shared::ids::Rank;
use cappa_shared::order::lanes_of_rank;
use cappa_shared::spec::{Classes, Label};

use super::corpus::{Corpus, Files, LANES, TEXT_LENGTH, jpeg, take, tokenizer};
use super::join;

fn sample(number: usize, json: serde_json::Value) -> Files {
    vec![("jpg", jpeg(number)), ("txt", format!("star {number}").into_bytes()), ("json", json.to_string().into_bytes())]
}

#[test]
fn a_prefix_comes_before_the_caption_and_is_cut_where_both_are_too_long() {
    let facts = [
        serde_json::json!({ "ask": {"question": "a"} }),
        serde_json::json!({ "ask": {"question": "a star of number a star of number a star"} }),
        serde_json::json!({}),
    ];
    let of = |number: usize| sample(number, facts[number % 3].clone());
    let corpus = Corpus::with(vec![(0..24).map(of).collect()]);
    let target = Target::Caption { prefix: Some("ask.question".into()) };
    let config = LoaderConfig { target, ..corpus.config() };
    let tokenizer = tokenizer();
    let encode = |text: &str, length| tokenizer.encode(text, length).unwrap();
    let end = |tokens: &[i64]| tokens.iter().position(|&token| token == END_OF_TEXT).unwrap();
    let mut seen = [0; 3];
    let batches = take(config.clone(), corpus.steps_per_epoch());
    for batch in &batches {
        for (row, origin) in batch.origins.iter().enumerate() {
            let Some(origin) = origin else { continue };
            let tokens = &batch.tokens[row * batch.text_length..][..batch.text_length];
            let caption = encode(&origin.caption, TEXT_LENGTH);
            let (prefix, answer) = (batch.prefix[row] as usize, end(&caption) + 1);
            assert_eq!(tokens[prefix..prefix + answer], caption[..answer], "{origin:?}");
            let question = origin.prefix.clone().unwrap_or_default();
            assert_eq!(tokens[..prefix], encode(&question, 64)[..prefix], "{origin:?}");
            let case = match question.len() {
                0 => 2,
                1 => 0,
                _ => 1,
            };
            seen[case] += 1;
            let expected = [end(&encode("a", 64)), TEXT_LENGTH - answer, 0];
            assert_eq!(prefix, expected[case], "{origin:?}");
        }
    }
    assert!(seen.iter().all(|&count| count == 8), "{seen:?}");
    // The same whoever makes it, and in a replay, whose digest tells a prefix from a caption.
    let of_rank = |rank| LoaderConfig { lanes: lanes_of_rank(Rank(rank), 3, LANES), ..config.clone() };
    let ranks = (0..3).map(|rank| take(of_rank(rank), 1).remove(0)).collect();
    assert_eq!(join(ranks), batches[0]);
    let digest = BatchDigest::of([&batches[0]]);
    assert_eq!(replay::step(config).unwrap().sha256, digest);
    let scored = cappa_data::Batch { prefix: vec![0; batches[0].prefix.len()], ..batches[0].clone() };
    assert_ne!(BatchDigest::of([&scored]), digest);
}

fn classes(corpus: &Corpus, classes: &[&str]) -> LoaderConfig {
    let classes = Classes::Names(classes.iter().map(|&name| name.into()).collect());
    let target = Target::Class(Arc::new(Labels::new(&Label { field: "class".into(), classes })));
    LoaderConfig { target, text_lengths: Buckets::new(vec![1]).unwrap(), parallel_fraction: 0.0, ..corpus.config() }
}

#[test]
fn the_class_of_a_sample_is_its_target_and_one_without_is_quarantined() {
    let json = |number: usize| match ["star", "ring", "cross"].get(number % 4) {
        Some(class) => serde_json::json!({ "class": class }),
        None => serde_json::json!({}),
    };
    let corpus = Corpus::with(vec![(0..16).map(|number| sample(number, json(number))).collect()]);
    let batches = take(classes(&corpus, &["cross", "star", "ring"]), corpus.steps_per_epoch());
    let (mut met, mut missing) = ([0; 3], 0);
    for batch in &batches {
        assert_eq!(batch.text_length, 1);
        missing += batch.quarantined.iter().filter(|bad| bad.reason.as_str() == "class_missing").count();
        for (token, origin) in batch.tokens.iter().zip(&batch.origins) {
            let Some(origin) = origin else { continue };
            assert_eq!(["cross", "star", "ring"][*token as usize], origin.caption);
            met[*token as usize] += 1;
        }
    }
    assert_eq!((met, missing), ([4; 3], 4));
}

#[test]
fn a_class_that_the_job_does_not_list_ends_it_and_is_named() {
    let json = serde_json::json!({ "class": "heart" });
    let corpus = Corpus::with(vec![(0..16).map(|number| sample(number, json.clone())).collect()]);
    let error = Loader::start(classes(&corpus, &["star", "ring"])).unwrap().next_batch().unwrap_err();
    assert!(matches!(error, DataError::UnknownClass(_)), "{error:?}");
    assert!(error.to_string().contains("`heart` is not one of data.label.classes"), "{error}");
}
