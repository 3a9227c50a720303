//! A rank's range of an evaluation set, in chunks.

use cappa_data::records::{Record, Records, records_of_rank};
use cappa_shared::ids::Rank;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::train::outcome::Departure;

/// Samples that are encoded at a time.
const CHUNK: usize = 64;

/// The samples that a rank evaluates.
pub(super) struct Samples {
    records: Records,
    range: std::ops::Range<u64>,
}

impl Samples {
    pub(super) fn new(records: Records, rank: Rank, world_size: usize, limit: u64) -> Self {
        let world_size = u32::try_from(world_size).expect("a world size is small");
        Self { records, range: records_of_rank(rank, world_size, limit) }
    }

    /// Calls `visit` with what `suit` made of every sample that it accepts, a chunk at a time, with their
    /// images as `[B, H, W, 3]`, u8. Samples that can't be read don't take part, and are logged.
    pub(super) fn chunks<T>(
        &self,
        suit: impl Fn(&Record) -> Option<T>,
        mut visit: impl FnMut(Tensor, Vec<(Record, T)>) -> Result<(), Departure>,
    ) -> Result<(), Departure> {
        let mut chunk = Vec::with_capacity(CHUNK);
        for number in self.range.clone() {
            match self.records.get(number)? {
                Ok(record) => {
                    if let Some(suited) = suit(&record) {
                        chunk.push((record, suited));
                    }
                }
                Err(bad) => tracing::warn!(number, %bad, "a sample takes no part in the evaluation"),
            }
            if chunk.len() == CHUNK {
                visit(images(&chunk), std::mem::take(&mut chunk))?;
            }
        }
        if !chunk.is_empty() {
            visit(images(&chunk), chunk)?;
        }
        Ok(())
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
    path.split('.').try_fold(record.facts.as_ref()?, |at: &Value, key| at.get(key))?.as_str()
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
}
