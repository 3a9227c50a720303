//! How the log lies in the store, and which programs may read it.
//!
//! | key | value |
//! |---|---|
//! | `log/0` (20 digits) | the format, in the place where older programs look first and refuse what they don't know |
//! | `log/<sequence>` | an entry: one record, in the order of the sequence |
//! | `state/common` | a snapshot: up to which entry, and what of the state is no single job's |
//! | `state/job/<id>` | a snapshot's row of one job |
//! | `restoring` | a backup is being restored here |
//!
//! Format 1 had entries only, and no entry 0; in formats 1 and 2 every record was some job's. Opening such a log with this program
//! makes it format 3; its entries and rows are read as they are.
//! Beside the log `format/<number>.json` says the same, so that a program which is too old refuses before it fences another.

use cappa_core::Record;
use cappa_shared::storage::{Location, StorageError};
use serde::{Deserialize, Serialize};

use super::{Entry, LogError};

/// The format that this program writes. It reads this one and all before it.
pub(crate) const FORMAT: u32 = 3;

/// Where the entries lie in the key space.
pub(super) const ENTRIES: &str = "log/";

/// Where snapshots have their rows of jobs.
pub(super) const JOBS: &str = "state/job/";

/// What a snapshot has besides.
pub(super) const COMMON: &str = "state/common";

/// Where the formats that a store has had are written down.
const FORMATS: &str = "coordinator/format";

/// The key of an entry.
pub(super) fn entry_key(sequence: u64) -> String {
    format!("{ENTRIES}{sequence:020}")
}

#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    event: &'a Record,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct OwnedEnvelope {
    event: Record,
}

/// What entry 0 and the file beside the log say.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    written_by: String,
}

impl Header {
    fn ours() -> Vec<u8> {
        let header = Self { version: FORMAT, written_by: env!("CARGO_PKG_VERSION").to_owned() };
        serde_json::to_vec(&header).expect("a header is JSON")
    }

    fn check(&self) -> Result<u32, LogError> {
        if self.version > FORMAT {
            return Err(LogError::Format { found: self.version, written_by: self.written_by.clone() });
        }
        Ok(self.version)
    }
}

/// The value of entry 0.
pub(super) fn header() -> Vec<u8> {
    Header::ours()
}

/// The format that entry 0 names; refuses that of a newer program.
pub(super) fn check_header(value: &[u8]) -> Result<u32, LogError> {
    let header: Header = serde_json::from_slice(value).map_err(|source| LogError::Damaged { sequence: 0, source })?;
    header.check()
}

/// Refuses a store that a newer program has written to, without touching its log.
pub(super) async fn check_beside(store: &Location) -> Result<(), LogError> {
    let files = store.list(FORMATS).await.map_err(LogError::Store)?;
    let number = |path: &str| path.strip_suffix(".json")?.parse::<u32>().ok();
    let Some(newest) = files.iter().filter_map(|file| number(&file.path)).max() else { return Ok(()) };
    let written = store.get(&format!("{FORMATS}/{newest}.json")).await.map_err(LogError::Store)?;
    let header = serde_json::from_slice::<Header>(&written);
    let written_by = header.map_or_else(|_| "an unknown version".to_owned(), |header| header.written_by);
    Header { version: newest, written_by }.check().map(|_| ())
}

/// Writes this program's format down beside the log.
pub(super) async fn note_beside(store: &Location) -> Result<(), LogError> {
    match store.put_if_absent(&format!("{FORMATS}/{FORMAT}.json"), Header::ours()).await {
        Ok(()) | Err(StorageError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(LogError::Store(error)),
    }
}

/// An entry as it is written.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let envelope = Envelope { version: FORMAT, event: record };
    serde_json::to_vec(&envelope).expect("records hold nothing that JSON can't")
}

/// An entry as any program up to this one has written it.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Entry, LogError> {
    let digits = key.get(ENTRIES.len()..).unwrap_or_default();
    let sequence = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let damaged = |source| LogError::Damaged { sequence, source };
    let Version { version } = serde_json::from_slice(value).map_err(damaged)?;
    if version > FORMAT {
        return Err(LogError::Format { found: version, written_by: "an unknown version".to_owned() });
    }
    let OwnedEnvelope { event } = serde_json::from_slice(value).map_err(damaged)?;
    Ok(Entry { sequence, record: event })
}
