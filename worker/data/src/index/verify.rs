//! Reads everything that a manifest names, as training would, and says what is bad.

use std::sync::atomic::{AtomicUsize, Ordering};

use cappa_shared::causes::with_causes;
use cappa_shared::manifest::{DataManifest, Format, FoundShard, Shard as ManifestShard};
use cappa_shared::storage::Location;
use object_store::ObjectStoreExt;
use serde::Serialize;

use super::find::Found;
use super::{IndexError, IndexProgress, disk, read};
use crate::blocking::block_on;
use crate::image::decode;
use crate::sample::{CaptionSource, RawSample};

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Shards that were looked at.
    pub shards: usize,
    /// Samples in them that are used.
    pub samples: u64,
    /// Whatever is bad, in the manifest's order.
    pub bad: Vec<Bad>,
}

/// A shard or sample that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The shard as the manifest names it.
    pub shard: String,
    /// The sample's key; absent where the whole shard is bad.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// Reads all shards of the manifest at `location`, compares their digests, and decodes every image and caption that is used;
/// `parallel` shards at a time. Blocks.
///
/// # Errors
/// When the threads can't be started. Shards that can't be read are part of the result.
pub fn verify(
    location: &Location,
    manifest: &DataManifest,
    captions: &CaptionSource,
    parallel: usize,
    mut progress: impl FnMut(IndexProgress),
) -> Result<Verified, IndexError> {
    let shards = manifest.shards();
    let mut state = IndexProgress { shards: 0, of: shards.len(), bytes: 0, samples: 0 };
    let mut found: Vec<(usize, Vec<Bad>)> = Vec::new();
    let next = AtomicUsize::new(0);
    let (sender, results) = crossbeam_channel::bounded(parallel.max(1));
    std::thread::scope(|scope| -> Result<(), IndexError> {
        for number in 0..parallel.clamp(1, shards.len().max(1)) {
            let (sender, next) = (sender.clone(), &next);
            let work = move || {
                while let Some((place, shard)) = take(next, shards) {
                    if sender.send((place, check(location, shard, captions))).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("verify-{number}"));
            thread.spawn_scoped(scope, work).map_err(|source| disk(location, source))?;
        }
        drop(sender);
        for (place, bad) in results {
            state.add(&shards[place]);
            progress(state);
            found.push((place, bad));
        }
        Ok(())
    })?;
    found.sort_by_key(|(place, _)| *place);
    let bad = found.into_iter().flat_map(|(_, bad)| bad).collect();
    Ok(Verified { shards: state.shards, samples: state.samples, bad })
}

fn take<'a>(next: &AtomicUsize, shards: &'a [ManifestShard]) -> Option<(usize, &'a ManifestShard)> {
    let place = next.fetch_add(1, Ordering::Relaxed);
    Some((place, shards.get(place)?))
}

/// All that is bad in a shard.
fn check(manifest: &Location, expected: &ManifestShard, captions: &CaptionSource) -> Vec<Bad> {
    let bad = |key: Option<String>, message: String| Bad { shard: expected.path.clone(), key, message };
    let shard = match read_as_recorded(manifest, expected) {
        Ok(shard) => shard,
        Err(message) => return vec![bad(None, message)],
    };
    let mut all: Vec<Bad> = shard.damage().map(|damage| bad(None, damage.to_string())).into_iter().collect();
    for index in 0..expected.samples {
        let sample = match RawSample::find(&shard, index) {
            Ok(sample) => sample,
            Err(error) => {
                all.push(bad(error.key, error.message));
                break;
            }
        };
        let image = sample.image().map_err(|error| error.message);
        let checks = [
            image.and_then(|image| decode(&image).map(drop).map_err(|error| error.to_string())),
            sample.captions(captions).map(drop).map_err(|error| error.message),
        ];
        let key = Some(sample.key().to_owned());
        all.extend(checks.into_iter().filter_map(Result::err).map(|message| bad(key.clone(), message)));
    }
    all
}

/// Reads a shard whole; what is not as the manifest records it is refused.
pub(super) fn read_as_recorded(manifest: &Location, expected: &ManifestShard) -> Result<crate::shards::Shard, String> {
    let location = manifest.sibling(&expected.path).map_err(|error| with_causes(&error))?;
    let found = match expected.format {
        Format::Folder => Found { location, format: expected.format, bytes: expected.bytes, etag: None },
        format => {
            let meta = block_on(location.store.head(&location.prefix)).map_err(|error| error.to_string())?;
            let meta = meta.map_err(|error| with_causes(&error))?;
            Found { location, format, bytes: meta.size, etag: meta.e_tag }
        }
    };
    let read::WholeShard { shard, sha256, bytes } = read::read(&found).map_err(|error| with_causes(&error))?;
    let is = FoundShard { bytes: Some(bytes), sha256: Some(&sha256), etag: found.etag.as_deref() };
    match expected.difference(&is) {
        Some(difference) => Err(difference),
        None => Ok(shard.counted_as(expected)),
    }
}
