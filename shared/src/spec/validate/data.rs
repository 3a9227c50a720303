//! The data section: sources, captions, lengths.

use super::Checker;
use crate::order::{MAX_SOURCES, Weights};
use crate::spec::document::{child, item};
use crate::spec::error::Mistake;
use crate::spec::preset::Sizes;
use crate::spec::raw::{CaptionFrom, RawCaptions, RawData, RawSource, Short};
use crate::spec::{CaptionSource, Captions, Data, Length, Source, Sources, TextLengths};

const MAX_TEXT_LENGTH: u64 = 4096;
/// Lengths that texts may be padded to: each is a shape that the model meets.
const MAX_TEXT_LENGTHS: u64 = 16;

pub(super) fn data(raw: RawData, sizes: &Sizes, lanes: u32, checker: &mut Checker<'_>) -> Data {
    let data = Data {
        train: sources(raw.train, checker),
        tokenizer: checker.url("data.tokenizer", raw.tokenizer),
        captions: captions(raw.captions, checker),
        prefix: raw.prefix.filter(|path| !path.is_empty()),
        label: super::label::label(raw.label, checker),
        filter: raw.filter.unwrap_or_default(),
        decode: raw.decode.unwrap_or_default(),
        augment: raw.augment.unwrap_or_default(),
        image_size: raw.image_size.unwrap_or(sizes.image_size),
        text_length: text_lengths(raw.text_length, sizes.text_length, checker),
        seed: raw.seed.unwrap_or(0),
        lanes,
        shuffle_window: raw.shuffle_window.unwrap_or(8),
        max_bad_fraction: raw.max_bad_fraction.unwrap_or(0.01),
    };
    checker.within("data.image_size", data.image_size, 1..=4096);
    checker.within("data.shuffle_window", data.shuffle_window, 1..=65_536);
    for problem in data.augment.problems() {
        checker.report(&[&child("data.augment", problem.path)], Mistake::OutOfRange, problem.message);
    }
    checker.fraction("data.max_bad_fraction", data.max_bad_fraction);
    check_filter(&data, checker);
    data
}

/// A filter is applied while shards are indexed, so that the order of the samples stays a function of the manifest.
fn check_filter(data: &Data, checker: &mut Checker<'_>) {
    let path = "data.filter";
    for problem in data.filter.problems() {
        let at = child(path, &problem.path);
        checker.report(&[&at, path], Mistake::OutOfRange, problem.message);
    }
    let is_given = |source: &&Source| source.is_manifest() && !source.source.is_empty();
    if let (Some(manifest), false) = (data.train.iter().find(is_given), data.filter.is_empty()) {
        let message = format!(
            "is for shards that are still to be indexed, and the samples of {:?} were chosen when it was written; name \
             the shards by a pattern, or write the manifest again with `cappactl data index` and these bounds",
            manifest.source
        );
        checker.report(&[path], Mistake::Inconsistent, message);
    }
}

/// Sources of a mixture have epochs of their own, so the job can't be measured in epochs.
pub(super) fn check_duration(data: &Data, duration: Length, checker: &mut Checker<'_>) {
    if let (None, Length::Epochs(_)) = (data.train.only(), duration) {
        let message = "every source of data.train has epochs of its own; give steps or examples".into();
        checker.report(&["duration.epochs", "duration", "data.train"], Mistake::Inconsistent, message);
    }
}

fn sources(raw: Option<Short<String, Vec<Short<String, RawSource>>>>, checker: &mut Checker<'_>) -> Sources {
    let path = "data.train";
    let list = match raw {
        None => return Sources::new(vec![Source { source: String::new(), weight: 1.0 }]),
        Some(Short::Name(source)) => {
            return Sources::new(vec![Source { source: checker.source(path, Some(source)), weight: 1.0 }]);
        }
        Some(Short::Map(list)) => list,
    };
    checker.within(path, list.len() as u64, 1..=MAX_SOURCES as u64);
    let one = |(index, raw): (usize, Short<String, RawSource>)| {
        let at = item(path, index);
        let (at_source, raw) = match raw {
            Short::Name(source) => (at.clone(), RawSource { source: Some(source), weight: None }),
            Short::Map(raw) => (child(&at, "source"), raw),
        };
        let weight = raw.weight.unwrap_or(1.0);
        checker.require(weight > 0.0, &child(&at, "weight"), weight, "is not above 0");
        Source { source: checker.source(&at_source, raw.source), weight }
    };
    let sources: Vec<Source> = list.into_iter().enumerate().map(one).collect();
    for (index, source) in sources.iter().enumerate() {
        let earlier = sources.iter().take(index).any(|other| other.source == source.source);
        if earlier && !source.source.is_empty() {
            let message = "is a source already; give it once, with the sum of the weights".into();
            let (at, whole) = (item(path, index), child(&item(path, index), "source"));
            checker.report(&[&whole, &at], Mistake::DuplicateName, message);
        }
    }
    let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
    let are_weights = weights.iter().all(|weight| *weight > 0.0);
    if let (Err(error), true) = (Weights::new(&weights), are_weights) {
        checker.report(&[path], Mistake::OutOfRange, error.to_string());
    }
    Sources::new(sources)
}

fn captions(raw: Option<Short<CaptionFrom, RawCaptions>>, checker: &mut Checker<'_>) -> Captions {
    let (at_field, raw) = match raw {
        None => ("data.captions", RawCaptions::default()),
        Some(Short::Name(from)) => ("data.captions", RawCaptions { from: Some(from), ..RawCaptions::default() }),
        Some(Short::Map(raw)) => ("data.captions.field", raw),
    };
    let from = raw.from.unwrap_or(CaptionFrom::Auto);
    let given = raw.field.is_some();
    let field = raw.field.unwrap_or_default();
    if from == CaptionFrom::Json && field.is_empty() {
        let message = "the field of the .json with the caption is required; write {from: json, field: NAME}".into();
        checker.report(&[at_field, "data.captions"], Mistake::Missing, message);
    }
    if from != CaptionFrom::Json && given {
        checker.report(&[at_field], Mistake::Inconsistent, "is for captions from `json` only".into());
    }
    let source = match from {
        CaptionFrom::Auto => CaptionSource::Auto,
        CaptionFrom::Txt => CaptionSource::Txt,
        CaptionFrom::Json => CaptionSource::Json { field },
    };
    Captions { source, choose: raw.choose.unwrap_or_default() }
}

fn text_lengths(raw: Option<Short<u32, Vec<u32>>>, of_preset: u32, checker: &mut Checker<'_>) -> TextLengths {
    let path = "data.text_length";
    // The shortest caption is one token and its end-of-text.
    let range = 2..=MAX_TEXT_LENGTH;
    let lengths = match raw {
        None => vec![of_preset],
        Some(Short::Name(length)) => {
            checker.within(path, length, range);
            vec![length]
        }
        Some(Short::Map(lengths)) => {
            checker.within(path, lengths.len() as u64, 1..=MAX_TEXT_LENGTHS);
            for (index, &length) in lengths.iter().enumerate() {
                checker.within(&item(path, index), length, range.clone());
                if lengths.iter().take(index).any(|&earlier| earlier == length) {
                    checker.report(&[&item(path, index)], Mistake::DuplicateName, format!("{length} is given twice"));
                }
            }
            lengths
        }
    };
    TextLengths::new(lengths)
}
