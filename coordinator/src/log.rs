//! The event log: one entry a record in SlateDB, appended durably, fenced against a second writer.

use std::sync::Arc;

use cappa_core::Record;
use cappa_shared::storage::Location;
use serde::{Deserialize, Serialize};
use slatedb::config::Settings;
use slatedb::{CloseReason, Db, DbStatus, ErrorKind, WriteBatch};
use thiserror::Error;
use tokio::sync::watch;

/// The version of the entries that this program writes.
const VERSION: u32 = 1;

/// Where the entries lie in the key space; other keys may follow.
const PREFIX: &str = "log/";

/// The log of one store, open for appending.
pub(crate) struct EventLog {
    db: Db,
    status: watch::Receiver<DbStatus>,
    next: u64,
}

/// A record with its number in the log, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Its number.
    pub(crate) sequence: u64,
    /// The record.
    pub(crate) record: Record,
}

/// Why the log can't be read or written. Every one of them ends the process.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another coordinator has taken over.
    #[error("another coordinator has taken over this store; this one ends")]
    Fenced,
    /// The store failed.
    #[error("the event log can't be reached; check the store and start again")]
    Storage(#[source] slatedb::Error),
    /// The log has closed by itself.
    #[error("the event log has closed by itself ({0:?}); check the store and start again")]
    Closed(CloseReason),
    /// An entry is of a version that this program does not know.
    #[error(
        "entry {sequence} of the event log has version {version}, this program knows {VERSION}; use the newer program that wrote it"
    )]
    Version {
        /// The entry.
        sequence: u64,
        /// Its version.
        version: u32,
    },
    /// An entry is no JSON of the expected form.
    #[error("entry {sequence} of the event log is damaged; restore the store's backup")]
    Damaged {
        /// The entry.
        sequence: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl From<slatedb::Error> for LogError {
    fn from(error: slatedb::Error) -> Self {
        match error.kind() {
            ErrorKind::Closed(CloseReason::Fenced) => Self::Fenced,
            _ => Self::Storage(error),
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    event: &'a Record,
}

#[derive(Deserialize)]
struct EnvelopeVersion {
    version: u32,
}

#[derive(Deserialize)]
struct OwnedEnvelope {
    event: Record,
}

impl EventLog {
    /// Takes over the log below `store` and reads it. From here on, the next write of any process
    /// that had it open before fails with [`LogError::Fenced`].
    ///
    /// # Errors
    /// Every [`LogError`].
    pub(crate) async fn open(store: &Location) -> Result<(Self, Vec<Entry>), LogError> {
        let path = store.prefix.clone().join("coordinator");
        // Every append is flushed by hand, so that it takes one write's time and no timer's.
        let settings = Settings { flush_interval: None, ..Settings::default() };
        let db = Db::builder(path, Arc::clone(&store.store)).with_settings(settings).build().await?;
        let mut entries = Vec::new();
        let mut found = db.scan_prefix(PREFIX.as_bytes(), ..).await?;
        while let Some(row) = found.next().await? {
            entries.push(decode(&row.key, &row.value)?);
        }
        let next = entries.last().map_or(1, |last: &Entry| last.sequence + 1);
        let status = db.subscribe();
        Ok((Self { db, status, next }, entries))
    }

    /// Waits until the log takes no appends any more, and says why: SlateDB looks every second whether another
    /// process has opened it, so a coordinator that has nothing to append hears of its successor as well.
    pub(crate) async fn closed(&mut self) -> LogError {
        let ended = self.status.wait_for(|status| status.close_reason.is_some()).await;
        match ended.ok().and_then(|status| status.close_reason) {
            Some(CloseReason::Fenced) => LogError::Fenced,
            Some(reason) => LogError::Closed(reason),
            None => LogError::Closed(CloseReason::Clean),
        }
    }

    /// Appends records, all or none, and returns them numbered once they are durable.
    ///
    /// # Errors
    /// [`LogError::Fenced`] or [`LogError::Storage`]; whether the records are in the log is then unknown.
    pub(crate) async fn append(&mut self, records: Vec<Record>) -> Result<Vec<Entry>, LogError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = WriteBatch::new();
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let sequence = self.next;
            self.next += 1;
            let value = serde_json::to_vec(&Envelope { version: VERSION, event: &record })
                .expect("records hold nothing that JSON can't");
            batch.put(format!("{PREFIX}{sequence:020}"), value);
            entries.push(Entry { sequence, record });
        }
        self.db.write(batch).await?;
        self.db.flush().await?;
        Ok(entries)
    }

    /// Gives the log back.
    ///
    /// # Errors
    /// [`LogError::Fenced`] or [`LogError::Storage`]; nothing that was appended is lost.
    pub(crate) async fn close(self) -> Result<(), LogError> {
        Ok(self.db.close().await?)
    }
}

fn decode(key: &[u8], value: &[u8]) -> Result<Entry, LogError> {
    let digits = key.get(PREFIX.len()..).unwrap_or_default();
    let sequence = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let damaged = |source| LogError::Damaged { sequence, source };
    let EnvelopeVersion { version } = serde_json::from_slice(value).map_err(damaged)?;
    if version != VERSION {
        return Err(LogError::Version { sequence, version });
    }
    let OwnedEnvelope { event } = serde_json::from_slice(value).map_err(damaged)?;
    Ok(Entry { sequence, record: event })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_core::{Change, JobId, Time};

    fn record(at: u64) -> Record {
        let change = Change::PauseRequested { reason: "test".into() };
        Record { at: Time(at), job: JobId::from("demo-1"), change }
    }

    async fn store(folder: &tempfile::TempDir) -> Location {
        cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_was_appended_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut log, entries) = EventLog::open(&store).await.unwrap();
        assert!(entries.is_empty());
        log.append(vec![record(1), record(2)]).await.unwrap();
        log.append(vec![record(3)]).await.unwrap();
        drop(log);
        let (_log, entries) = EventLog::open(&store).await.unwrap();
        let found: Vec<_> = entries.iter().map(|entry| (entry.sequence, entry.record.at.0)).collect();
        assert_eq!(found, [(1, 1), (2, 2), (3, 3)]);
    }

    #[tokio::test]
    async fn a_second_writer_fences_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut first, _) = EventLog::open(&store).await.unwrap();
        first.append(vec![record(1)]).await.unwrap();
        let (mut second, entries) = EventLog::open(&store).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert!(matches!(first.append(vec![record(2)]).await, Err(LogError::Fenced)));
        second.append(vec![record(3)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_fenced_writer_hears_of_it_without_appending() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut first, _) = EventLog::open(&store).await.unwrap();
        let (_second, _) = EventLog::open(&store).await.unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(10), first.closed()).await;
        assert!(matches!(told, Ok(LogError::Fenced)), "{told:?}");
    }

    #[tokio::test]
    async fn an_entry_of_a_newer_version_is_refused_with_its_number() {
        let newer = br#"{"version":2,"event":{}}"#;
        let error = decode(b"log/00000000000000000007", newer).unwrap_err();
        assert!(matches!(error, LogError::Version { sequence: 7, version: 2 }), "{error}");
    }
}
