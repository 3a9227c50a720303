//! Where the samples of a tar file lie.
//!
//! A sample is the files that share a key, as WebDataset defines it: the path up to the first dot of its last part is the
//! key, what follows is the extension. GNU long names and pax headers are understood.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Extensions of the files that make a sample; a group with none of them is not a sample.
const SAMPLE_EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "txt", "json"];

/// What a scan of a tar file found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The samples in order of their first file.
    pub samples: Vec<SampleEntry>,
    /// What ended the scan early; the samples before it are usable.
    pub damage: Option<Damage>,
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
        /// What the tar reader said.
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
    scan_reader(BufReader::with_capacity(4096, file), length)
}

fn scan_reader(mut reader: impl Read + Seek, length: u64) -> io::Result<Scan> {
    reader.seek(SeekFrom::Start(0))?;
    let mut groups = Groups::default();
    let mut damage = None;
    let mut end = 0;
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries_with_seek()? {
        let entry = match entry {
            Ok(entry) => entry,
            // The disk failed, not the tar.
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(error) => {
                damage = Some(Damage::Header { offset: end, message: error.to_string() });
                break;
            }
        };
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        end = match offset.checked_add(bytes) {
            Some(end) if end <= length => end,
            _ => {
                damage = Some(Damage::Truncated { offset });
                break;
            }
        };
        if entry.header().entry_type().is_file() {
            groups.add(&String::from_utf8_lossy(&entry.path_bytes()), offset, bytes);
        }
    }
    Ok(Scan { samples: groups.finish(), damage })
}

/// Groups files by key, in order of first appearance.
#[derive(Default)]
struct Groups {
    samples: Vec<SampleEntry>,
    by_key: HashMap<String, usize>,
}

impl Groups {
    fn add(&mut self, path: &str, offset: u64, bytes: u64) {
        let Some((key, extension)) = split_key(path) else { return };
        let file = FileEntry { extension, offset, bytes };
        let known = self.by_key.get(key).copied();
        match known.map(|place| &mut self.samples[place]) {
            // A second file of the same name begins another sample, as where two tars were joined.
            Some(sample) if sample.file(&[&file.extension]).is_none() => sample.files.push(file),
            _ => {
                self.by_key.insert(key.to_owned(), self.samples.len());
                self.samples.push(SampleEntry { key: key.to_owned(), files: vec![file] });
            }
        }
    }

    fn finish(mut self) -> Vec<SampleEntry> {
        self.samples.retain(SampleEntry::is_sample);
        self.samples
    }
}

/// Splits a path into key and lowercase extension; nothing for files that belong to no sample: hidden ones (macOS writes `._`
/// companions), WebDataset's own `__…__` and names without an extension.
fn split_key(path: &str) -> Option<(&str, String)> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    let name = &path[name_start..];
    if name.starts_with('.') || (name.starts_with("__") && name.ends_with("__")) {
        return None;
    }
    let dot = name.find('.')?;
    let extension = name[dot + 1..].to_ascii_lowercase();
    (!extension.is_empty()).then(|| (&path[..name_start + dot], extension))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

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
        scan_reader(Cursor::new(tar), tar.len() as u64).unwrap()
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
