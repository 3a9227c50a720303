//! Brings a shard to this machine and checks that it is the one that the manifest records.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cappa_shared::manifest::{FoundShard, Identity, Shard as ManifestShard};
use cappa_shared::storage::{Location, StorageError};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::cache::{Cache, Claim, NextUse, Partial, Sizes};
use super::download::{Means, Source};
use super::file::{FileState, ShardFile};
use super::unpack::{packing_of, unpack, unpack_limit};
use super::verified::Verified;
use super::{Damage, Shard};

/// How often a shard is downloaded as a whole when its content is not the recorded one.
const ATTEMPTS: u32 = 5;
/// Local shards are hashed in pieces of this size; between pieces a stop is noticed.
const PIECE: usize = 1 << 20;
/// How often one looks whether another process has finished a download.
const LOOK: Duration = Duration::from_millis(50);

/// Why a shard can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A local shard is gone, or may not be read.
    #[error("shard {path} cannot be read; restore it, or index the corpus again without it")]
    Local {
        /// The file.
        path: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The store has no such shard or does not let us read it, or it delivered nothing for as long as was waited.
    #[error("shard {location} cannot be downloaded (waited {} s for the store); check the store, restore the shard, or index the corpus again without it", waited.as_secs())]
    Remote {
        /// The shard's URL.
        location: String,
        /// How long nothing came.
        waited: Duration,
        /// What the store said last.
        #[source]
        source: StorageError,
    },
    /// Every attempt to download the shard brought other bytes.
    #[error("shard {location} arrives with other content at every attempt; check the network and the store")]
    Unstable {
        /// The shard's URL.
        location: String,
    },
    /// The manifest names something that is no location.
    #[error("shard {path:?} of the manifest has no usable location")]
    Location {
        /// What the manifest says.
        path: String,
        /// Why it is unusable.
        #[source]
        source: StorageError,
    },
    /// The local disk failed.
    #[error("the shard cache cannot be used; check the disk and the free space of its folder")]
    Cache(#[source] io::Error),
    /// The loader was stopped.
    #[error("the loader was stopped")]
    Stopped,
}

/// What a shard must be, from the manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// What it is called in the cache.
    pub(super) key: &'a str,
    pub(super) shard: &'a ManifestShard,
}

/// Fetches shards one after another; every fetching thread has its own.
pub(super) struct Fetcher {
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) cache: Arc<Cache>,
    pub(super) means: Arc<Means>,
    pub(super) verified: Arc<Verified>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Fetcher {
    /// The shard at `location`, on this machine and scanned. One that is not what the manifest records has no samples and
    /// says so in its damage. `next_use` tells what may leave the cache for it.
    pub(super) fn fetch(
        &self,
        location: &Location,
        expected: Expected<'_>,
        next_use: &dyn Fn(&str) -> NextUse,
    ) -> Result<Shard, FetchError> {
        let Fetched { file, damage } = match local_path(location) {
            Some(path) => self.open_local(&path, expected, next_use)?,
            None => self.cached(expected, next_use, |partial| self.download(location, expected, partial))?,
        };
        match damage {
            Some(damage) => Ok(Shard::unusable(file, damage)),
            None => Shard::scanned(file).map_err(FetchError::Cache),
        }
    }

    /// A shard of this machine, in place; unpacked in the cache where it is packed.
    fn open_local(
        &self,
        path: &Path,
        expected: Expected<'_>,
        next_use: &dyn Fn(&str) -> NextUse,
    ) -> Result<Fetched, FetchError> {
        let failed = |source| FetchError::Local { path: path.display().to_string(), source };
        let mut opened = File::open(path).map_err(failed)?;
        let state = FileState::of(&opened).map_err(failed)?;
        let file = ShardFile::InPlace { path: path.to_owned(), state };
        let found = FoundShard { bytes: Some(state.bytes), ..FoundShard::default() };
        if let Some(changed) = expected.shard.difference(&found) {
            return Ok(Fetched::changed(file, changed));
        }
        let digest = match self.verified.digest(&state) {
            Some(digest) => digest,
            None => {
                let digest = self.digest(&mut opened, failed)?;
                // Where it can't be remembered it is hashed again.
                let _ = self.verified.remember(&state, &digest);
                digest
            }
        };
        match expected.shard.difference(&FoundShard { sha256: Some(&digest), ..found }) {
            Some(changed) => Ok(Fetched::changed(file, changed)),
            None if expected.shard.format.is_packed() => {
                self.cached(expected, next_use, |partial| self.unpack(Some(&opened), expected, partial))
            }
            None => Ok(Fetched { file, damage: None }),
        }
    }

    fn digest(&self, file: &mut File, failed: impl Fn(io::Error) -> FetchError) -> Result<String, FetchError> {
        let mut hasher = Sha256::new();
        let mut piece = vec![0; PIECE];
        loop {
            self.check_stop()?;
            match file.read(&mut piece).map_err(&failed)? {
                0 => return Ok(hex::encode(hasher.finalize())),
                count => hasher.update(&piece[..count]),
            }
        }
    }

    /// The shard from the cache, into which it is brought by us, with `bring`, or by another process.
    fn cached(
        &self,
        expected: Expected<'_>,
        next_use: &dyn Fn(&str) -> NextUse,
        bring: impl FnOnce(Partial) -> Result<Fetched, FetchError>,
    ) -> Result<Fetched, FetchError> {
        let (packed, kept) = (expected.shard.bytes, expected.shard.unpacked_bytes);
        let making = if expected.shard.format.is_packed() { packed.saturating_add(kept) } else { kept };
        loop {
            self.check_stop()?;
            match self.cache.claim(expected.key, Sizes { making, kept }, next_use).map_err(FetchError::Cache)? {
                Claim::Ready(file) => return Ok(Fetched { file: ShardFile::Held(file), damage: None }),
                Claim::Ours(partial) => return bring(partial),
                Claim::Busy => std::thread::sleep(LOOK),
            }
        }
    }

    /// Unpacks a shard into the cache: what was downloaded, or a local file. Once, however often its samples are read.
    fn unpack(
        &self,
        local: Option<&File>,
        expected: Expected<'_>,
        mut partial: Partial,
    ) -> Result<Fetched, FetchError> {
        let bytes = expected.shard.unpacked_bytes;
        let limit = bytes.min(unpack_limit(expected.shard.bytes));
        let kept = partial.keep_unpacked(bytes, |downloaded, target| {
            let mut reader = local.unwrap_or(downloaded);
            reader.rewind()?;
            // Its first bytes tell, not its name; what is not packed is copied.
            let format = packing_of(reader)?.unwrap_or_default();
            unpack(Stoppable(reader, &self.stop), format, target, limit)
        });
        self.check_stop()?;
        match kept {
            Ok(file) => Ok(Fetched { file: ShardFile::Held(file), damage: None }),
            // The disk failed, not the shard.
            Err(error) if error.raw_os_error().is_some() => Err(FetchError::Cache(error)),
            Err(error) => {
                let message = format!("it cannot be unpacked: {error}");
                let file = partial.discard().map_err(FetchError::Cache)?;
                Ok(Fetched { file: ShardFile::Held(file), damage: Some(Damage::Header { offset: 0, message }) })
            }
        }
    }

    fn download(
        &self,
        location: &Location,
        expected: Expected<'_>,
        mut partial: Partial,
    ) -> Result<Fetched, FetchError> {
        let mut before = None;
        for attempt in 1..=ATTEMPTS {
            let changed = self.until_stopped(download(&self.means, location, expected, &mut partial.file))?;
            match changed {
                None if expected.shard.format.is_packed() => return self.unpack(None, expected, partial),
                None => {
                    let file = partial.keep().map_err(FetchError::Cache)?;
                    return Ok(Fetched { file: ShardFile::Held(file), damage: None });
                }
                // A proxy may have spoiled the transfer, so other content is believed only when it comes twice.
                Some(changed) if before.as_ref() == Some(&changed) => {
                    let file = partial.discard().map_err(FetchError::Cache)?;
                    return Ok(Fetched::changed(ShardFile::Held(file), changed));
                }
                Some(changed) => {
                    tracing::warn!(shard = %location, attempt, "other content than the manifest records; downloading again");
                    partial.file.set_len(0).map_err(FetchError::Cache)?;
                    before = Some(changed);
                }
            }
        }
        partial.discard().map_err(FetchError::Cache)?;
        Err(FetchError::Unstable { location: location.to_string() })
    }

    fn until_stopped<T>(&self, work: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
        let mut stop = self.stop.clone();
        self.runtime.block_on(async {
            tokio::select! {
                outcome = work => outcome,
                _ = stop.wait_for(|stop| *stop) => Err(FetchError::Stopped),
            }
        })
    }

    fn check_stop(&self) -> Result<(), FetchError> {
        if *self.stop.borrow() { Err(FetchError::Stopped) } else { Ok(()) }
    }
}

/// A shard on this machine.
struct Fetched {
    file: ShardFile,
    /// Why nothing of it may be used.
    damage: Option<Damage>,
}

impl Fetched {
    fn changed(file: ShardFile, message: String) -> Self {
        Self { file, damage: Some(Damage::Changed { message }) }
    }
}

/// A file that ends with an error once the pool is stopped.
struct Stoppable<'a>(&'a File, &'a watch::Receiver<bool>);

impl Read for Stoppable<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        if *self.1.borrow() { Err(io::Error::other("stopped")) } else { self.0.read(piece) }
    }
}

/// Downloads what is missing of a shard; tells how the whole differs from what is expected.
async fn download(
    means: &Means,
    location: &Location,
    expected: Expected<'_>,
    file: &mut File,
) -> Result<Option<String>, FetchError> {
    let bytes = expected.shard.bytes;
    let mut source = Source { location, means, etag: None };
    let meta = source.meta().await?;
    let found = FoundShard { bytes: Some(meta.size), sha256: None, etag: meta.e_tag.as_deref() };
    if let Some(changed) = expected.shard.difference(&found) {
        return Ok(Some(changed));
    }
    if matches!(expected.shard.identity, Identity::Tag { .. }) {
        source.etag = meta.e_tag.clone();
    }
    let mut hasher = Sha256::new();
    let begin = begun(file, bytes, &mut hasher).map_err(FetchError::Cache)?;
    let mut parts = std::pin::pin!(source.read(begin..bytes));
    while let Some(part) = parts.next().await {
        let part = part?;
        hasher.update(&*part.content);
        file.write_all(&part.content).map_err(FetchError::Cache)?;
    }
    let digest = hex::encode(hasher.finalize());
    Ok(expected.shard.difference(&FoundShard { sha256: Some(&digest), ..found }))
}

/// Hashes what an earlier download left and tells how much that is; the file stands at its end.
fn begun(file: &mut File, bytes: u64, hasher: &mut Sha256) -> io::Result<u64> {
    if file.metadata()?.len() > bytes {
        file.set_len(0)?;
    }
    file.rewind()?;
    let mut piece = vec![0; PIECE];
    let mut hashed = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hashed),
            count => {
                hasher.update(&piece[..count]);
                hashed += count as u64;
            }
        }
    }
}

/// The file that a location names, where it is one of this machine.
pub(crate) fn local_path(location: &Location) -> Option<PathBuf> {
    location.url().starts_with("file://").then(|| Path::new("/").join(location.prefix.as_ref()))
}
