//! Brings a shard to this machine and checks that it is the one that the manifest records.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cappa_shared::storage::{Location, StorageError};
use futures::StreamExt;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::cache::Cache;
use super::file::{FileState, ShardFile};
use super::{Damage, Shard};

/// How often a download is tried before it is given up.
const ATTEMPTS: u32 = 5;
/// The pause after the first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Local shards are hashed in pieces of this size; between pieces a stop is noticed.
const PIECE: usize = 1 << 20;

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
    /// The store has no such shard or does not let us read it, or it failed again and again.
    #[error("shard {location} cannot be downloaded; restore it, or index the corpus again without it")]
    Remote {
        /// The shard's URL.
        location: String,
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
    pub(super) bytes: u64,
    pub(super) sha256: &'a str,
}

/// Fetches shards one after another; every fetching thread has its own.
pub(super) struct Fetcher {
    runtime: tokio::runtime::Runtime,
    cache: Arc<Cache>,
    stop: watch::Receiver<bool>,
    /// Local shards whose digest was found right, with what they were then.
    verified: HashMap<PathBuf, FileState>,
}

impl Fetcher {
    pub(super) fn new(cache: Arc<Cache>, stop: watch::Receiver<bool>) -> Result<Self, FetchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(FetchError::Cache)?;
        Ok(Self { runtime, cache, stop, verified: HashMap::new() })
    }

    /// The shard at `location`, on this machine and scanned. One that is not what the manifest records has no samples and
    /// says so in its damage. `leased` are the digests that must stay in the cache.
    pub(super) fn fetch(
        &mut self,
        location: &Location,
        expected: Expected<'_>,
        leased: &HashSet<String>,
    ) -> Result<Shard, FetchError> {
        let Fetched { file, changed } = match local_path(location) {
            Some(path) => self.open_local(&path, expected)?,
            None => self.download(location, expected, leased)?,
        };
        match changed {
            Some(message) => Ok(Shard::unusable(file, Damage::Changed { message })),
            None => Shard::scanned(file).map_err(FetchError::Cache),
        }
    }

    fn open_local(&mut self, path: &Path, expected: Expected<'_>) -> Result<Fetched, FetchError> {
        let failed = |source| FetchError::Local { path: path.display().to_string(), source };
        let mut opened = File::open(path).map_err(failed)?;
        let state = FileState::of(&opened).map_err(failed)?;
        let file = ShardFile::InPlace { path: path.to_owned(), state };
        if self.verified.get(path) == Some(&state) {
            return Ok(Fetched { file, changed: None });
        }
        if state.bytes != expected.bytes {
            return Ok(Fetched { file, changed: Some(size_changed(state.bytes, expected.bytes)) });
        }
        let digest = self.digest(&mut opened, failed)?;
        let changed = digest_changed(&digest, expected.sha256);
        if changed.is_none() {
            self.verified.insert(path.to_owned(), state);
        }
        Ok(Fetched { file, changed })
    }

    fn digest(&self, file: &mut File, failed: impl Fn(io::Error) -> FetchError) -> Result<String, FetchError> {
        let mut hasher = Sha256::new();
        let mut piece = vec![0; PIECE];
        loop {
            if *self.stop.borrow() {
                return Err(FetchError::Stopped);
            }
            match file.read(&mut piece).map_err(&failed)? {
                0 => return Ok(hex::encode(hasher.finalize())),
                count => hasher.update(&piece[..count]),
            }
        }
    }

    fn download(
        &mut self,
        location: &Location,
        expected: Expected<'_>,
        leased: &HashSet<String>,
    ) -> Result<Fetched, FetchError> {
        if let Some(file) = self.cache.find(expected.sha256, expected.bytes) {
            return Ok(Fetched { file: ShardFile::Held(file), changed: None });
        }
        let _room = self.cache.make_room(expected.bytes, leased).map_err(FetchError::Cache)?;
        let unfinished = Unfinished(self.cache.unfinished(expected.sha256));
        let mut changed = None;
        for attempt in 1..=ATTEMPTS {
            match self.download_once(location, &unfinished.0, expected) {
                Ok(fetched @ Fetched { changed: None, .. }) => {
                    self.cache.keep(&unfinished.0, expected.sha256).map_err(FetchError::Cache)?;
                    return Ok(fetched);
                }
                // A proxy may have spoiled the transfer, so other content is believed only when it comes twice.
                Ok(fetched) if changed == fetched.changed => return Ok(fetched),
                Ok(fetched) => changed = fetched.changed,
                Err(FetchError::Remote { source, .. }) if source.is_transient() && attempt < ATTEMPTS => {
                    tracing::warn!(shard = %location, attempt, error = %source, "download failed, trying again");
                    self.pause(attempt)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(FetchError::Unstable { location: location.to_string() })
    }

    fn download_once(&self, location: &Location, target: &Path, expected: Expected<'_>) -> Result<Fetched, FetchError> {
        let mut stop = self.stop.clone();
        self.runtime.block_on(async {
            tokio::select! {
                outcome = download(location, target, expected) => outcome,
                _ = stop.wait_for(|stop| *stop) => Err(FetchError::Stopped),
            }
        })
    }

    /// Waits before the next attempt, with jitter so that workers that failed together don't return together.
    fn pause(&self, attempt: u32) -> Result<(), FetchError> {
        let longest = FIRST_PAUSE * 2u32.pow(attempt - 1);
        let jitter = (RandomState::new().build_hasher().finish() % 1000) as u32;
        let pause = longest / 2 + longest * jitter / 2000;
        let mut stop = self.stop.clone();
        self.runtime.block_on(async {
            match tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await {
                Ok(_) => Err(FetchError::Stopped),
                Err(_elapsed) => Ok(()),
            }
        })
    }
}

/// A shard on this machine.
struct Fetched {
    file: ShardFile,
    /// How it differs from what the manifest records.
    changed: Option<String>,
}

async fn download(location: &Location, target: &Path, expected: Expected<'_>) -> Result<Fetched, FetchError> {
    let failed = |error: object_store::Error| FetchError::Remote {
        location: location.to_string(),
        source: StorageError::at(location.url(), &error),
    };
    let object = location.store.get(&location.prefix).await.map_err(failed)?;
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(target).map_err(FetchError::Cache)?;
    if object.meta.size != expected.bytes {
        return Ok(Fetched {
            file: ShardFile::Held(file),
            changed: Some(size_changed(object.meta.size, expected.bytes)),
        });
    }
    let mut hasher = Sha256::new();
    let mut content = object.into_stream();
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(failed)?;
        hasher.update(&piece);
        file.write_all(&piece).map_err(FetchError::Cache)?;
    }
    file.sync_data().map_err(FetchError::Cache)?;
    let digest = hex::encode(hasher.finalize());
    Ok(Fetched { file: ShardFile::Held(file), changed: digest_changed(&digest, expected.sha256) })
}

/// The file that a location names, where it is one of this machine.
pub(crate) fn local_path(location: &Location) -> Option<PathBuf> {
    location.url().starts_with("file://").then(|| Path::new("/").join(location.prefix.as_ref()))
}

fn size_changed(found: u64, expected: u64) -> String {
    format!("the shard has {found} bytes where the manifest records {expected}; index it again")
}

fn digest_changed(found: &str, expected: &str) -> Option<String> {
    (found != expected)
        .then(|| format!("the shard's sha256 is {found} where the manifest records {expected}; index it again"))
}

/// A download that is removed unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already when the download was kept; otherwise a leftover that the next sweep finds.
        let _ = std::fs::remove_file(&self.0);
    }
}
