//! Backups of the log as a file that people can keep: one line a key, and a digest of all of them.
//!
//! A backup is taken from a log in use without disturbing who writes it. It does not hold the jobs' folders: checkpoints, curves
//! and manifests stay in the store, and the restored log names them where they were. It learns of the checkpoints that were
//! committed there since.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use cappa_core::Change;
use cappa_shared::checkpoint::CheckpointError;
use cappa_shared::storage::Location;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use slatedb::{Db, DbReader, WriteBatch};
use thiserror::Error;

use super::unknown::unknown_to;
use super::{LogError, RESTORING, format, in_order, open, path, read as recall};

/// Keys that are written to a log at once.
const PIECE: usize = 1_000;

/// Why a backup can't be made or restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The file can't be used.
    #[error("the file of the backup can't be used")]
    File(#[from] std::io::Error),
    /// It is no backup, or not whole.
    #[error("line {line} of the backup is not as it was written; use another copy")]
    Damaged {
        /// Which line.
        line: usize,
    },
    /// The file holds a log in use.
    #[error(
        "the store holds an event log already; restore into another store, or move its folder `coordinator` away first"
    )]
    NotEmpty,
    /// A job's folder does not answer.
    #[error(
        "the folder of a job can't be looked at for what was committed since the backup; check its store, move the folder \
         `coordinator` away from the one that is restored into, and restore again"
    )]
    Folder(#[from] CheckpointError),
    /// There is nothing to back up.
    #[error("the store holds no event log; check its URL")]
    NoLog,
}

impl From<slatedb::Error> for BackupError {
    fn from(error: slatedb::Error) -> Self {
        Self::Log(error.into())
    }
}

/// One line of a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first: the log's format, and the version of the program that made the backup.
    Backup { format: u32, version: String },
    /// A key with its value, both text.
    Key(String, String),
    /// The last: keys, and the SHA-256 of all lines before.
    End { keys: usize, sha256: String },
}

/// Writes the log below `store` to a file, which appears whole or not at all; returns how many keys it has.
///
/// # Errors
/// Every [`BackupError`] but [`BackupError::NotEmpty`].
pub(crate) async fn back_up(store: &Location, to: &Path) -> Result<usize, BackupError> {
    format::check_beside(store).await?;
    if store.list("coordinator/manifest").await.map_err(LogError::Store)?.is_empty() {
        return Err(BackupError::NoLog);
    }
    let reader = DbReader::builder(path(store), Arc::clone(&store.store)).build().await?;
    let draft = to.with_extension("part");
    let mut file = Lines::create(&draft)?;
    file.add(&Line::Backup { format: format::FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() })?;
    let (mut keys, mut found) = (0, reader.scan_with_options::<std::ops::RangeFull>(.., &in_order()).await?);
    while let Some(row) = found.next().await? {
        keys += 1;
        let text =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| BackupError::Damaged { line: keys + 1 });
        file.add(&Line::Key(text(&row.key)?, text(&row.value)?))?;
    }
    reader.close().await?;
    file.end(keys)?;
    std::fs::rename(&draft, to)?;
    Ok(keys)
}

/// What a restore has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Keys of the backup.
    pub(crate) keys: usize,
    /// Checkpoints that were committed since.
    pub(crate) checkpoints: usize,
}

/// Writes a backup into a store that has no log yet, and then what the jobs' folders hold that it does not know.
///
/// # Errors
/// Every [`BackupError`] but [`BackupError::NoLog`]. A store in which this fails on the way is refused until it is empty again.
pub(crate) async fn restore(store: &Location, from: &Path) -> Result<Restored, BackupError> {
    let keys = read(from)?;
    if !store.list("coordinator/manifest").await.map_err(LogError::Store)?.is_empty() {
        return Err(BackupError::NotEmpty);
    }
    let db = open(store).await?;
    db.put(RESTORING, "").await?;
    for piece in keys.chunks(PIECE) {
        let mut batch = WriteBatch::new();
        piece.iter().for_each(|(key, value)| batch.put(key, value));
        db.write(batch).await?;
        db.flush().await?;
    }
    let checkpoints = learn(&db).await?;
    db.delete(RESTORING).await?;
    db.flush().await?;
    db.close().await?;
    format::note_beside(store).await?;
    Ok(Restored { keys: keys.len(), checkpoints })
}

/// Adds to a log what its jobs' folders hold that it does not know; returns how many checkpoints.
async fn learn(db: &Db) -> Result<usize, BackupError> {
    let recalled = recall(db, 0).await?;
    let next = recalled.last() + 1;
    let records = unknown_to(recalled).await?;
    if records.is_empty() {
        return Ok(0);
    }
    let mut batch = WriteBatch::new();
    batch.put(format::entry_key(0), format::header());
    for (sequence, record) in (next..).zip(&records) {
        batch.put(format::entry_key(sequence), format::encode(record));
    }
    db.write(batch).await?;
    db.flush().await?;
    Ok(records.iter().filter(|record| matches!(record.change, Change::CheckpointCommitted { .. })).count())
}

/// The keys of a backup, once all of it is found to be whole.
fn read(from: &Path) -> Result<Vec<(String, String)>, BackupError> {
    let file = BufReader::new(std::fs::File::open(from)?);
    let (mut keys, mut digest, mut lines) = (Vec::new(), Sha256::new(), 0);
    for (line, text) in (1..).zip(file.lines()) {
        let text = text?;
        lines = line;
        match serde_json::from_str(&text).map_err(|_| BackupError::Damaged { line })? {
            Line::Backup { format, version } if line == 1 => {
                if format > format::FORMAT {
                    return Err(LogError::Format { found: format, written_by: version }.into());
                }
            }
            Line::Key(key, value) if line > 1 => keys.push((key, value)),
            Line::End { keys: count, sha256 } if count == keys.len() && sha256 == hex(digest.clone()) => {
                return Ok(keys);
            }
            _ => return Err(BackupError::Damaged { line }),
        }
        digest.update(text.as_bytes());
        digest.update(b"\n");
    }
    Err(BackupError::Damaged { line: lines + 1 })
}

/// A file of lines, and the digest of those so far.
struct Lines {
    file: BufWriter<std::fs::File>,
    digest: Sha256,
}

impl Lines {
    fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: BufWriter::new(std::fs::File::create(path)?), digest: Sha256::new() })
    }

    fn add(&mut self, line: &Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.digest.update(&text);
        self.file.write_all(&text)
    }

    fn end(mut self, keys: usize) -> std::io::Result<()> {
        let sha256 = hex(self.digest.clone());
        self.add(&Line::End { keys, sha256 })?;
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
}

fn hex(digest: Sha256) -> String {
    hex::encode(digest.finalize())
}
