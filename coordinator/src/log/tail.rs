//! The log as one who doesn't write it reads it: all that there is, and then what is added. Nothing is written to the store,
//! so that whoever appends is not disturbed.

use std::sync::Arc;
use std::time::Duration;

use cappa_shared::storage::Location;
use slatedb::config::DbReaderOptions;
use slatedb::{DbReader, DbReaderMode};
use tokio::sync::mpsc;

use super::{Entry, LogError, Recalled, format, in_order, path, read, through};

/// How often new entries are looked for.
const PERIOD: Duration = Duration::from_millis(250);

/// What was added.
#[derive(Debug)]
pub(crate) enum News {
    /// The log as a whole: at first, and when what was not read yet has been condensed.
    Anew(Recalled),
    /// Entries that follow on those read before.
    Entries(Vec<Entry>),
}

/// The reading end of a log.
pub(crate) struct Tail {
    store: Location,
    reader: Option<DbReader>,
    /// The entry that comes next; none before the log was read as a whole.
    next: Option<u64>,
}

impl Tail {
    /// Of the log below `store`, which may not be there yet.
    pub(crate) fn of(store: &Location) -> Self {
        Self { store: store.clone(), reader: None, next: None }
    }

    /// Sends what there is to tell until nobody listens. What a store refuses is asked for again; what this program can't
    /// read is the last that it sends.
    pub(crate) async fn read_on(mut self, to: mpsc::Sender<Result<News, LogError>>) {
        loop {
            match self.news().await {
                Ok(Some(news)) => {
                    if to.send(Ok(news)).await.is_err() {
                        break;
                    }
                }
                Ok(None) => {}
                Err(error @ (LogError::Storage(_) | LogError::Closed(_) | LogError::Store(_) | LogError::Fenced)) => {
                    // Nothing is there before somebody has led; and what is read may be cleared up meanwhile.
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "the event log can't be read; tried again"
                    );
                    self.close().await;
                }
                Err(error) => {
                    let _ = to.send(Err(error)).await;
                    break;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = to.closed() => break,
            }
        }
        self.close().await;
    }

    async fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            // It only reads: there is nothing to lose.
            let _ = reader.close().await;
        }
    }

    async fn news(&mut self) -> Result<Option<News>, LogError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(open(&self.store).await?),
        };
        if let Some(next) = self.next {
            let mut rows =
                reader.scan_with_options(format::entry_key(next)..format::entry_key(u64::MAX), &in_order()).await?;
            let mut entries = Vec::new();
            while let Some(found) = rows.next().await? {
                entries.push(format::decode(&found.key, &found.value)?);
            }
            if follow_on(next, &entries) {
                if let Some(last) = entries.last() {
                    self.next = Some(last.sequence + 1);
                    return Ok(Some(News::Entries(entries)));
                }
                if through(reader).await? < next {
                    return Ok(None);
                }
            }
        }
        // The snapshot may be replaced while it is read: then it is read again, at the next time.
        let before = through(reader).await?;
        let recalled = read(reader, 0).await?;
        if recalled.through != before || through(reader).await? != before || !follow_on(before + 1, &recalled.entries) {
            return Ok(None);
        }
        self.next = Some(recalled.last() + 1);
        Ok(Some(News::Anew(recalled)))
    }
}

fn follow_on(next: u64, entries: &[Entry]) -> bool {
    (next..).zip(entries).all(|(sequence, entry)| entry.sequence == sequence)
}

async fn open(store: &Location) -> Result<DbReader, LogError> {
    let options = DbReaderOptions { manifest_poll_interval: PERIOD, ..DbReaderOptions::default() };
    let reader = DbReader::builder(path(store), Arc::clone(&store.store))
        .with_reader_mode(DbReaderMode::FollowLatest)
        .with_options(options);
    Ok(reader.build().await?)
}
