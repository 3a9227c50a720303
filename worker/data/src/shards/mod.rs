//! Shards: tar files of samples, fetched whole, checked, scanned once and then read by offset.

mod cache;
mod fetch;
mod file;
mod pool;
mod scan;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub use fetch::FetchError;
pub(crate) use fetch::local_path;
use file::ShardFile;
pub use pool::{Lease, PoolConfig, ShardPool};
pub use scan::{Damage, FileEntry, SampleEntry, Scan, scan_tar};

/// The largest file of a sample that is read into memory.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// A shard at hand: its file and where its samples lie in it.
#[derive(Debug)]
pub struct Shard {
    file: ShardFile,
    scan: Scan,
}

impl Shard {
    /// Scans the tar file at `path`.
    ///
    /// # Errors
    /// When the file can't be opened or read; damage within the tar is no error but kept in [`Shard::damage`].
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::scanned(ShardFile::in_place(path)?)
    }

    pub(crate) fn scanned(file: ShardFile) -> io::Result<Self> {
        let scan = scan_tar(&*file.open()?)?;
        Ok(Self { file, scan })
    }

    /// A shard of which nothing may be used.
    pub(crate) fn unusable(file: ShardFile, damage: Damage) -> Self {
        Self { file, scan: Scan { samples: Vec::new(), damage: Some(damage) } }
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
        self.file.open()?.read_exact_at(&mut content, entry.offset)?;
        Ok(content)
    }
}
