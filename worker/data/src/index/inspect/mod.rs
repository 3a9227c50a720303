//! What a corpus looks like: counts, sizes, fields, its first samples, a contact sheet.

mod sheet;
mod statistics;

use cappa_shared::causes::with_causes;
use cappa_shared::manifest::{AppliedFilter, DataManifest, Shard as ManifestShard};
use cappa_shared::storage::Location;
use serde::Serialize;

pub use sheet::{SheetError, SheetFormat, Thumbnail};
pub use statistics::{Captions, Field, Images, Percentiles};

use super::find::{Found, find};
use super::{IndexError, IndexProgress, read, verify};
use crate::sample::{CaptionSource, IMAGE_EXTENSIONS, RawSample};
use crate::shards::Shard;
use statistics::Tally;

/// What is inspected.
#[derive(Debug, Clone)]
pub struct InspectOptions {
    /// Where captions are looked for.
    pub captions: CaptionSource,
    /// Shards that are read, evenly over the corpus; at least one.
    pub shards: usize,
    /// Samples that are shown one by one, from the first on.
    pub samples: usize,
    /// Pictures for a contact sheet, evenly over the shards that are read.
    pub thumbnails: usize,
}

/// A corpus, as the shards that were read show it.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The manifest's URL, or the patterns.
    pub source: String,
    /// All shards.
    pub shards: usize,
    /// Size of all shards in bytes, as they are stored.
    pub bytes: u64,
    /// Samples of all shards that are used; known of a manifest only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// The filter that the manifest records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<AppliedFilter>,
    /// Shards that were read; everything below is about them.
    pub read_shards: usize,
    /// Samples that they hold and that are used.
    pub read_samples: u64,
    /// Their pictures.
    pub images: Images,
    /// Their captions.
    pub captions: Captions,
    /// Files of samples by extension, the most frequent first.
    pub files: Vec<(String, u64)>,
    /// Fields in the `.json`, the most frequent first.
    pub fields: Vec<Field>,
    /// The first samples.
    pub first: Vec<Shown>,
    /// What is wrong with the shards that were read.
    pub problems: Vec<String>,
    /// Pictures for a contact sheet.
    #[serde(skip)]
    pub thumbnails: Vec<Thumbnail>,
}

/// A sample that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its shard, as the manifest names it.
    pub shard: String,
    /// Its key.
    pub key: String,
    /// Width and height of the picture in pixels, where they can be read.
    pub size: Option<(u32, u32)>,
    /// Size of the picture's file in bytes; absent where there is none.
    pub bytes: Option<u64>,
    /// Its captions, or none where there is no usable one.
    pub captions: Vec<String>,
}

/// A shard that may be read.
enum Part<'a> {
    Recorded(&'a Location, &'a ManifestShard),
    Found(Found),
}

impl Part<'_> {
    fn name(&self) -> String {
        match self {
            Self::Recorded(_, shard) => shard.path.clone(),
            Self::Found(found) => found.location.url().to_owned(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Recorded(_, shard) => shard.bytes,
            Self::Found(found) => found.bytes,
        }
    }

    fn open(&self) -> Result<Shard, String> {
        match self {
            Self::Recorded(manifest, shard) => verify::read_as_recorded(manifest, shard),
            Self::Found(found) => read::read(found).map(|whole| whole.shard).map_err(|error| with_causes(&error)),
        }
    }
}

/// Inspects the corpus of a manifest. Blocks.
pub fn inspect_manifest(
    location: &Location,
    manifest: &DataManifest,
    options: &InspectOptions,
    progress: impl FnMut(IndexProgress),
) -> Inspection {
    let parts = manifest.shards().iter().map(|shard| Part::Recorded(location, shard)).collect();
    Inspection {
        source: location.url().to_owned(),
        samples: Some(manifest.total_samples()),
        filter: manifest.filter().cloned(),
        ..inspect(parts, options, progress)
    }
}

/// Inspects the shards that patterns name; see [`super::index`]. Blocks.
///
/// # Errors
/// When nothing matches. Shards that can't be read are part of the result.
pub fn inspect_patterns(
    patterns: &[String],
    options: &InspectOptions,
    progress: impl FnMut(IndexProgress),
) -> Result<Inspection, IndexError> {
    let parts = find(patterns)?.into_iter().map(Part::Found).collect();
    Ok(Inspection { source: patterns.join(", "), ..inspect(parts, options, progress) })
}

fn inspect(parts: Vec<Part<'_>>, options: &InspectOptions, mut progress: impl FnMut(IndexProgress)) -> Inspection {
    let places = evenly(parts.len(), options.shards.max(1));
    let mut tally = Tally::default();
    let (mut first, mut thumbnails, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut state = IndexProgress { shards: 0, of: places.len(), bytes: 0, samples: 0 };
    for (number, &place) in places.iter().enumerate() {
        progress(state);
        let part = &parts[place];
        let shard = match part.open() {
            Ok(shard) => shard,
            Err(message) => {
                problems.push(format!("{}: {message}", part.name()));
                continue;
            }
        };
        problems.extend(shard.damage().map(|damage| format!("{}: {damage}", part.name())));
        let missing = options.thumbnails - thumbnails.len();
        let pictured = evenly(shard.samples().len(), missing.div_ceil(places.len() - number));
        for index in 0..shard.samples().len() {
            let shown = tally.take(&shard, index, part.name(), &options.captions);
            if pictured.binary_search(&index).is_ok() {
                thumbnails.push(Thumbnail::of(&shard, index, shown.clone()));
            }
            if first.len() < options.samples {
                first.push(shown);
            }
        }
        state.shards += 1;
        state.bytes += part.bytes();
        state.samples += shard.samples().len() as u64;
    }
    progress(state);
    let (images, captions, files, fields) = tally.finish();
    Inspection {
        source: String::new(),
        shards: parts.len(),
        bytes: parts.iter().map(Part::bytes).sum(),
        samples: None,
        filter: None,
        read_shards: state.shards,
        read_samples: state.samples,
        images,
        captions,
        files,
        fields,
        first,
        problems,
        thumbnails,
    }
}

/// At most `count` of the places below `of`, the first one and, from two on, the last one among them.
fn evenly(of: usize, count: usize) -> Vec<usize> {
    let count = count.min(of);
    match count {
        0 | 1 => (0..count).collect(),
        _ => (0..count).map(|number| number * (of - 1) / (count - 1)).collect(),
    }
}

/// A sample as it is shown.
fn show(shard: &Shard, index: usize, name: String, captions: &CaptionSource) -> Shown {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let entry = &shard.samples()[index as usize];
    Shown {
        shard: name,
        key: entry.key.clone(),
        size: read::image_size(shard, index),
        bytes: entry.file(&IMAGE_EXTENSIONS).map(|file| file.bytes),
        captions: RawSample::find(shard, index).and_then(|sample| sample.captions(captions)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_evenly_from_the_first_to_the_last() {
        assert_eq!(evenly(10, 4), [0, 3, 6, 9]);
        assert_eq!(evenly(3, 8), [0, 1, 2]);
        assert_eq!((evenly(5, 1), evenly(5, 0), evenly(0, 3)), (vec![0], vec![], vec![]));
    }
}
