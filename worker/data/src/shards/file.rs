//! The file of a shard that is at hand.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The file of a shard.
#[derive(Debug)]
pub(crate) enum ShardFile {
    /// A downloaded one, held open: another process may evict it from the cache, and what is open stays readable.
    Held(File),
    /// A local one, opened for every read: a rank with many lanes needs more shards at once than a process may hold open.
    InPlace {
        /// Where it is.
        path: PathBuf,
        /// What it was when it was checked.
        state: FileState,
    },
}

/// What tells that a file was not written since it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) bytes: u64,
    modified: SystemTime,
}

impl FileState {
    /// The state of an open file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified()? })
    }
}

impl ShardFile {
    /// The file at `path`, as it is now.
    pub(crate) fn in_place(path: &Path) -> io::Result<Self> {
        let state = FileState::of(&File::open(path)?)?;
        Ok(Self::InPlace { path: path.to_owned(), state })
    }

    /// The file, open for reading.
    pub(crate) fn open(&self) -> io::Result<Opened<'_>> {
        match self {
            Self::Held(file) => Ok(Opened::Held(file)),
            Self::InPlace { path, state } => {
                let file = File::open(path)?;
                if FileState::of(&file)? != *state {
                    return Err(io::Error::other("the shard was written while it was in use"));
                }
                Ok(Opened::Own(file))
            }
        }
    }
}

/// An open file, borrowed or just opened.
pub(crate) enum Opened<'a> {
    Held(&'a File),
    Own(File),
}

impl Deref for Opened<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Held(file) => file,
            Self::Own(file) => file,
        }
    }
}
