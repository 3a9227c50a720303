//! What an index has found so far, so that one that was killed goes on where it was.
//!
//! The journal is a folder beside the manifest. Each of its segments is a small manifest, digest and all, and appears whole or
//! not at all; what is not valid is ignored. It is removed when the manifest is written.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cappa_shared::manifest::{DataManifest, Recipe, Shard};
use cappa_shared::storage::{Location, StorageError};

use super::{IndexError, disk};
use crate::blocking::block_on;
use crate::shards::local_path;

/// A segment is written after so long, or after so many shards.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
const SHARDS: usize = 256;

/// The journal of one index.
#[derive(Debug)]
pub struct Journal {
    folder: Location,
    recipe: Recipe,
    pending: Vec<Shard>,
    written: Instant,
}

impl Journal {
    /// Opens the journal beside a manifest and gives the shards, by path, that an index by the same recipe left there.
    pub(super) fn open(manifest: &Location, recipe: Recipe) -> Result<(Self, HashMap<String, Shard>), IndexError> {
        let name = format!("{}.journal", manifest.prefix.filename().unwrap_or("manifest"));
        let folder = manifest.parent().join(&name)?;
        let mut known = HashMap::new();
        for segment in call(&folder, folder.list(""))? {
            let document = call(&folder, folder.get(&segment.path))?;
            // A segment of another version of the program, or a file that is none of ours.
            let Ok(segment) = DataManifest::from_json(&document) else { continue };
            if *segment.recipe() == recipe {
                known.extend(segment.shards().iter().map(|shard| (shard.path.clone(), shard.clone())));
            }
        }
        Ok((Self { folder, recipe, pending: Vec::new(), written: Instant::now() }, known))
    }

    /// Takes in a shard; it is safe after the next segment.
    pub(super) fn add(&mut self, shard: &Shard) -> Result<(), IndexError> {
        self.pending.push(shard.clone());
        if self.pending.len() >= SHARDS || self.written.elapsed() >= PERIOD { self.write() } else { Ok(()) }
    }

    /// Writes what is pending.
    pub(super) fn write(&mut self) -> Result<(), IndexError> {
        self.written = Instant::now();
        if self.pending.is_empty() {
            return Ok(());
        }
        let segment = DataManifest::indexed(self.recipe.clone(), std::mem::take(&mut self.pending))?;
        let name = format!("{}.json", &segment.digest()[..16]);
        call(&self.folder, self.folder.put(&name, segment.to_json()))
    }

    /// Removes the journal: the manifest has all of it. Blocks.
    ///
    /// # Errors
    /// When the store fails; what is left of the journal then does no harm.
    pub fn remove(self) -> Result<(), IndexError> {
        for segment in call(&self.folder, self.folder.list(""))? {
            call(&self.folder, self.folder.delete(&segment.path))?;
        }
        if let Some(path) = local_path(&self.folder) {
            // Absent where there never was a segment. What a killed index was still writing is in no listing, and goes with the folder.
            let _ = std::fs::remove_dir_all(path);
        }
        Ok(())
    }
}

fn call<T: Send>(at: &Location, work: impl Future<Output = Result<T, StorageError>> + Send) -> Result<T, IndexError> {
    Ok(block_on(work).map_err(|source| disk(at, source))??)
}
