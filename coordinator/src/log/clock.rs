//! The clock of the log's rows: it goes on where the one of whoever wrote the newest row was.
//!
//! SlateDB takes no row, table or compaction that seems older than one that is there. By its machine's clock alone a coordinator would have
//! to wait until it is as late as it was at the one before, and would end where that takes longer than some seconds.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use slatedb::WalReader;
use slatedb::admin::Admin;
use slatedb_common::clock::{SystemClock, SystemClockTicker};
use tokio::time::Instant;

use super::{LogError, path};
use cappa_shared::storage::Location;

/// A clock that is not behind the newest row, and runs on from there.
#[derive(Debug)]
pub(super) struct RowClock {
    begun: Instant,
    at: DateTime<Utc>,
}

impl RowClock {
    /// The machine's, or one that is as far as the log is.
    pub(super) async fn going_on(store: &Location) -> Result<Self, LogError> {
        let (now, newest) = (Utc::now(), newest(store).await?);
        if let Some(newest) = newest.filter(|newest| *newest > now) {
            let seconds = (newest - now).as_seconds_f64();
            tracing::warn!(
                seconds,
                "this machine's clock is behind that of the coordinator before; look after the clocks"
            );
        }
        Ok(Self::at(newest.map_or(now, |newest| newest.max(now))))
    }

    fn at(at: DateTime<Utc>) -> Self {
        Self { begun: Instant::now(), at }
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
    let mut newest = manifest.last_l0_clock_tick().max(newest_in_wal(store, manifest.replay_after_wal_id()).await?);
    let tables = manifest.all_sst_views().flat_map(|table| [table.id, table.sst.id.value()]);
    let compactions = admin.read_compactions(None).await?;
    let compactions = compactions.iter().flat_map(|all| all.recent_compactions().map(|one| one.id()));
    for id in tables.chain(manifest.last_compacted_l0_sst_view_id()).chain(compactions) {
        newest = newest.max(i64::try_from(id.timestamp_ms()).unwrap_or(i64::MAX));
    }
    Ok(DateTime::from_timestamp_millis(newest))
}

/// The time of the newest row that is in no table yet, or the beginning of time.
async fn newest_in_wal(store: &Location, after: u64) -> Result<i64, LogError> {
    let files = WalReader::new(path(store), Arc::clone(&store.store)).list(after + 1..).await?;
    // Whoever opens the log begins with an empty file.
    for file in files.iter().rev() {
        let (mut rows, mut newest) = (file.iterator().await?, None);
        while let Some(row) = rows.next().await? {
            newest = newest.max(row.create_ts);
        }
        if let Some(newest) = newest {
            return Ok(newest);
        }
    }
    Ok(i64::MIN)
}

#[cfg(test)]
mod tests {
    use slatedb::Db;
    use slatedb::config::{FlushOptions, FlushType};

    use super::super::{EventLog, format};
    use super::*;
    use cappa_core::{Change, JobId, Record, Time};

    /// A log whose writer's clock was so far ahead.
    async fn write_ahead(store: &Location, ahead: Duration, flush_type: FlushType) {
        let clock = Arc::new(RowClock::at(Utc::now() + ahead));
        let db = Db::builder(path(store), Arc::clone(&store.store)).with_system_clock(clock).build().await.unwrap();
        db.put(format::entry_key(0), format::header()).await.unwrap();
        db.flush_with_options(FlushOptions { flush_type }).await.unwrap();
        db.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_coordinator_whose_clock_is_behind_goes_on_at_once() {
        for flush_type in [FlushType::Wal, FlushType::MemTable] {
            let folder = tempfile::tempdir().unwrap();
            let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
            write_ahead(&store, Duration::from_secs(600), flush_type).await;
            let begun = Instant::now();
            for at in 0..3 {
                // Each finds what the one before has written.
                let (mut log, _) = EventLog::open(&store).await.unwrap();
                let change = Change::PauseRequested { reason: "test".into() };
                log.append(vec![Record { at: Time(at), job: Some(JobId::from("demo-1")), change }]).await.unwrap();
                if at == 1 {
                    log.to_tables().await;
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            let newest = newest(&store).await.unwrap().unwrap();
            assert!((595.0..610.0).contains(&(newest - Utc::now()).as_seconds_f64()), "{newest}");
        }
    }
}
