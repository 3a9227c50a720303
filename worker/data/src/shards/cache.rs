//! The bounded folder that downloaded shards are kept in, shared by the processes of a host.
//!
//! ```text
//! <key>.tar               a whole shard, unpacked; who reads it holds a shared lock, so it is not evicted
//! <key>.<bytes>.part      an unfinished one; who downloads holds an exclusive lock, others wait for it
//! <key>.<bytes>.unpacked  what is being unpacked, by who holds that lock; <bytes> is room for both
//! .lock                   held while room is made, so that two processes don't give the same room away
//! ```
//!
//! Files are whole under their final name, because they get it by renaming. Locks belong to open files: when a process dies,
//! however it dies, the kernel lets go of them; the next one continues the unfinished download where it ended.

use std::cmp::Reverse;
use std::fs::{self, File, TryLockError};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::stats::PipelineStats;

/// Unfinished downloads that nobody has touched for so long won't be continued.
const ABANDONED: Duration = Duration::from_secs(3600);
const WHOLE: &str = "tar";
const UNFINISHED: &str = "part";
const UNPACKED: &str = "unpacked";

/// When a shard of the cache is wanted next, as far as this process knows. In the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NextUse {
    /// Never again, of those that this process had.
    Never,
    /// Another process may know; the longest unused goes first.
    Unknown,
    /// At a step; the farthest goes first (Belady, "A study of replacement algorithms", 1966).
    Step(Reverse<u64>),
    /// Now: it stays even where the bound is exceeded.
    Leased,
}

/// Sizes of a shard in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// While it is made: what is downloaded, and what that is unpacked to where it is packed.
    pub(super) making: u64,
    /// As it is kept, unpacked.
    pub(super) kept: u64,
}

/// The folder and how much it may hold.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    max_bytes: u64,
    stats: Arc<PipelineStats>,
}

/// What came of asking for a shard.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is there.
    Ready(File),
    /// It is to be downloaded, by the one who asked.
    Ours(Partial),
    /// Another process, or another thread, is downloading it.
    Busy,
}

/// An unfinished download. Left in place when dropped: the next attempt continues it.
#[derive(Debug)]
pub(super) struct Partial {
    /// What is there of it already; open for reading and writing, exclusively locked.
    pub(super) file: File,
    path: PathBuf,
    whole: PathBuf,
}

impl Partial {
    /// The download is complete and checked: gives it its final name.
    pub(super) fn keep(self) -> io::Result<File> {
        self.file.sync_data()?;
        fs::rename(&self.path, &self.whole)?;
        // From now on it is read. Should an evictor come between the two calls, what is open stays readable.
        self.file.unlock()?;
        self.file.lock_shared()?;
        Ok(self.file)
    }

    /// The shard is what `unpack` writes, and gets its final name once that is as large as it must be. It takes what was downloaded
    /// from the first byte on.
    pub(super) fn keep_unpacked(
        &mut self,
        bytes: u64,
        unpack: impl FnOnce(&File, &mut File) -> io::Result<u64>,
    ) -> io::Result<File> {
        self.file.rewind()?;
        let path = self.path.with_extension(UNPACKED);
        let mut unpacked = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        let written = unpack(&self.file, &mut unpacked).and_then(|written| {
            let message =
                || format!("it unpacks to {written} bytes where the manifest records {bytes}; index it again");
            if written == bytes { Ok(()) } else { Err(io::Error::other(message())) }
        });
        if let Err(error) = written {
            remove(&path)?;
            return Err(error);
        }
        unpacked.sync_data()?;
        // Before anybody can find it.
        unpacked.lock_shared()?;
        fs::rename(&path, &self.whole)?;
        remove(&self.path)?;
        Ok(unpacked)
    }

    /// The download can't become the shard.
    pub(super) fn discard(self) -> io::Result<File> {
        remove(&self.path)?;
        Ok(self.file)
    }
}

struct CachedFile {
    path: PathBuf,
    key: String,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// Opens (and makes) the folder, and sweeps what dead processes left unfinished long ago.
    pub(super) fn open(folder: &Path, max_bytes: u64, stats: Arc<PipelineStats>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let cache = Self { folder: folder.to_owned(), max_bytes, stats };
        for file in cache.files(UNFINISHED)?.into_iter().chain(cache.files(UNPACKED)?) {
            if file.used.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove_unlocked(&file.path)?;
            }
        }
        Ok(cache)
    }

    /// A shard that is kept, locked against eviction and marked as used now; nothing when it is not there or not of that size.
    pub(super) fn find(&self, key: &str, bytes: u64) -> io::Result<Option<File>> {
        let path = self.whole(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != bytes {
            remove_unlocked(&path)?;
            return Ok(None);
        }
        // Locked exclusively, or without a name: somebody is evicting it.
        if !locked(file.try_lock_shared())? || file.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        // Where the time of use can't be set, the shard is merely evicted earlier.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(file))
    }

    /// The shard, or the task to download it. `next_use` tells what may go for it.
    pub(super) fn claim(&self, key: &str, sizes: Sizes, next_use: &dyn Fn(&str) -> NextUse) -> io::Result<Claim> {
        if let Some(file) = self.find(key, sizes.kept)? {
            self.stats.cache_hits.add(1);
            return Ok(Claim::Ready(file));
        }
        let _guard = self.lock_folder()?;
        let path = self.folder.join(format!("{key}.{}.{UNFINISHED}", sizes.making));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        if !locked(file.try_lock())? {
            return Ok(Claim::Busy);
        }
        // Its download may have been finished, and renamed, since it was looked for.
        if let Some(file) = self.find(key, sizes.kept)? {
            remove(&path)?;
            return Ok(Claim::Ready(file));
        }
        if file.metadata()?.nlink() == 0 {
            return Ok(Claim::Busy);
        }
        self.make_room(&path, next_use)?;
        self.stats.cache_misses.add(1);
        Ok(Claim::Ours(Partial { file, path, whole: self.whole(key) }))
    }

    /// Removes shards until what is promised to downloads, that at `ours` among them, fits beside what is kept.
    fn make_room(&self, ours: &Path, next_use: &dyn Fn(&str) -> NextUse) -> io::Result<()> {
        let mut unfinished = self.files(UNFINISHED)?;
        let mut whole = self.files(WHOLE)?;
        let mut held: u64 = unfinished.iter().chain(&whole).map(|file| file.bytes).sum();
        if held <= self.max_bytes {
            self.stats.set_cache_bytes(held);
            return Ok(());
        }
        unfinished.retain(|file| file.path != ours && next_use(&file.key) != NextUse::Leased);
        whole.sort_by_cached_key(|file| (next_use(&file.key), file.used));
        whole.retain(|file| next_use(&file.key) != NextUse::Leased);
        for file in unfinished.into_iter().chain(whole) {
            if held <= self.max_bytes {
                break;
            }
            if remove_unlocked(&file.path)? {
                // What a process left that died while it unpacked.
                remove(&file.path.with_extension(UNPACKED))?;
                held -= file.bytes;
                self.stats.cache_evictions.add(1);
            }
        }
        self.stats.set_cache_bytes(held);
        Ok(())
    }

    fn lock_folder(&self) -> io::Result<File> {
        let file = File::options().write(true).create(true).truncate(false).open(self.folder.join(".lock"))?;
        file.lock()?;
        Ok(file)
    }

    fn whole(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.{WHOLE}"))
    }

    /// The files of a kind; an unfinished one counts with the size that it will have.
    fn files(&self, extension: &str) -> io::Result<Vec<CachedFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some((stem, _)) = name.rsplit_once('.').filter(|(_, found)| *found == extension) else { continue };
            // Another process may remove files at any time.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let (key, promised) = match stem.split_once('.') {
                Some((key, promised)) => (key, promised.parse().unwrap_or_default()),
                None => (stem, 0),
            };
            let (key, bytes) = (key.to_owned(), metadata.len().max(promised));
            files.push(CachedFile { key, bytes, used: metadata.modified()?, path });
        }
        Ok(files)
    }
}

fn locked(outcome: Result<(), TryLockError>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes a file that nobody has locked; whether it did.
fn remove_unlocked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !locked(file.try_lock())? {
        return Ok(false);
    }
    remove(path)?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const SIZES: Sizes = Sizes { making: 100, kept: 100 };

    fn open(folder: &Path, max_bytes: u64) -> Cache {
        Cache::open(folder, max_bytes, Arc::default()).unwrap()
    }

    fn claim(cache: &Cache, key: &str) -> Claim {
        cache.claim(key, SIZES, &|_| NextUse::Unknown).unwrap()
    }

    /// Puts a shard of 100 bytes in place, used at a second.
    fn put(cache: &Cache, key: &str, used: u64) {
        let Claim::Ours(mut partial) = claim(cache, key) else { panic!("{key} is there") };
        partial.file.write_all(&[0; 100]).unwrap();
        let file = partial.keep().unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(used)).unwrap();
    }

    fn keys(cache: &Cache) -> Vec<String> {
        let mut keys: Vec<String> = cache.files(WHOLE).unwrap().into_iter().map(|file| file.key).collect();
        keys.sort();
        keys
    }

    #[test]
    fn what_is_needed_last_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 500);
        for (age, key) in ["soon", "late", "done", "old", "new"].into_iter().enumerate() {
            put(&cache, key, age as u64);
        }
        let next_use = |key: &str| match key {
            "soon" => NextUse::Step(Reverse(3)),
            "late" => NextUse::Step(Reverse(90)),
            "done" => NextUse::Never,
            "added" => NextUse::Leased,
            _ => NextUse::Unknown,
        };
        let mut gone = Vec::new();
        for n in 0..5 {
            let before = keys(&cache);
            let Claim::Ours(partial) = cache.claim(&format!("added{n}"), SIZES, &next_use).unwrap() else { panic!() };
            // The promise stays, as of a download under way.
            std::mem::forget(partial);
            gone.extend(before.into_iter().filter(|key| !keys(&cache).contains(key)));
        }
        assert_eq!(gone, ["done", "old", "new", "late", "soon"]);
    }

    #[test]
    fn what_is_leased_or_read_by_any_process_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 200);
        put(&cache, "a", 1);
        put(&cache, "b", 2);
        let read = cache.find("a", 100).unwrap().expect("it is there");
        read.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let leased_b = |key: &str| if key == "b" { NextUse::Leased } else { NextUse::Unknown };
        drop(cache.claim("c", SIZES, &leased_b).unwrap());
        assert_eq!(keys(&cache), ["a", "b"], "one is read, the other leased: the bound is exceeded");
        drop(read);
        drop(cache.claim("d", SIZES, &leased_b).unwrap());
        assert_eq!(keys(&cache), ["b"]);
    }

    #[test]
    fn one_downloads_and_the_others_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        // Two openings of a folder are as two processes: locks belong to open files.
        let (one, other) = (open(folder.path(), 500), open(folder.path(), 500));
        let Claim::Ours(mut partial) = claim(&one, "a") else { panic!("nobody else wants it") };
        assert!(matches!(claim(&other, "a"), Claim::Busy));
        partial.file.write_all(&[7; 100]).unwrap();
        let held = partial.keep().unwrap();
        assert!(matches!(claim(&other, "a"), Claim::Ready(_)));
        drop(held);
        assert!(matches!(claim(&other, "a"), Claim::Ready(_)));
    }

    #[test]
    fn a_download_whose_process_died_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 500);
        let Claim::Ours(mut partial) = claim(&cache, "a") else { panic!("nobody else wants it") };
        partial.file.write_all(&[7; 60]).unwrap();
        drop(partial);
        let Claim::Ours(partial) = claim(&open(folder.path(), 500), "a") else { panic!("it is not locked") };
        assert_eq!(partial.file.metadata().unwrap().len(), 60);
    }

    #[test]
    fn a_process_that_dies_while_it_unpacks_leaves_nothing_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 500);
        let sizes = Sizes { making: 130, kept: 100 };
        let claim = |key: &str| match cache.claim(key, sizes, &|_| NextUse::Unknown).unwrap() {
            Claim::Ours(partial) => partial,
            other => panic!("{other:?}"),
        };
        let mut partial = claim("a");
        partial.file.write_all(&[7; 30]).unwrap();
        // Killed here: the download and half of what it unpacks to stay.
        fs::write(partial.path.with_extension(UNPACKED), [1; 50]).unwrap();
        drop(partial);
        let error = claim("a").keep_unpacked(100, |_, _| Ok(99)).unwrap_err().to_string();
        assert!(error.contains("99 bytes where the manifest records 100"), "{error}");
        let kept = claim("a").keep_unpacked(100, |mut packed, unpacked| {
            assert_eq!(packed.read(&mut [0; 100])?, 30);
            unpacked.write_all(&[8; 100]).map(|()| 100)
        });
        assert_eq!(kept.unwrap().metadata().unwrap().len(), 100);
        let names = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
        names.sort();
        assert_eq!(names, ["a.tar"]);
    }

    #[test]
    fn a_shard_of_another_size_is_not_used_and_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 500);
        put(&cache, "a", 1);
        assert!(cache.find("a", 99).unwrap().is_none());
        assert!(keys(&cache).is_empty());
    }

    #[test]
    fn unfinished_downloads_that_nobody_continues_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("x.100.part");
        fs::write(&old, b"half").unwrap();
        File::options().write(true).open(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let new = folder.path().join("y.100.part");
        fs::write(&new, b"half").unwrap();
        let cache = open(folder.path(), 150);
        assert!(!old.exists() && new.exists());
        let _room = claim(&cache, "z");
        assert!(!new.exists(), "a later one goes when its room is needed");
    }
}
