//! The file of a shard that is at hand.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::ParseIntError;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileState {
    pub(crate) bytes: u64,
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970: last written, and last changed in any way.
    modified: i128,
    changed: i128,
}

impl FileState {
    /// The state of an open file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Ok(Self {
            bytes: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether nothing happened to the file in the time before `now`.
    pub(super) fn is_older_than(&self, age: Duration, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let then = i128::try_from(now.saturating_sub(age.as_nanos())).unwrap_or(i128::MAX);
        self.modified < then && self.changed < then
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {}", self.bytes, self.device, self.inode, self.modified, self.changed)
    }
}

impl FromStr for FileState {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let mut fields = text.split(' ');
        let mut next = || fields.next().unwrap_or_default();
        Ok(Self {
            bytes: next().parse()?,
            device: next().parse()?,
            inode: next().parse()?,
            modified: next().parse()?,
            changed: next().parse()?,
        })
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
