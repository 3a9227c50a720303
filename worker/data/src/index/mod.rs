//! The index: scans the shards that a pattern names and writes down what they hold.

mod pattern;
mod report;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use cappa_shared::manifest::{DataManifest, ManifestError, Shard as ManifestShard};
use cappa_shared::storage::{self, Location, StorageError};
use futures::StreamExt;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

pub use pattern::PatternError;
pub use report::{IndexReport, ShardReport};

use crate::blocking::block_on;
use crate::shards::{local_path, scan_tar};

/// Shards are read in pieces of this size.
const PIECE: usize = 1 << 20;

/// Why shards can't be indexed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Nothing matches the pattern.
    #[error("no shard matches {0:?}; name tar files, a folder of them, or a pattern like train-*.tar")]
    NoShards(String),
    /// There are shards, but not one sample.
    #[error("the shards of {pattern:?} hold no samples: {problems}")]
    NoSamples {
        /// What was asked for.
        pattern: String,
        /// What is wrong with the shards.
        problems: String,
    },
    /// The store failed.
    #[error("the shards cannot be read")]
    Storage(#[from] StorageError),
    /// This machine's disk failed.
    #[error("shard {location} cannot be read")]
    Disk {
        /// The shard.
        location: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A shard has more samples than a manifest can say.
    #[error("shard {location} has too many samples; split it")]
    TooLarge {
        /// The shard.
        location: String,
    },
    /// The shards make no manifest.
    #[error("the shards make no manifest")]
    Manifest(#[from] ManifestError),
}

/// How far an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexProgress {
    /// Shards scanned.
    pub shards: usize,
    /// Shards to scan.
    pub of: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Samples found.
    pub samples: u64,
}

/// Indexes the shards that `pattern` names: a tar file, a folder or a store's prefix (all `.tar` files directly in it), or a
/// pattern with braces and, in its last part, wildcards. Local patterns are absolute. Paths in the manifest are relative to
/// `manifest`'s folder where they can be. Shards without samples are left out and reported. Blocks.
///
/// # Errors
/// When nothing matches, nothing has samples, or a shard can't be read. A damaged shard is no error: what is readable of it
/// is indexed, and the damage reported.
pub fn index(
    pattern: &str,
    manifest: &Location,
    mut progress: impl FnMut(IndexProgress),
) -> Result<IndexReport, IndexError> {
    let locations = find(pattern)?;
    let folder = format!("{}/", manifest.parent().url());
    let mut state = IndexProgress { shards: 0, of: locations.len(), bytes: 0, samples: 0 };
    let mut shards = Vec::new();
    let mut reports = Vec::new();
    progress(state);
    for location in &locations {
        let path = location.url().strip_prefix(&folder).unwrap_or(location.url()).to_owned();
        let (shard, report) = index_shard(location, path)?;
        state.shards += 1;
        state.bytes += shard.bytes;
        state.samples += u64::from(shard.samples);
        progress(state);
        if shard.samples > 0 {
            shards.push(shard);
        }
        reports.push(report);
    }
    if shards.is_empty() {
        let problems = reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(IndexError::NoSamples { pattern: pattern.to_owned(), problems });
    }
    Ok(IndexReport { manifest: DataManifest::new(shards)?, shards: reports })
}

/// The manifest's usual place: beside the shards, named by what their names have in common, as `train.manifest.json` for
/// `train-000000.tar`.
///
/// # Errors
/// When the pattern names no shard.
pub fn default_manifest(pattern: &str) -> Result<Location, IndexError> {
    let locations = find(pattern)?;
    let name = |location: &Location| location.prefix.filename().unwrap_or_default().to_owned();
    let first = name(&locations[0]);
    let common = locations.iter().map(name).fold(first.trim_end_matches(".tar").to_owned(), |common, name| {
        let same = common.chars().zip(name.chars()).take_while(|(left, right)| left == right);
        same.map(|(character, _)| character).collect()
    });
    let stem = common.trim_end_matches(|character: char| character.is_ascii_digit() || "-_.".contains(character));
    let stem = if stem.is_empty() { "data" } else { stem };
    Ok(locations[0].parent().join(&format!("{stem}.manifest.json"))?)
}

/// The shards that a pattern names, in its order, within a folder in order of name.
fn find(pattern: &str) -> Result<Vec<Location>, IndexError> {
    let mut found = Vec::new();
    for name in pattern::expand(pattern)? {
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", &name));
        if pattern::has_wildcard(last) {
            found.extend(list(&storage::open(folder)?, last)?);
        } else if last.ends_with(".tar") {
            found.push(storage::open(&name)?);
        } else {
            found.extend(list(&storage::open(&name)?, "*.tar")?);
        }
    }
    if found.is_empty() { Err(IndexError::NoShards(pattern.to_owned())) } else { Ok(found) }
}

fn list(folder: &Location, pattern: &str) -> Result<Vec<Location>, IndexError> {
    let entries = block_on(folder.list("")).map_err(|source| disk(folder, source))??;
    let names = entries.iter().map(|entry| entry.path.as_str());
    let matching = names.filter(|path| !path.contains('/') && pattern::matches(pattern, path));
    Ok(matching.map(|path| folder.join(path)).collect::<Result<_, _>>()?)
}

fn index_shard(location: &Location, path: String) -> Result<(ManifestShard, ShardReport), IndexError> {
    let failed = |source| disk(location, source);
    let (file, sha256) = match local_path(location) {
        Some(path) => {
            let mut file = File::open(path).map_err(failed)?;
            let digest = digest(&mut file).map_err(failed)?;
            (file, digest)
        }
        None => block_on(download(location)).map_err(failed)??,
    };
    let bytes = file.metadata().map_err(failed)?.len();
    let scan = scan_tar(&file).map_err(failed)?;
    let samples =
        u32::try_from(scan.samples.len()).map_err(|_| IndexError::TooLarge { location: location.to_string() })?;
    let report = ShardReport::new(path.clone(), &scan);
    Ok((ManifestShard::tar(path, bytes, sha256, samples), report))
}

fn digest(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// Brings a shard into an unnamed temporary file, which is gone when it is closed.
async fn download(location: &Location) -> Result<(File, String), IndexError> {
    let failed = |error: object_store::Error| StorageError::at(location.url(), &error);
    let mut file = tempfile::tempfile().map_err(|source| disk(location, source))?;
    let mut hasher = Sha256::new();
    let mut content = location.store.get(&location.prefix).await.map_err(failed)?.into_stream();
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(failed)?;
        hasher.update(&piece);
        file.write_all(&piece).map_err(|source| disk(location, source))?;
    }
    file.seek(SeekFrom::Start(0)).map_err(|source| disk(location, source))?;
    Ok((file, hex::encode(hasher.finalize())))
}

fn disk(location: &Location, source: io::Error) -> IndexError {
    IndexError::Disk { location: location.to_string(), source }
}
