//! A rank's range of an evaluation set, in chunks.

use std::ops::Range;
use std::time::{Duration, Instant};

use cappa_data::lookup;
use cappa_data::records::{Record, Records, records_of_rank};
use cappa_shared::ids::Rank;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::Evaluator;
use crate::train::group::patience;
use crate::train::outcome::Departure;

/// Samples that are encoded at a time.
const CHUNK: usize = 64;
/// How often a wait for a shard looks whether it is in vain.
const NOTICE: Duration = Duration::from_millis(50);

/// The samples that a rank evaluates.
pub(super) struct Samples {
    records: Records,
    range: Range<u64>,
}

impl Samples {
    pub(super) fn new(records: Records, rank: Rank, world_size: usize, limit: u64) -> Self {
        let world_size = u32::try_from(world_size).expect("a world size is small");
        Self { records, range: records_of_rank(rank, world_size, limit) }
    }

    /// Calls `visit` with what `suit` made of every sample that it accepts, a chunk at a time, with their
    /// images as `[B, H, W, 3]`, u8. Samples that can't be read don't take part, and are logged.
    ///
    /// All ranks go from chunk to chunk together, and one that waits for its store is waited for between them: inside a collective
    /// it would count as hanging. `visit` is not for collectives: a rank that has no samples left misses them.
    pub(super) fn chunks<T>(
        &self,
        evaluator: &Evaluator<'_>,
        suit: impl Fn(&Record) -> Option<T>,
        mut visit: impl FnMut(Tensor, Vec<(Record, T)>) -> Result<(), Departure>,
    ) -> Result<(), Departure> {
        let mut rest = self.range.clone();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let all = loop {
                let is_late = !self.fill(evaluator, &mut chunk, &mut rest, &suit)?;
                if let Some(all) = evaluator.round(chunk.len(), is_late)? {
                    break all;
                }
            };
            if all == 0.0 {
                return Ok(());
            }
            if !chunk.is_empty() {
                visit(images(&chunk), chunk)?;
            }
        }
    }

    /// Adds the next suitable samples to a chunk; false when it takes too long to be silent.
    fn fill<T>(
        &self,
        evaluator: &Evaluator<'_>,
        chunk: &mut Vec<(Record, T)>,
        rest: &mut Range<u64>,
        suit: impl Fn(&Record) -> Option<T>,
    ) -> Result<bool, Departure> {
        let (begun, limit) = (Instant::now(), patience(evaluator.assignment));
        while chunk.len() < CHUNK && !rest.is_empty() {
            if begun.elapsed() > limit {
                return Ok(false);
            }
            evaluator.check()?;
            match self.records.get_within(rest.start, NOTICE)? {
                None => continue,
                Some(Ok(record)) => {
                    if let Some(suited) = suit(&record) {
                        chunk.push((record, suited));
                    }
                }
                Some(Err(bad)) => {
                    tracing::warn!(number = rest.start, %bad, "a sample takes no part in the evaluation");
                }
            }
            rest.start += 1;
        }
        Ok(true)
    }
}

fn images<T>(chunk: &[(Record, T)]) -> Tensor {
    let pixels: Vec<u8> = chunk.iter().flat_map(|(record, _)| record.image.iter().copied()).collect();
    // Records are square.
    let side = ((pixels.len() / chunk.len() / 3) as f64).sqrt().round() as i64;
    Tensor::from_slice(&pixels).view([-1, side, side, 3])
}

/// Adds images `[B, H, W, 3]` to a sum `[H, W, 3]` in f64.
pub(super) fn add_images(sum: &mut Option<Tensor>, images: &Tensor) {
    let added = images.to_kind(Kind::Double).sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
    *sum = Some(match sum.take() {
        Some(sum) => sum + added,
        None => added,
    });
}

/// The text at a dotted path of a sample's facts.
pub(super) fn field<'a>(record: &'a Record, path: &str) -> Option<&'a str> {
    value(record, path)?.as_str()
}

/// The texts at a dotted path of a sample's facts: one, or a list of texts, or, as VQA has it, of things with an `answer`. None where
/// there is nothing of the kind.
pub(super) fn texts(record: &Record, path: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().or_else(|| value.get("answer")?.as_str()).map(str::to_owned);
    match value(record, path) {
        Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
        Some(one) => one.as_str().map(str::to_owned).into_iter().collect(),
        None => Vec::new(),
    }
}

fn value<'a>(record: &'a Record, path: &str) -> Option<&'a Value> {
    lookup(record.facts.as_ref()?, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_path_or_not_at_all() {
        let facts = serde_json::json!({"class": "red star", "negatives": {"relation": "x"}, "word": null});
        let record =
            Record { number: 0, key: "k".into(), image: vec![], captions: vec!["c".into()], facts: Some(facts) };
        assert_eq!(field(&record, "class"), Some("red star"));
        assert_eq!(field(&record, "negatives.relation"), Some("x"));
        for absent in ["word", "negatives", "negatives.attribute", "class.x", ""] {
            assert_eq!(field(&record, absent), None, "{absent}");
        }
    }

    #[test]
    fn a_list_is_found_as_texts_or_as_answers() {
        let facts =
            serde_json::json!({"one": "x", "some": ["x", "y"], "answers": [{"answer": "x"}, {"id": 3}], "n": 3});
        let record = Record { number: 0, key: "k".into(), image: vec![], captions: vec![], facts: Some(facts) };
        for (path, found) in [("one", &["x"][..]), ("some", &["x", "y"]), ("answers", &["x"]), ("n", &[]), ("z", &[])] {
            assert_eq!(texts(&record, path), found, "{path}");
        }
    }
}
