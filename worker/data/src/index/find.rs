//! From patterns to the shards that they name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use cappa_shared::manifest::Format;
use cappa_shared::storage::{self, Location, StorageError};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::{IndexError, PatternError, disk, pattern};
use crate::blocking::block_on;
use crate::shards::{Folder, local_path};

/// A shard that a pattern names.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) location: Location,
    pub(super) format: Format,
    pub(super) bytes: u64,
    /// What tells that the shard is as it was: the store's ETag; for a folder, its files with sizes and times.
    pub(super) etag: Option<String>,
}

/// The shards that patterns name, each once, in the order of the patterns and within one in the order of names.
pub(super) fn find(patterns: &[String]) -> Result<Vec<Found>, IndexError> {
    let mut found = Vec::new();
    for pattern in patterns {
        let before = found.len();
        for name in pattern::expand(pattern)? {
            found.extend(named(&name)?);
        }
        if found.len() == before {
            return Err(IndexError::NoShards(pattern.clone()));
        }
    }
    let mut seen = HashSet::new();
    found.retain(|shard: &Found| seen.insert(shard.location.url().to_owned()));
    Ok(found)
}

/// The shards of one name without braces: a file, a folder, or a glob.
fn named(name: &str) -> Result<Vec<Found>, IndexError> {
    let lists = !name.starts_with("http://") && !name.starts_with("https://");
    let file = name.rsplit('/').next().unwrap_or(name);
    if pattern::has_wildcard(name) {
        if !lists {
            return Err(PatternError::NoListing(name.to_owned()).into());
        }
        let (folder, glob) = pattern::split(name);
        return glob_in(&storage::open(folder)?, glob);
    }
    if let Some(format) = Format::of_name(file) {
        let location = storage::open(name)?;
        let meta = block_on(location.store.head(&location.prefix)).map_err(|source| disk(&location, source))?;
        let meta = meta.map_err(|error| StorageError::at(location.url(), &error))?;
        return Ok(vec![Found { format, bytes: meta.size, etag: meta.e_tag, location }]);
    }
    if !lists {
        return Err(PatternError::NoListing(name.to_owned()).into());
    }
    let location = storage::open(name)?;
    let shards = glob_in(&location, "*")?;
    match local_path(&location) {
        Some(path) if shards.is_empty() && path.is_dir() => folders(&location, &path),
        _ => Ok(shards),
    }
}

/// The shards below `folder` whose path there matches.
fn glob_in(folder: &Location, glob: &str) -> Result<Vec<Found>, IndexError> {
    let is_flat = !glob.contains('/') && glob != "**";
    let listing = async {
        if is_flat {
            return Ok(folder.store.list_with_delimiter(Some(&folder.prefix)).await?.objects);
        }
        folder.store.list(Some(&folder.prefix)).try_collect::<Vec<ObjectMeta>>().await
    };
    let entries = block_on(listing).map_err(|source| disk(folder, source))?;
    let entries = entries.map_err(|error: object_store::Error| StorageError::at(folder.url(), &error))?;
    let mut matching = Vec::new();
    for meta in entries {
        let Some(parts) = meta.location.prefix_match(&folder.prefix) else { continue };
        let path = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        let Some(format) = Format::of_name(&path).filter(|_| pattern::matches_path(glob, &path)) else { continue };
        matching.push(Found { location: folder.join(&path)?, format, bytes: meta.size, etag: meta.e_tag });
    }
    matching.sort_by(|a, b| a.location.url().cmp(b.location.url()));
    Ok(matching)
}

/// Every folder from `path` down that holds files of samples, in order of path.
fn folders(location: &Location, path: &Path) -> Result<Vec<Found>, IndexError> {
    let mut found = Vec::new();
    let mut open: Vec<(Location, PathBuf)> = vec![(location.clone(), path.to_owned())];
    while let Some((location, path)) = open.pop() {
        let failed = |source| disk(&location, source);
        let folder = Folder::open(&path).map_err(failed)?;
        let mut below = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if entry.file_type().map_err(failed)?.is_dir() && !name.is_empty() && !name.starts_with('.') {
                below.push((location.join(&name)?, entry.path()));
            }
        }
        // The last one pushed is looked at next.
        below.sort_by(|a, b| b.1.cmp(&a.1));
        if folder.bytes() > 0 {
            let etag = Some(folder.state());
            found.push(Found { location, format: Format::Folder, bytes: folder.bytes(), etag });
        }
        open.extend(below);
    }
    Ok(found)
}
