//! Counts and percentiles over samples.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Shown, show};
use crate::sample::{CaptionSource, RawSample};
use crate::shards::Shard;

/// Fields that are counted; a corpus that has more uses keys for data.
const MAX_FIELDS: usize = 500;

/// Where values lie, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The least.
    pub min: u32,
    /// 5 % are at most this.
    pub p5: u32,
    /// Half are at most this.
    pub p50: u32,
    /// 95 % are at most this.
    pub p95: u32,
    /// The most.
    pub max: u32,
}

impl Percentiles {
    /// Of some values; nothing where there are none.
    fn of(mut values: Vec<u32>) -> Option<Self> {
        values.sort_unstable();
        let last = values.len().checked_sub(1)?;
        // The smallest value that at least so many percent of all don't exceed.
        let at = |percent: usize| values[(values.len() * percent).div_ceil(100).saturating_sub(1)];
        Some(Self { min: values[0], p5: at(5), p50: at(50), p95: at(95), max: values[last] })
    }
}

/// The pictures of samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Images {
    /// Samples without a picture.
    pub missing: u64,
    /// Pictures whose size can't be read.
    pub unreadable: u64,
    /// Pixels in a row.
    pub width: Option<Percentiles>,
    /// Rows of pixels.
    pub height: Option<Percentiles>,
    /// Sizes of the files in bytes.
    pub bytes: Option<Percentiles>,
}

/// The captions of samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Captions {
    /// Samples without a usable one.
    pub missing: u64,
    /// Captions of a sample that has any.
    pub per_sample: Option<Percentiles>,
    /// Characters of a caption.
    pub characters: Option<Percentiles>,
}

/// A field in the `.json` of samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Samples that have it.
    pub samples: u64,
    /// Their share of the samples that were read.
    pub share: f64,
    /// How often its value is of which type.
    pub types: BTreeMap<&'static str, u64>,
}

/// What was counted so far. It takes 16 bytes a sample and 4 a caption.
#[derive(Default)]
pub(super) struct Tally {
    samples: u64,
    without_image: u64,
    unreadable: u64,
    widths: Vec<u32>,
    heights: Vec<u32>,
    bytes: Vec<u32>,
    without_caption: u64,
    captions: Vec<u32>,
    characters: Vec<u32>,
    files: BTreeMap<String, u64>,
    fields: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

impl Tally {
    /// Counts a sample, and gives it as it is shown.
    pub(super) fn take(&mut self, shard: &Shard, index: usize, name: String, captions: &CaptionSource) -> Shown {
        let shown = show(shard, index, name, captions);
        self.samples += 1;
        match (shown.bytes, shown.size) {
            (None, _) => self.without_image += 1,
            (Some(_), None) => self.unreadable += 1,
            (Some(_), Some((width, height))) => {
                self.widths.push(width);
                self.heights.push(height);
            }
        }
        self.bytes.extend(shown.bytes.map(saturated));
        if shown.captions.is_empty() {
            self.without_caption += 1;
        } else {
            self.captions.push(saturated(shown.captions.len() as u64));
            self.characters.extend(shown.captions.iter().map(|caption| saturated(caption.chars().count() as u64)));
        }
        for file in &shard.samples()[index].files {
            *self.files.entry(file.extension.clone()).or_default() += 1;
        }
        let document = u32::try_from(index).ok().and_then(|index| RawSample::find(shard, index).ok()?.json().ok()?);
        if let Some(Value::Object(fields)) = document {
            fields.iter().for_each(|(name, value)| self.field(name, value));
        }
        shown
    }

    fn field(&mut self, name: &str, value: &Value) {
        if self.fields.len() < MAX_FIELDS || self.fields.contains_key(name) {
            *self.fields.entry(name.to_owned()).or_default().entry(type_of(value)).or_default() += 1;
        }
    }

    pub(super) fn finish(self) -> (Images, Captions, Vec<(String, u64)>, Vec<Field>) {
        let images = Images {
            missing: self.without_image,
            unreadable: self.unreadable,
            width: Percentiles::of(self.widths),
            height: Percentiles::of(self.heights),
            bytes: Percentiles::of(self.bytes),
        };
        let captions = Captions {
            missing: self.without_caption,
            per_sample: Percentiles::of(self.captions),
            characters: Percentiles::of(self.characters),
        };
        let mut files: Vec<_> = self.files.into_iter().collect();
        files.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let field = |(name, types): (String, BTreeMap<&'static str, u64>)| {
            let samples = types.values().sum();
            Field { name, samples, share: samples as f64 / self.samples as f64, types }
        };
        let mut fields: Vec<_> = self.fields.into_iter().map(field).collect();
        fields.sort_by_key(|field| std::cmp::Reverse(field.samples));
        (images, captions, files, fields)
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

fn saturated(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let of = |values: std::ops::RangeInclusive<u32>| Percentiles::of(values.rev().collect());
        assert_eq!(of(1..=100), Some(Percentiles { min: 1, p5: 5, p50: 50, p95: 95, max: 100 }));
        assert_eq!(of(7..=9), Some(Percentiles { min: 7, p5: 7, p50: 8, p95: 9, max: 9 }));
        assert_eq!(Percentiles::of(Vec::new()), None);
    }
}
