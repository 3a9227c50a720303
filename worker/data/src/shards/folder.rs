//! A folder of loose files as a shard: `0001.jpg` beside `0001.txt`, on this machine.
//!
//! Files have offsets as if they were written one after another in the order of their names, so that samples are read by offset
//! here as in a tar file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::FileEntry;
use super::scan::{Groups, Scan, is_sample_file};

/// The files of samples that lie directly in a folder, in the order of their names.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    files: Vec<LooseFile>,
}

#[derive(Debug)]
struct LooseFile {
    name: String,
    offset: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Folder {
    /// Lists a folder. Links and files that belong to no sample are left out.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !is_sample_file(&name) || !entry.file_type()?.is_file() {
                continue;
            }
            let metadata = entry.metadata()?;
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            files.push(LooseFile { name, offset: 0, bytes: metadata.len(), modified });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut offset = 0u64;
        for file in &mut files {
            file.offset = offset;
            offset = offset.saturating_add(file.bytes);
        }
        Ok(Self { path: path.to_owned(), files })
    }

    /// Size of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.last().map_or(0, |last| last.offset.saturating_add(last.bytes))
    }

    /// Tells whether a file was added, removed or written, without reading any.
    pub(crate) fn state(&self) -> String {
        let mut hasher = Sha256::new();
        for file in &self.files {
            hasher.update(format!("{}\0{}\0{:?}\n", file.name, file.bytes, file.modified));
        }
        hex::encode(hasher.finalize())
    }

    /// SHA-256 of every file in turn: its name, a zero byte, its size as 8 bytes with the lowest first, and its content.
    pub(crate) fn sha256(&self) -> io::Result<String> {
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        for file in &self.files {
            hasher.update(file.name.as_bytes());
            hasher.update([0]);
            hasher.update(file.bytes.to_le_bytes());
            let mut content = self.file(file)?.take(file.bytes);
            loop {
                match content.read(&mut piece)? {
                    0 => break,
                    count => hasher.update(&piece[..count]),
                }
            }
        }
        Ok(hex::encode(hasher.finalize()))
    }

    /// The samples.
    pub(crate) fn scan(&self) -> Scan {
        let mut groups = Groups::default();
        self.files.iter().for_each(|file| groups.add(&file.name, file.offset, file.bytes));
        groups.finish(None)
    }

    pub(super) fn read_exact_at(&self, content: &mut [u8], entry: &FileEntry) -> io::Result<()> {
        // Empty files share their offset with the file after them; reading nothing from it is as good.
        let place = self.files.partition_point(|file| file.offset <= entry.offset);
        let file = place.checked_sub(1).and_then(|place| self.files.get(place)).ok_or(io::ErrorKind::NotFound)?;
        if content.is_empty() {
            return Ok(());
        }
        self.file(file)?.read_exact_at(content, entry.offset - file.offset)
    }

    /// Opens a file that must still be as it was listed.
    fn file(&self, file: &LooseFile) -> io::Result<File> {
        let opened = File::open(self.path.join(&file.name))?;
        let metadata = opened.metadata()?;
        if (metadata.len(), (metadata.mtime(), metadata.mtime_nsec())) != (file.bytes, file.modified) {
            return Err(io::Error::other("a file of the folder was written while it was in use"));
        }
        Ok(opened)
    }
}
