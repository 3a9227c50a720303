//! Digests of local shards that were hashed before, so that a group that forms again does not hash them again.
//!
//! Kept in the cache folder, a line for a file, so that restarts and other processes know them too.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::file::FileState;

/// A file that was written so recently may be written again without its times telling.
const SETTLED: Duration = Duration::from_secs(1);
/// A list that has grown beyond this is begun anew.
const LONGEST: u64 = 64 << 20;

/// The digests that are known.
#[derive(Debug)]
pub(super) struct Verified {
    list: PathBuf,
    known: Mutex<HashMap<FileState, String>>,
}

impl Verified {
    /// What is known in a folder. A list that can't be read is as an empty one.
    pub(super) fn open(folder: &Path) -> Self {
        let list = folder.join("digests.list");
        if fs::metadata(&list).is_ok_and(|metadata| metadata.len() > LONGEST) {
            let _ = fs::remove_file(&list);
        }
        let text = fs::read(&list).unwrap_or_default();
        let known = String::from_utf8_lossy(&text).lines().filter_map(parse).collect();
        Self { list, known: Mutex::new(known) }
    }

    /// The SHA-256 of a file in this state.
    pub(super) fn digest(&self, state: &FileState) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(state).cloned()
    }

    /// Notes the digest of a file, if its state tells later changes.
    pub(super) fn remember(&self, state: &FileState, digest: &str) -> io::Result<()> {
        if !state.is_older_than(SETTLED, SystemTime::now()) {
            return Ok(());
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(*state, digest.to_owned());
        // One small write at the end: lines of several processes don't mix.
        let line = format!("{state} {digest}\n");
        File::options().append(true).create(true).open(&self.list)?.write_all(line.as_bytes())
    }
}

/// A line; nothing for one that was cut off by a crash.
fn parse(line: &str) -> Option<(FileState, String)> {
    let (state, digest) = line.rsplit_once(' ')?;
    let whole = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((state.parse().ok()?, whole.then(|| digest.to_owned())?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn state(path: &Path) -> FileState {
        FileState::of(&File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_digest_is_known_after_a_restart_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let shard = folder.path().join("shard.tar");
        let digest = "ab".repeat(32);
        let verified = Verified::open(folder.path());
        // Again where the machine held this up until the file had settled.
        for tries in 1.. {
            let begun = Instant::now();
            fs::write(&shard, "one").unwrap();
            verified.remember(&state(&shard), &digest).unwrap();
            match verified.digest(&state(&shard)) {
                None => break,
                Some(_) => assert!(begun.elapsed() > SETTLED * 9 / 10 && tries < 10, "it was written just now"),
            }
        }
        std::thread::sleep(SETTLED + Duration::from_millis(100));
        verified.remember(&state(&shard), &digest).unwrap();
        assert_eq!(verified.digest(&state(&shard)), Some(digest.clone()));

        let mut list = File::options().append(true).open(folder.path().join("digests.list")).unwrap();
        list.write_all(b"1 2 3").unwrap();
        let again = Verified::open(folder.path());
        assert_eq!(again.digest(&state(&shard)), Some(digest));
        fs::write(&shard, "two").unwrap();
        assert_eq!(again.digest(&state(&shard)), None);
    }
}
