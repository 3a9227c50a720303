//! Snapshots: what the log's entries up to one come to, so that they need not be kept nor read again.
//!
//! A snapshot has a row for each job; the next one writes only the jobs that have changed since, in one atomic batch. The first
//! one of a store may be large and is written in pieces: rows count only once `common` says that all are there.

use cappa_core::{Common, Job, Time};
use serde::{Deserialize, Serialize};
use slatedb::{Db, WriteBatch};

use super::{LogError, format};
use crate::history::JobHistory;

/// Rows or keys of one batch, where a snapshot is written or cleared up in pieces.
const PIECE: usize = 2_000;

/// A job as a snapshot has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedJob {
    /// The job.
    pub(crate) job: Job,
    /// What happened to it, for people.
    pub(crate) history: JobHistory,
}

/// What changed since the snapshot before, as of an entry.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The newest entry that it covers.
    pub(crate) through: u64,
    /// When that was.
    pub(crate) at: Time,
    /// What of the state is no single job's.
    pub(crate) common: Common,
    /// The jobs that have changed.
    pub(crate) jobs: Vec<SavedJob>,
}

/// The row `state/common`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CommonRow {
    pub(super) through: u64,
    pub(super) at: Time,
    pub(super) common: Common,
}

/// A row `state/job/<id>`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobRow {
    pub(super) through: u64,
    pub(super) saved: SavedJob,
}

/// Writes a snapshot over one that covers `before`, and deletes the entries after `cleared` that it covers.
pub(super) async fn write(db: &Db, snapshot: Snapshot, before: u64, cleared: u64) -> Result<(), LogError> {
    let Snapshot { through, at, common, jobs } = snapshot;
    let mut batch = WriteBatch::new();
    for (place, saved) in jobs.into_iter().enumerate() {
        // Where there is no snapshot yet, no row counts before `common` is written.
        if before == 0 && place > 0 && place % PIECE == 0 {
            db.write(std::mem::replace(&mut batch, WriteBatch::new())).await?;
            db.flush().await?;
        }
        let key = format!("{}{}", format::JOBS, saved.job.id);
        batch.put(key, json(&JobRow { through, saved }));
    }
    batch.put(format::COMMON, json(&CommonRow { through, at, common }));
    db.write(batch).await?;
    db.flush().await?;
    let mut covered = (cleared + 1..=through).peekable();
    while covered.peek().is_some() {
        let mut batch = WriteBatch::new();
        covered.by_ref().take(PIECE).for_each(|sequence| batch.delete(format::entry_key(sequence)));
        db.write(batch).await?;
    }
    // Deletions need not be durable: what is left of covered entries is never read.
    Ok(())
}

fn json(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows hold nothing that JSON can't")
}

pub(super) fn row<'a, T: Deserialize<'a>>(key: &[u8], value: &'a [u8]) -> Result<T, LogError> {
    serde_json::from_slice(value)
        .map_err(|source| LogError::DamagedRow { key: String::from_utf8_lossy(key).into_owned(), source })
}
