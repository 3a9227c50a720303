//! The clock of the log's rows: it goes on where the one of whoever wrote the newest row was.
//!
//! SlateDB takes no row, table or compaction that seems older than one that is there. By its machine's clock alone a coordinator would have
//! to wait until it is as late as it was at the one before, and would end where that takes longer than some seconds.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cappa_shared::storage::{Location, StorageError};
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use slatedb::WalReader;
use slatedb::admin::Admin;
use slatedb::compactor::Compaction;
use slatedb::config::GarbageCollectorOptions;
use slatedb_common::clock::{SystemClock, SystemClockTicker};
use tokio::time::Instant;

use super::{LogError, path};

/// A clock that is not behind the newest row, and runs on from there.
#[derive(Debug)]
pub(super) struct RowClock {
    begun: Instant,
    at: DateTime<Utc>,
    lead: Duration,
}

impl RowClock {
    /// The machine's, or one that is as far as the log is. Of a row that is written meanwhile, before the log is opened, this knows nothing:
    /// SlateDB waits for twice as long as that is ahead.
    pub(super) async fn going_on(store: &Location) -> Result<Self, LogError> {
        let newest = newest(store).await?;
        let lead = newest.and_then(|newest| (newest - Utc::now()).to_std().ok()).unwrap_or_default();
        if !lead.is_zero() {
            let seconds = lead.as_secs_f64();
            tracing::warn!(
                seconds,
                "the event log's newest row is ahead of this machine's clock: see that all clocks are right"
            );
        }
        Ok(Self::ahead(lead))
    }

    /// One that is so far ahead of the machine's.
    fn ahead(lead: Duration) -> Self {
        Self { begun: Instant::now(), at: Utc::now() + lead, lead }
    }

    /// The usual patience with what nothing needs any more: its age is this clock's time less that of the store.
    pub(super) fn garbage_collection(&self) -> GarbageCollectorOptions {
        let mut options = GarbageCollectorOptions::default();
        let kinds = [&mut options.wal_options, &mut options.manifest_options, &mut options.compactions_options];
        kinds.into_iter().flatten().for_each(|kind| kind.min_age += self.lead);
        options
    }
}

impl SystemClock for RowClock {
    fn now(&self) -> DateTime<Utc> {
        self.at + self.begun.elapsed()
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

/// When the newest row, table or compaction was made, by the clock of whoever made it.
async fn newest(store: &Location) -> Result<Option<DateTime<Utc>>, LogError> {
    let admin = Admin::builder(path(store), Arc::clone(&store.store)).build();
    let Some(manifest) = admin.read_manifest(None).await? else { return Ok(None) };
    let wal = newest_in_wal(store, manifest.replay_after_wal_id()).await?;
    let compactions = admin.read_compactions(None).await?;
    let tables = manifest.all_sst_views().flat_map(|table| [table.id, table.sst.id.value()]);
    let compactions = compactions.iter().flat_map(|all| all.recent_compactions().map(Compaction::id));
    let ids = tables.chain(manifest.last_compacted_l0_sst_view_id()).chain(compactions);
    let made = ids.map(|id| i64::try_from(id.timestamp_ms()).expect("48 bits"));
    let newest = made.chain(wal).chain([manifest.last_l0_clock_tick()]).max();
    // Without a table the tick is the beginning of time, which is no date.
    Ok(newest.and_then(DateTime::from_timestamp_millis))
}

/// The time of the newest row in the files of the write-ahead log after this one.
async fn newest_in_wal(store: &Location, after: u64) -> Result<Option<i64>, LogError> {
    let folder = path(store).join("wal");
    let after = folder.clone().join(format!("{after:020}.sst"));
    let files = store.store.list_with_offset(Some(&folder), &after).try_collect::<Vec<_>>().await;
    let files = files.map_err(|error| LogError::Store(StorageError::at(folder.as_ref(), &error)))?;
    let mut ids: Vec<u64> =
        files.iter().filter_map(|file| file.location.filename()?.strip_suffix(".sst")?.parse().ok()).collect();
    ids.sort_unstable();
    let wal = WalReader::new(path(store), Arc::clone(&store.store));
    // Whoever opens the log begins with an empty file.
    for id in ids.into_iter().rev() {
        let (mut rows, mut newest) = (wal.get(id).iterator().await?, None);
        while let Some(row) = rows.next().await? {
            newest = newest.max(row.create_ts);
        }
        if newest.is_some() {
            return Ok(newest);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use cappa_core::{Change, JobId, Record, Time};
    use slatedb::Db;
    use slatedb::config::{CloseOptions, FlushOptions, FlushType};

    use super::super::{EventLog, format};
    use super::*;

    const AHEAD: Duration = Duration::from_secs(600);

    /// A log whose writer's clock was far ahead, and whose newest row is in its write-ahead log or in a table.
    async fn write_ahead(store: &Location, flush_type: FlushType) {
        let clock = Arc::new(RowClock::ahead(AHEAD));
        let db = Db::builder(path(store), Arc::clone(&store.store)).with_system_clock(clock).build().await.unwrap();
        db.put(format::entry_key(0), format::header()).await.unwrap();
        db.flush_with_options(FlushOptions { flush_type }).await.unwrap();
        db.close_with_options(CloseOptions::default().with_flush_type(None)).await.unwrap();
    }

    async fn lead(store: &Location) -> f64 {
        (newest(store).await.unwrap().unwrap() - Utc::now()).as_seconds_f64()
    }

    #[tokio::test]
    async fn a_coordinator_whose_clock_is_behind_goes_on_at_once() {
        for (flush_type, is_in_table) in [(FlushType::Wal, false), (FlushType::MemTable, true)] {
            let folder = tempfile::tempdir().unwrap();
            let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
            write_ahead(&store, flush_type).await;
            let admin = Admin::builder(path(&store), Arc::clone(&store.store)).build();
            let manifest = admin.read_manifest(None).await.unwrap().unwrap();
            assert_eq!(!manifest.l0().is_empty(), is_in_table);
            assert!((590.0..=600.0).contains(&lead(&store).await), "{}", lead(&store).await);
            let begun = Instant::now();
            // Each finds what the one before has written.
            for at in 0..3 {
                let (mut log, _) = EventLog::open(&store).await.unwrap();
                let change = Change::PauseRequested { reason: "test".into() };
                log.append(vec![Record { at: Time(at), job: Some(JobId::from("demo-1")), change }]).await.unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            assert!((590.0..610.0).contains(&lead(&store).await), "{}", lead(&store).await);
        }
    }
}
