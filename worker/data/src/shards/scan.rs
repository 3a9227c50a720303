//! Where the samples of a tar file lie.
//!
//! A sample is the files that share a key, as WebDataset defines it: the path up to the first dot of its last part is the
//! key, what follows is the extension. Usually they follow each other; where they don't, as in tar files of unsorted folders, they
//! still make one sample. V7, ustar, GNU (long names) and pax (path, size) are read. What is no plain file is skipped and counted.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header, PaxExtensions};

/// Extensions of the files that make a sample; a group with none of them is not a sample.
const SAMPLE_EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "txt", "json"];

/// The largest long name and pax header that memory is given for.
const MAX_EXTRA_BYTES: u64 = 1 << 20;
/// The most files that a shard may hold.
const MAX_FILES: usize = 8 << 20;
/// The size of headers and what contents are filled up to.
const BLOCK: usize = 512;
/// What is read at once: a header, and the small files and headers behind it.
const WINDOW: usize = 8 << 10;

/// What a scan of a tar file found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The samples in order of their first file.
    pub samples: Vec<SampleEntry>,
    /// What ended the scan early; the samples before it are usable.
    pub damage: Option<Damage>,
    /// Hard and symbolic links: their content is not in the tar file, or not theirs.
    pub links: u32,
    /// Sparse files: their content has holes.
    pub sparse: u32,
}

/// A sample of a tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleEntry {
    /// What its files' paths have in common.
    pub key: String,
    /// Its files in the tar's order.
    pub files: Vec<FileEntry>,
}

/// A file of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// What follows the first dot of its name, in lowercase.
    pub extension: String,
    /// Where its content begins in the tar file.
    pub offset: u64,
    /// Size of its content.
    pub bytes: u64,
}

/// Damage of a tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// No valid header where one should be.
    Header {
        /// Where the headers up to the damage end.
        offset: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The file ends within the content that a header announced.
    Truncated {
        /// Where the entry's content begins.
        offset: u64,
    },
    /// Not the content that the manifest recorded.
    Changed {
        /// How it differs.
        message: String,
    },
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header { offset, message } => write!(f, "the tar is damaged after byte {offset}: {message}"),
            Self::Truncated { offset } => write!(f, "the tar is cut off in the file at byte {offset}"),
            Self::Changed { message } => f.write_str(message),
        }
    }
}

impl SampleEntry {
    /// The first file with one of `extensions`, in their order of preference.
    pub fn file(&self, extensions: &[&str]) -> Option<&FileEntry> {
        extensions.iter().find_map(|extension| self.files.iter().find(|file| file.extension == *extension))
    }

    fn is_sample(&self) -> bool {
        self.file(&SAMPLE_EXTENSIONS).is_some()
    }
}

/// Scans the headers of a tar file; contents are skipped, not read.
///
/// # Errors
/// When the file can't be read. Damage of the tar is part of the result.
pub fn scan_tar(file: &File) -> io::Result<Scan> {
    let length = file.metadata()?.len();
    scan_with(|buffer, offset| file.read_at(buffer, offset), length)
}

/// As [`scan_tar`], of a tar file in memory.
///
/// # Errors
/// Never; it is there for symmetry with files.
pub fn scan_bytes(tar: &[u8]) -> io::Result<Scan> {
    let read = |buffer: &mut [u8], offset: u64| {
        let rest = usize::try_from(offset).ok().and_then(|offset| tar.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    };
    scan_with(read, tar.len() as u64)
}

/// As [`scan_tar`], of a tar file of `length` bytes of which `read` gives what lies at an offset, as much as fits the buffer or less,
/// and nothing at the end. Contents larger than a few KiB are never asked for.
///
/// # Errors
/// When `read` fails.
pub(crate) fn scan_with(read: impl FnMut(&mut [u8], u64) -> io::Result<usize>, length: u64) -> io::Result<Scan> {
    let window = Window { read, buffer: vec![0; WINDOW], start: 0, filled: 0 };
    let mut scanner = Scanner { window, length, groups: Groups::default(), extra: Extra::default() };
    let mut at = 0;
    let damage = loop {
        match scanner.entry(at)? {
            Next::Entry(next) => at = next,
            Next::End => break None,
            Next::Damage(damage) => break Some(damage),
        }
    };
    Ok(scanner.groups.finish(damage))
}

/// A moving view of the file.
struct Window<R> {
    read: R,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl<R: FnMut(&mut [u8], u64) -> io::Result<usize>> Window<R> {
    /// The block at `offset`; nothing where the file ends before it does.
    fn block(&mut self, offset: u64) -> io::Result<Option<&[u8; BLOCK]>> {
        Ok(self.view(offset, BLOCK)?.first_chunk())
    }

    /// What lies at `offset`, with `bytes` of it unless the file ends before; at most as many as the buffer holds.
    fn view(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let held = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let mut begin = held.unwrap_or(usize::MAX);
        if begin.saturating_add(bytes) > self.filled {
            (self.start, self.filled, begin) = (offset, 0, 0);
            self.filled = self.fill(offset)?;
        }
        Ok(self.buffer[..self.filled].get(begin..).unwrap_or_default())
    }

    fn fill(&mut self, offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < self.buffer.len() {
            match (self.read)(&mut self.buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// A piece of the file, all of it.
    fn piece(&mut self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        if bytes <= self.buffer.len() {
            let view = self.view(offset, bytes)?;
            return Ok(view.get(..bytes).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec());
        }
        let mut piece = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            match (self.read)(&mut piece[filled..], offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(piece)
    }
}

struct Scanner<R> {
    window: Window<R>,
    length: u64,
    groups: Groups,
    extra: Extra,
}

/// What long-name entries and pax headers say about the entry after them.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

enum Next {
    /// There is an entry; the next header is here.
    Entry(u64),
    End,
    Damage(Damage),
}

impl<R: FnMut(&mut [u8], u64) -> io::Result<usize>> Scanner<R> {
    /// Takes in the entry whose header is at `at`.
    fn entry(&mut self, at: u64) -> io::Result<Next> {
        let damaged = |message: &str| Ok(Next::Damage(Damage::Header { offset: at, message: message.into() }));
        let Some(block) = self.window.block(at)? else {
            return if at >= self.length { Ok(Next::End) } else { damaged("the header is cut off") };
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Next::End);
        }
        if !checksum_is_right(block) {
            return damaged("the checksum of the header is wrong");
        }
        let header = Header::from_byte_slice(block).clone();
        let Ok(stored) = header.entry_size() else { return damaged("the size in the header is no number") };
        let Some(mut offset) = at.checked_add(BLOCK as u64) else { return damaged("the file is too long") };
        let kind = header.entry_type();
        // A pax size is about the file that the pax header describes, not about a long name between the two.
        let is_extra = kind.is_gnu_longname() || kind.is_gnu_longlink() || is_pax(kind);
        let size = if is_extra { stored } else { self.extra.size.unwrap_or(stored) };
        if kind.is_gnu_sparse() {
            match self.behind_sparse_map(&header, offset)? {
                Some(behind) => offset = behind,
                None => return Ok(Next::Damage(Damage::Truncated { offset })),
            }
        }
        match offset.checked_add(size) {
            Some(end) if end <= self.length => {}
            _ => return Ok(Next::Damage(Damage::Truncated { offset })),
        }
        if is_extra {
            if size > MAX_EXTRA_BYTES {
                return damaged("a long name or pax header exceeds the limit of 1 MiB");
            }
            if let Err(message) = self.take_extra(kind, offset, size)? {
                return damaged(message);
            }
        } else {
            if self.groups.files >= MAX_FILES {
                return damaged("more than 8388608 files; split the shard");
            }
            self.take_file(&header, offset, size);
        }
        // The padding of the last file may be missing.
        Ok(Next::Entry(offset + size.next_multiple_of(BLOCK as u64)))
    }

    fn take_extra(&mut self, kind: EntryType, offset: u64, size: u64) -> io::Result<Result<(), &'static str>> {
        if kind.is_gnu_longlink() || kind.is_pax_global_extensions() {
            return Ok(Ok(()));
        }
        let mut content = self.window.piece(offset, usize::try_from(size).expect("the size was bounded"))?;
        if kind.is_gnu_longname() {
            let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
            content.truncate(end);
            self.extra.path = Some(content);
            return Ok(Ok(()));
        }
        for record in PaxExtensions::new(&content) {
            let Ok(record) = record else { return Ok(Err("the pax header is malformed")) };
            match record.key_bytes() {
                b"path" => self.extra.path = Some(record.value_bytes().to_vec()),
                b"size" => match record.value().ok().and_then(|value| value.parse().ok()) {
                    Some(size) => self.extra.size = Some(size),
                    None => return Ok(Err("the size in the pax header is no number")),
                },
                key if key.starts_with(b"GNU.sparse.") => self.extra.sparse = true,
                _ => {}
            }
        }
        Ok(Ok(()))
    }

    fn take_file(&mut self, header: &Header, offset: u64, size: u64) {
        let extra = std::mem::take(&mut self.extra);
        let kind = header.entry_type();
        if kind.is_hard_link() || kind.is_symlink() {
            self.groups.links += 1;
        } else if kind.is_gnu_sparse() || extra.sparse {
            self.groups.sparse += 1;
        } else if kind.is_file() || kind.is_contiguous() {
            let path = extra.path.unwrap_or_else(|| header.path_bytes().into_owned());
            self.groups.add(&String::from_utf8_lossy(&path), offset, size);
        }
    }

    /// Where the content of a sparse file begins: behind the blocks that go on with the map of its holes.
    fn behind_sparse_map(&mut self, header: &Header, mut offset: u64) -> io::Result<Option<u64>> {
        let mut goes_on = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while goes_on {
            let Some(block) = self.window.block(offset)? else { return Ok(None) };
            goes_on = block[504] == 1;
            offset += BLOCK as u64;
        }
        Ok(Some(offset))
    }
}

fn is_pax(kind: EntryType) -> bool {
    kind.is_pax_local_extensions() || kind.is_pax_global_extensions()
}

/// The sum of all bytes, those of the sum itself counted as blanks. Some old writers summed signed bytes.
fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let counted = || (0..).zip(block).map(|(place, byte)| if (148..156).contains(&place) { b' ' } else { *byte });
    let Ok(stored) = Header::from_byte_slice(block).cksum() else { return false };
    let unsigned: u32 = counted().map(u32::from).sum();
    let signed: i32 = counted().map(|byte| i32::from(byte.cast_signed())).sum();
    stored == unsigned || i64::from(stored) == i64::from(signed)
}

/// Groups files by key, in order of first appearance.
#[derive(Default)]
pub(super) struct Groups {
    samples: Vec<SampleEntry>,
    by_key: HashMap<String, usize>,
    files: usize,
    links: u32,
    sparse: u32,
}

impl Groups {
    pub(super) fn add(&mut self, path: &str, offset: u64, bytes: u64) {
        let Some((key, extension)) = split_key(path) else { return };
        self.files += 1;
        let file = FileEntry { extension, offset, bytes };
        let last = self.samples.len().checked_sub(1).filter(|last| self.samples[*last].key == key);
        let known = last.or_else(|| self.by_key.get(key).copied());
        match known.map(|place| &mut self.samples[place]) {
            // A second file of the same name begins another sample, as where two tars were joined.
            Some(sample) if sample.file(&[&file.extension]).is_none() => sample.files.push(file),
            _ => {
                self.by_key.insert(key.to_owned(), self.samples.len());
                self.samples.push(SampleEntry { key: key.to_owned(), files: vec![file] });
            }
        }
    }

    pub(super) fn finish(mut self, damage: Option<Damage>) -> Scan {
        self.samples.retain(SampleEntry::is_sample);
        Scan { samples: self.samples, damage, links: self.links, sparse: self.sparse }
    }
}

/// Whether a file of this name makes a sample.
pub(super) fn is_sample_file(name: &str) -> bool {
    split_key(name).is_some_and(|(_, extension)| SAMPLE_EXTENSIONS.contains(&extension.as_str()))
}

/// Splits a path into key and lowercase extension; nothing for files that belong to no sample: hidden ones (macOS writes `._`
/// companions and `.DS_Store`), WebDataset's own `__…__`, what tar programs that know no pax headers make of them, and names
/// without an extension.
fn split_key(path: &str) -> Option<(&str, String)> {
    let path = path.trim_start_matches("./");
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    let name = &path[name_start..];
    if name.starts_with('.') || (name.starts_with("__") && name.ends_with("__")) {
        return None;
    }
    let is_foreign = |folder: &str| folder.starts_with("PaxHeader") || folder == "__MACOSX";
    if path[..name_start].split('/').any(is_foreign) {
        return None;
    }
    let dot = name.find('.')?;
    let extension = name[dot + 1..].to_ascii_lowercase();
    (!extension.is_empty()).then(|| (&path[..name_start + dot], extension))
}

#[cfg(test)]
mod tests {

    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn scan(tar: &[u8]) -> Scan {
        scan_bytes(tar).unwrap()
    }

    fn keys(scan: &Scan) -> Vec<&str> {
        scan.samples.iter().map(|sample| sample.key.as_str()).collect()
    }

    #[test]
    fn files_are_grouped_by_key_and_found_at_their_offset() {
        let long = format!("{}/0002", "folder".repeat(30));
        let tar = tar_of(&[
            ("0001.jpg", b"image"),
            ("0001.txt", b"text"),
            (&format!("{long}.seg.PNG"), b"long"),
            (&format!("{long}.txt"), b"names"),
            ("sub.dir/0001.txt", b"other"),
            ("._0001.jpg", b"macos"),
            ("README", b"no extension"),
            ("notes.md", b"no sample"),
        ]);
        let scan = scan(&tar);
        assert!(scan.damage.is_none());
        assert_eq!(keys(&scan), ["0001", &long, "sub.dir/0001"]);
        assert_eq!(scan.samples[1].files[0].extension, "seg.png");
        let content =
            |file: &FileEntry| &tar[usize::try_from(file.offset).unwrap()..][..usize::try_from(file.bytes).unwrap()];
        assert_eq!(content(&scan.samples[0].files[1]), b"text");
        assert_eq!(content(&scan.samples[1].files[1]), b"names");
    }

    #[test]
    fn a_tar_cut_anywhere_keeps_the_samples_before_the_cut() {
        let names: Vec<(String, String)> = (0..5).map(|i| (format!("{i}.jpg"), format!("{i}.txt"))).collect();
        let files: Vec<(&str, &[u8])> = names
            .iter()
            .flat_map(|(jpg, txt)| [(jpg.as_str(), &[7u8; 700][..]), (txt.as_str(), &b"caption"[..])])
            .collect();
        let tar = tar_of(&files);
        let whole = scan(&tar);
        assert_eq!(whole.samples.len(), 5);
        for length in (0..tar.len() - 1024).step_by(97) {
            let cut = scan(&tar[..length]);
            let complete = cut.samples.iter().filter(|sample| sample.files.len() == 2);
            assert!(complete.zip(&whole.samples).all(|(left, right)| left == right));
            // The last sample fills 2,560 bytes: image header, image, text header, text.
            assert!(cut.samples.iter().filter(|sample| sample.files.len() == 2).count() >= length / 2560);
        }
    }

    #[test]
    fn garbage_in_the_middle_is_named_with_its_place() {
        let mut tar = tar_of(&[("0.jpg", &[1; 600]), ("0.txt", b"a"), ("1.jpg", &[1; 600]), ("1.txt", b"b")]);
        let second = 512 + 1024 + 512 + 512;
        tar[second..second + 512].fill(0xAA);
        let scan = scan(&tar);
        assert_eq!(keys(&scan), ["0"]);
        assert!(matches!(scan.damage, Some(Damage::Header { .. })), "{:?}", scan.damage);
    }

    #[test]
    fn what_is_no_tar_has_no_samples() {
        assert!(scan(b"").samples.is_empty());
        let garbage = scan(&[0x55; 4096]);
        assert!(garbage.samples.is_empty() && garbage.damage.is_some());
    }
}
