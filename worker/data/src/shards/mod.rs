//! Shards: tar files of samples, fetched whole, checked, scanned once and then read by offset.
//!
//! A shard of a store comes in ranges, several at a time, into a cache folder that the processes of a host share; a range that
//! breaks off is continued, a slow one asked for twice, and the content counts only when its digest is the recorded one. A store that is
//! away is waited for, within [`FetchConfig::patience`]. A packed shard lies in the cache unpacked.

mod cache;
mod config;
mod download;
mod fetch;
mod file;
mod folder;
mod pace;
mod pool;
mod scan;
mod schedule;
mod unpack;
mod verified;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cappa_shared::manifest::{self, Pairs};
pub use config::FetchConfig;
pub use fetch::FetchError;
pub(crate) use fetch::local_path;
pub(crate) use file::ShardFile;
pub(crate) use folder::Folder;
pub(crate) use pace::Backoff;
pub use pool::{Lease, PoolConfig, ShardPool};
pub(crate) use scan::scan_with;
pub use scan::{Damage, FileEntry, SampleEntry, Scan, scan_bytes, scan_tar};
pub(crate) use schedule::Schedule;
pub use unpack::{MAX_UNPACKED_BYTES, packing, unpack, unpack_limit};

/// The largest file of a sample that is read into memory.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// A shard at hand: its file and where its samples lie in it.
#[derive(Debug)]
pub struct Shard {
    content: Content,
    scan: Scan,
    /// Which pair of an image and one of its captions is the n-th, where captions were counted.
    pairs: Option<Pairs>,
}

/// Where the bytes of a shard are.
#[derive(Debug)]
enum Content {
    /// In a tar file.
    Tar(ShardFile),
    /// In an unpacked copy of a packed tar file, gone when it is closed.
    Unpacked(File),
    /// In loose files.
    Folder(Folder),
}

impl Shard {
    /// Scans the tar file, packed or not, or the folder at `path`.
    ///
    /// # Errors
    /// When the file can't be opened or read; damage within the tar is no error but kept in [`Shard::damage`].
    pub fn open(path: &Path) -> io::Result<Self> {
        if path.is_dir() { Ok(Self::of_folder(Folder::open(path)?)) } else { Self::scanned(ShardFile::in_place(path)?) }
    }

    /// Scans a tar file. A packed one is unpacked first, as its first bytes tell; one that can't be is damaged.
    pub(crate) fn scanned(file: ShardFile) -> io::Result<Self> {
        let unpacked = unpack::unpacked(&*file.open()?);
        match unpacked {
            Ok(Some(unpacked)) => {
                let scan = scan_tar(&unpacked)?;
                Ok(Self::new(Content::Unpacked(unpacked), scan))
            }
            Ok(None) => {
                let scan = scan_tar(&*file.open()?)?;
                Ok(Self::new(Content::Tar(file), scan))
            }
            // The disk failed, not the shard.
            Err(error) if error.raw_os_error().is_some() => Err(error),
            Err(error) => {
                let message = format!("it cannot be unpacked: {error}");
                Ok(Self::unusable(file, Damage::Header { offset: 0, message }))
            }
        }
    }

    /// A folder of loose files as a shard.
    pub(crate) fn of_folder(folder: Folder) -> Self {
        let scan = folder.scan();
        Self::new(Content::Folder(folder), scan)
    }

    fn new(content: Content, scan: Scan) -> Self {
        Self { content, scan, pairs: None }
    }

    /// The shard as the manifest counts it: with those samples only that a filter kept, so that the n-th is the n-th that the
    /// order counts, and with its pairs of images and captions numbered.
    #[must_use]
    pub fn counted_as(mut self, recorded: &manifest::Shard) -> Self {
        self.pairs = recorded.captions.as_ref().map(manifest::CaptionCounts::pairs);
        if let Some(kept) = &recorded.kept {
            let mut kept = kept.indices().peekable();
            let mut index = 0;
            self.scan.samples.retain(|_| {
                let keeps = kept.next_if_eq(&index).is_some();
                index += 1;
                keeps
            });
        }
        self
    }

    /// The `n`-th pair of an image and one of its captions: the sample's index and the caption's, where captions were counted and
    /// there are so many.
    pub fn pair(&self, n: u32) -> Option<(u32, u32)> {
        self.pairs.as_ref()?.get(n)
    }

    /// Size of the tar file that samples are read from, or of all loose files.
    pub(crate) fn unpacked_bytes(&self) -> io::Result<u64> {
        Ok(match &self.content {
            Content::Tar(file) => file.open()?.metadata()?.len(),
            Content::Unpacked(file) => file.metadata()?.len(),
            Content::Folder(folder) => folder.bytes(),
        })
    }

    /// What was found in it.
    pub(crate) fn scan(&self) -> &Scan {
        &self.scan
    }

    /// A shard of which nothing may be used.
    pub(crate) fn unusable(file: ShardFile, damage: Damage) -> Self {
        let scan = Scan { damage: Some(damage), ..Scan::default() };
        Self::new(Content::Tar(file), scan)
    }

    /// The shard without its samples, because of this damage.
    pub(crate) fn damaged(mut self, damage: Damage) -> Self {
        self.scan = Scan { damage: Some(damage), ..Scan::default() };
        self
    }

    /// The samples that can be read, in the tar's order.
    pub fn samples(&self) -> &[SampleEntry] {
        &self.scan.samples
    }

    /// What ended the scan early, if anything did.
    pub fn damage(&self) -> Option<&Damage> {
        self.scan.damage.as_ref()
    }

    /// Reads a file of a sample.
    ///
    /// # Errors
    /// When the disk fails, the shard's file was changed meanwhile, or the sample's is larger than [`MAX_FILE_BYTES`].
    pub fn read(&self, entry: &FileEntry) -> io::Result<Vec<u8>> {
        if entry.bytes > MAX_FILE_BYTES {
            let message = format!("{} bytes exceed the limit of {MAX_FILE_BYTES} bytes a file", entry.bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let length = usize::try_from(entry.bytes).expect("the limit fits the address space");
        let mut content = vec![0; length];
        match &self.content {
            Content::Tar(file) => file.open()?.read_exact_at(&mut content, entry.offset)?,
            Content::Unpacked(file) => file.read_exact_at(&mut content, entry.offset)?,
            Content::Folder(folder) => folder.read_exact_at(&mut content, entry)?,
        }
        Ok(content)
    }
}
