//! The bounded folder that downloaded shards are kept in.
//!
//! A shard is kept under its digest, so processes of one host share the folder, and a restart finds what is there. Files
//! appear by rename only: a file under its final name is whole.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Unfinished downloads older than this belong to a process that died.
const ABANDONED: Duration = Duration::from_secs(6 * 3600);

/// Ending of unfinished downloads.
const UNFINISHED: &str = "part";

/// The folder and how much it may hold.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    max_bytes: u64,
    /// Bytes of this process's unfinished downloads.
    reserved: Mutex<u64>,
}

/// Room in the cache for a download, given back when dropped.
pub(super) struct Reservation<'a> {
    cache: &'a Cache,
    bytes: u64,
}

impl Cache {
    /// Opens (and makes) the folder, and sweeps what dead processes left unfinished.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let cache = Self { folder: folder.to_owned(), max_bytes, reserved: Mutex::new(0) };
        for file in cache.files(UNFINISHED)? {
            if file.used.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove(&file.path)?;
            }
        }
        Ok(cache)
    }

    /// A shard that is kept, marked as used now; nothing when it is not there or not of that size.
    pub(super) fn find(&self, sha256: &str, bytes: u64) -> Option<File> {
        let file = File::open(self.path(sha256)).ok()?;
        // Where the time of use can't be set, the shard is merely evicted earlier.
        let _ = file.set_modified(SystemTime::now());
        (file.metadata().ok()?.len() == bytes).then_some(file)
    }

    /// Where to write a download before [`Cache::keep`].
    pub(super) fn unfinished(&self, sha256: &str) -> PathBuf {
        let unique = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
        self.folder.join(format!("{sha256}.{}-{unique}.{UNFINISHED}", std::process::id()))
    }

    /// Gives a finished and checked download its final name.
    pub(super) fn keep(&self, unfinished: &Path, sha256: &str) -> io::Result<()> {
        fs::rename(unfinished, self.path(sha256))
    }

    /// Removes the longest unused shards until `bytes` more fit. Shards in `leased` stay even where the bound is exceeded:
    /// the plan needs them now.
    pub(super) fn make_room(&self, bytes: u64, leased: &HashSet<String>) -> io::Result<Reservation<'_>> {
        let mut reserved = self.reserved();
        let mut files = self.files("tar")?;
        files.sort_by_key(|file| file.used);
        let mut held = files.iter().map(|file| file.bytes).sum::<u64>() + *reserved;
        for file in files {
            if held.saturating_add(bytes) <= self.max_bytes {
                break;
            }
            let in_use = file.path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| leased.contains(stem));
            if !in_use {
                remove(&file.path)?;
                held -= file.bytes;
            }
        }
        *reserved += bytes;
        Ok(Reservation { cache: self, bytes })
    }

    fn reserved(&self) -> MutexGuard<'_, u64> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.tar"))
    }

    fn files(&self, extension: &str) -> io::Result<Vec<CachedFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|found| found != extension) {
                continue;
            }
            // Another process may remove files at any time.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            files.push(CachedFile { path, bytes: metadata.len(), used: metadata.modified()? });
        }
        Ok(files)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *self.cache.reserved() -= self.bytes;
    }
}

struct CachedFile {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &Cache, sha256: &str, bytes: usize) {
        let unfinished = cache.unfinished(sha256);
        fs::write(&unfinished, vec![0; bytes]).unwrap();
        cache.keep(&unfinished, sha256).unwrap();
    }

    fn use_at(cache: &Cache, sha256: &str, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(cache.path(sha256)).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_longest_unused_shard_goes_first_and_a_leased_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 300).unwrap();
        for (age, sha256) in ["a", "b", "c"].into_iter().enumerate() {
            put(&cache, sha256, 100);
            use_at(&cache, sha256, 1000 + age as u64);
        }
        let _room = cache.make_room(100, &HashSet::from(["a".to_owned()])).unwrap();
        assert!(cache.find("a", 100).is_some(), "leased");
        assert!(cache.find("b", 100).is_none(), "the longest unused that is not leased");
        assert!(cache.find("c", 100).is_some(), "there was room enough");
    }

    #[test]
    fn a_shard_of_another_size_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 300).unwrap();
        put(&cache, "a", 100);
        assert!(cache.find("a", 99).is_none());
    }

    #[test]
    fn unfinished_downloads_of_dead_processes_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("x.1-1.part");
        fs::write(&old, b"half").unwrap();
        File::options().write(true).open(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let new = folder.path().join("y.1-1.part");
        fs::write(&new, b"half").unwrap();
        Cache::open(folder.path(), 300).unwrap();
        assert!(!old.exists() && new.exists());
    }
}
