//! The event log: one entry a record in SlateDB, appended durably, fenced against a second writer, and condensed into
//! snapshots, so that a start reads the jobs as they are and not everything that ever happened.

mod backup;
mod clock;
mod format;
mod snapshot;
mod tail;
mod threads;
mod unknown;

use std::sync::Arc;

use cappa_core::{Common, Record, Time};
use cappa_shared::storage::{Location, StorageError};
use slatedb::config::{ScanOptions, Settings};
use slatedb::{CloseReason, Db, DbReadOps, DbStatus, ErrorKind, WriteBatch};
use thiserror::Error;
use tokio::sync::watch;

pub use backup::BackupError;
pub(crate) use backup::{Restored, back_up, restore};
use clock::RowClock;
pub(crate) use format::FORMAT;
pub(crate) use snapshot::{SavedJob, Snapshot};
pub(crate) use tail::{News, Tail};
use threads::Threads;

/// Set while a backup is being restored.
const RESTORING: &str = "restoring";

/// What a request for rows brings at least, and how many such requests are under way at once.
const READ_AHEAD: usize = 4 << 20;
const READS_AT_ONCE: usize = 4;

/// The log of one store, open for appending.
pub(crate) struct EventLog {
    db: Db,
    status: watch::Receiver<DbStatus>,
    next: u64,
    /// The newest entry that the snapshot covers.
    covered: u64,
    /// The newest entry that is deleted, as are all before it.
    cleared: u64,
    /// Where the log's own tasks run, until it is closed.
    _threads: Threads,
}

/// What a log tells on opening: the snapshot, and the entries since.
#[derive(Debug, Default)]
pub(crate) struct Recalled {
    /// When the newest entry of the snapshot was written.
    pub(crate) at: Time,
    /// The newest entry that the snapshot covers; zero without one.
    pub(crate) through: u64,
    /// The newest entry that whoever opened the log knew: the snapshot is left out. Zero where it is not.
    pub(crate) known: u64,
    /// What of the snapshot's state is no single job's.
    pub(crate) common: Common,
    /// The snapshot's jobs.
    pub(crate) jobs: Vec<SavedJob>,
    /// The entries since.
    pub(crate) entries: Vec<Entry>,
}

impl Recalled {
    /// The newest entry of all; zero without any.
    pub(crate) fn last(&self) -> u64 {
        self.entries.last().map_or(self.through, |last| last.sequence)
    }

    /// When that was written.
    pub(crate) fn newest(&self) -> Time {
        self.entries.last().map_or(self.at, |last| last.record.at)
    }
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
    /// The system gives the log no thread of its own.
    #[error("the event log gets no thread; raise the system's limit of processes and start again")]
    Thread(#[source] std::io::Error),
    /// The folder of the store that holds the log can't be looked at.
    #[error("the store of the event log can't be used; check it and start again")]
    Store(#[source] StorageError),
    /// A newer program has written to the log.
    #[error(
        "the event log has format {found}, written by {written_by}; this program, {}, knows formats up to {}: run the newer \
         program, or restore a backup from before the upgrade into another store",
        env!("CARGO_PKG_VERSION"),
        format::FORMAT
    )]
    Format {
        /// Its format.
        found: u32,
        /// The version of the program that wrote it.
        written_by: String,
    },
    /// A backup was not restored to its end.
    #[error(
        "a backup is being restored into this store, or was not restored to its end; restore it into an empty store"
    )]
    Restoring,
    /// A row of the snapshot is no JSON of the expected form.
    #[error("the row {key} of the event log's snapshot is damaged; restore a backup")]
    DamagedRow {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// An entry is no JSON of the expected form.
    #[error("entry {sequence} of the event log is damaged; restore a backup")]
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

impl EventLog {
    /// The same as [`EventLog::open_knowing`] for one that knows nothing.
    #[cfg(test)]
    pub(crate) async fn open(store: &Location) -> Result<(Self, Recalled), LogError> {
        Self::open_knowing(store, 0).await
    }

    /// Takes over the log below `store` and reads what whoever knows all entries up to `known` does not know. From here on, the next write of any process
    /// that had it open before fails with [`LogError::Fenced`].
    ///
    /// # Errors
    /// Every [`LogError`]. A log of a newer program is left as it is, and who has it open is not disturbed.
    pub(crate) async fn open_knowing(store: &Location, known: u64) -> Result<(Self, Recalled), LogError> {
        format::check_beside(store).await?;
        let threads = Threads::start().map_err(LogError::Thread)?;
        let wanted = store.clone();
        let db = threads.run(async move { open(&wanted).await }).await?;
        let recalled = match prepare(&db).await {
            Ok(()) => read(&db, known).await,
            Err(error) => Err(error),
        };
        let recalled = match recalled {
            Ok(recalled) => recalled,
            Err(error) => {
                // What is wrong with the log matters, not what closing it meets besides.
                let _ = db.close().await;
                return Err(error);
            }
        };
        format::note_beside(store).await?;
        let newest = recalled.last();
        // What an interrupted clearing up has left comes first.
        let covered = format::entry_key(1)..=format::entry_key(recalled.through.max(1));
        let mut oldest = db.scan_with_options(covered, &in_order()).await?;
        let oldest = oldest.next().await?.map(|row| format::decode(&row.key, &row.value)).transpose()?;
        let cleared = oldest.map_or(recalled.through, |oldest| (oldest.sequence - 1).min(recalled.through));
        let status = db.subscribe();
        let log = Self { db, status, next: newest + 1, covered: recalled.through, cleared, _threads: threads };
        Ok((log, recalled))
    }

    /// Makes a snapshot the log's own, in a task beside the appends: what it covers is never read again.
    pub(crate) fn condense(&self, snapshot: Snapshot) -> impl Future<Output = Result<(), LogError>> + use<> {
        let (db, before, cleared) = (self.db.clone(), self.covered, self.cleared);
        async move { snapshot::write(&db, snapshot, before, cleared).await }
    }

    /// A snapshot up to this entry is written.
    pub(crate) fn condensed(&mut self, through: u64) {
        (self.covered, self.cleared) = (through, through);
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
            batch.put(format::entry_key(sequence), format::encode(&record));
            entries.push(Entry { sequence, record });
        }
        self.db.write(batch).await?;
        self.db.flush().await?;
        Ok(entries)
    }

    /// Has all that was appended read from tables at the next start, as in a log that has become long, not from what was written last.
    #[cfg(test)]
    pub(crate) async fn to_tables(&self) {
        let options = slatedb::config::FlushOptions { flush_type: slatedb::config::FlushType::MemTable };
        self.db.flush_with_options(options).await.unwrap();
    }

    /// Gives the log back.
    ///
    /// # Errors
    /// [`LogError::Fenced`] or [`LogError::Storage`]; nothing that was appended is lost.
    pub(crate) async fn close(self) -> Result<(), LogError> {
        Ok(self.db.close().await?)
    }
}

async fn open(store: &Location) -> Result<Db, LogError> {
    let clock = Arc::new(RowClock::going_on(store).await?);
    let garbage_collector_options = Some(clock.garbage_collection());
    // Every append is flushed by hand, so that it takes one write's time and no timer's.
    let settings = Settings { flush_interval: None, garbage_collector_options, ..Settings::default() };
    let builder = Db::builder(path(store), Arc::clone(&store.store));
    Ok(builder.with_settings(settings).with_system_clock(clock).build().await?)
}

/// How many rows are read, one after the other: thousands by a request, for in a cloud each takes tens of milliseconds.
fn in_order() -> ScanOptions {
    ScanOptions::new().with_read_ahead_bytes(READ_AHEAD).with_max_fetch_tasks(READS_AT_ONCE)
}

fn path(store: &Location) -> object_store::path::Path {
    store.prefix.clone().join("coordinator")
}

/// Checks the format, and brings an older one to this program's.
async fn prepare(db: &Db) -> Result<(), LogError> {
    if db.get(RESTORING).await?.is_some() {
        return Err(LogError::Restoring);
    }
    let found = match db.get(format::entry_key(0)).await? {
        Some(header) => Some(format::check_header(&header)?),
        None => db.scan_prefix(format::ENTRIES.as_bytes(), ..).await?.next().await?.map(|_| 1),
    };
    if found == Some(format::FORMAT) {
        return Ok(());
    }
    db.put(format::entry_key(0), format::header()).await?;
    db.flush().await?;
    if let Some(from) = found {
        tracing::info!(from, to = format::FORMAT, "event log migrated; older programs can't read it any more");
    }
    Ok(())
}

/// The newest entry that a snapshot covers; zero without one.
async fn through(db: &(impl DbReadOps + Sync)) -> Result<u64, LogError> {
    let Some(value) = db.get(format::COMMON).await? else { return Ok(0) };
    let common: snapshot::CommonRow = snapshot::row(format::COMMON.as_bytes(), &value)?;
    Ok(common.through)
}

/// All that there is, without the snapshot if what it tells is known.
async fn read(db: &(impl DbReadOps + Sync), known: u64) -> Result<Recalled, LogError> {
    let mut recalled = Recalled::default();
    if let Some(value) = db.get(format::COMMON).await? {
        let common: snapshot::CommonRow = snapshot::row(format::COMMON.as_bytes(), &value)?;
        (recalled.through, recalled.at, recalled.common) = (common.through, common.at, common.common);
    }
    if known > 0 && known >= recalled.through {
        recalled.known = known;
    } else {
        recalled.jobs = jobs(db, recalled.through).await?;
    }
    let since = format::entry_key(recalled.through + 1)..format::entry_key(u64::MAX);
    let mut entries = db.scan_with_options(since, &in_order()).await?;
    while let Some(found) = entries.next().await? {
        recalled.entries.push(format::decode(&found.key, &found.value)?);
    }
    Ok(recalled)
}

/// The jobs of the snapshot that covers `through`.
async fn jobs(db: &(impl DbReadOps + Sync), through: u64) -> Result<Vec<SavedJob>, LogError> {
    let mut rows = db.scan_prefix_with_options(format::JOBS.as_bytes(), .., &in_order()).await?;
    let mut jobs = Vec::new();
    while let Some(found) = rows.next().await? {
        let row: snapshot::JobRow = snapshot::row(&found.key, &found.value)?;
        // Rows of a first snapshot that was not written to its end.
        if row.through <= through {
            jobs.push(row.saved);
        }
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_core::{Change, JobId, Time};

    fn record(at: u64) -> Record {
        let change = Change::PauseRequested { reason: "test".into() };
        Record { at: Time(at), job: Some(JobId::from("demo-1")), change }
    }

    async fn store(folder: &tempfile::TempDir) -> Location {
        cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_was_appended_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut log, recalled) = EventLog::open(&store).await.unwrap();
        assert!(recalled.entries.is_empty());
        log.append(vec![record(1), record(2)]).await.unwrap();
        log.append(vec![record(3)]).await.unwrap();
        drop(log);
        let (_log, recalled) = EventLog::open(&store).await.unwrap();
        let found: Vec<_> = recalled.entries.iter().map(|entry| (entry.sequence, entry.record.at.0)).collect();
        assert_eq!(found, [(1, 1), (2, 2), (3, 3)]);
    }

    #[tokio::test]
    async fn a_second_writer_fences_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut first, _) = EventLog::open(&store).await.unwrap();
        first.append(vec![record(1)]).await.unwrap();
        let (mut second, recalled) = EventLog::open(&store).await.unwrap();
        assert_eq!(recalled.entries.len(), 1);
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
    async fn a_log_of_a_newer_program_is_refused_without_disturbing_who_has_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut newer, _) = EventLog::open(&store).await.unwrap();
        store.put("coordinator/format/9.json", r#"{"version": 9, "written_by": "7.1.0"}"#).await.unwrap();
        let error = EventLog::open(&store).await.err().unwrap();
        let told = error.to_string();
        assert!(told.contains("format 9, written by 7.1.0") && told.contains("restore a backup"), "{told}");
        newer.append(vec![record(1)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_log_of_format_1_is_read_and_refused_by_programs_of_its_time_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let db = super::open(&store).await.unwrap();
        let old = |at| {
            let record = serde_json::to_value(record(at)).unwrap();
            serde_json::json!({"version": 1, "event": record}).to_string()
        };
        for at in 1..=3 {
            db.put(format::entry_key(at), old(at)).await.unwrap();
        }
        db.close().await.unwrap();
        let (log, recalled) = EventLog::open(&store).await.unwrap();
        assert_eq!(recalled.entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        // They read the keys of the prefix in their order, and look at `version` first.
        let first = log.db.scan_prefix(b"log/", ..).await.unwrap().next().await.unwrap().unwrap();
        let header: serde_json::Value = serde_json::from_slice(&first.value).unwrap();
        assert_eq!(
            (&first.key[..], &header["version"]),
            (&b"log/00000000000000000000"[..], &serde_json::json!(FORMAT))
        );
    }

    #[tokio::test]
    async fn what_a_snapshot_covers_is_deleted_and_the_log_goes_on_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (mut log, _) = EventLog::open(&store).await.unwrap();
        log.append((1..=5).map(record).collect()).await.unwrap();
        let snapshot = Snapshot { through: 4, at: Time(4), common: Common::default(), jobs: Vec::new() };
        log.condense(snapshot).await.unwrap();
        log.condensed(4);
        log.append(vec![record(6)]).await.unwrap();
        let (log, recalled) = EventLog::open(&store).await.unwrap();
        let entries: Vec<_> = recalled.entries.iter().map(|entry| entry.sequence).collect();
        assert_eq!((recalled.through, recalled.at, entries), (4, Time(4), vec![5, 6]));
        assert!(log.db.get(format::entry_key(4)).await.unwrap().is_none());
        assert_eq!((log.next, log.cleared), (7, 4));
    }

    #[tokio::test]
    async fn a_backup_of_a_log_in_use_is_restored_elsewhere_and_a_damaged_one_nowhere() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(&folder).await, store(&other).await);
        let (mut log, _) = EventLog::open(&from).await.unwrap();
        log.append((1..=3).map(record).collect()).await.unwrap();
        let file = folder.path().join("backup.jsonl");
        assert_eq!(back_up(&from, &file).await.unwrap(), 4);
        log.append(vec![record(4)]).await.expect("the backup has disturbed nobody");
        assert!(matches!(restore(&from, &file).await, Err(BackupError::NotEmpty)));

        let whole = std::fs::read_to_string(&file).unwrap();
        for damaged in
            [whole.replacen("demo-1", "demo-2", 1), whole.lines().take(3).map(|l| format!("{l}\n")).collect()]
        {
            std::fs::write(other.path().join("damaged"), damaged).unwrap();
            let refused = restore(&to, &other.path().join("damaged")).await;
            assert!(matches!(refused, Err(BackupError::Damaged { .. })), "{refused:?}");
        }
        assert_eq!(restore(&to, &file).await.unwrap(), Restored { keys: 4, checkpoints: 0 });
        let (_log, recalled) = EventLog::open(&to).await.unwrap();
        assert_eq!(recalled.entries.iter().map(|entry| entry.record.at.0).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_store_in_which_a_restore_was_interrupted_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let db = super::open(&store).await.unwrap();
        db.put(RESTORING, "").await.unwrap();
        db.close().await.unwrap();
        assert!(matches!(EventLog::open(&store).await, Err(LogError::Restoring)));
    }
}
