//! A shard from a store, in ranges: tried again where it broke off, asked for twice where it is slow.

use std::ops::{Deref, Range};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cappa_shared::storage::{Location, StorageError};
use futures::future::{Either, select};
use futures::stream::{self, Stream, StreamExt};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::FetchError;
use super::config::FetchConfig;
use super::pace::{Backoff, Pace};
use crate::stats::{PipelineStats, WaitingFor};

/// A connection that brings nothing for so long is given up, and the request made again.
const STALLED: Duration = Duration::from_secs(15);
/// Second requests may be this share of all, beside the first few: a store that is overloaded must not get twice the load.
const HEDGES_PER_REQUEST: f64 = 0.1;
const FIRST_HEDGES: u64 = 4;

/// What all downloads of a pool share.
pub(super) struct Means {
    pub(super) config: FetchConfig,
    pub(super) stats: std::sync::Arc<PipelineStats>,
    pace: Pace,
    /// One permit for every part that memory may hold.
    memory: Semaphore,
}

/// A shard in a store.
pub(super) struct Source<'a> {
    pub(super) location: &'a Location,
    pub(super) means: &'a Means,
    /// Only an object with this tag will do: no digest tells at the end.
    pub(super) etag: Option<String>,
}

/// What a request brought, and what ended it early.
struct Answer<'a> {
    content: Buffer<'a>,
    broke: Option<StorageError>,
}

/// Bytes in memory, counted for as long as they are.
pub(super) struct Buffer<'a> {
    bytes: BytesMut,
    stats: &'a PipelineStats,
}

impl<'a> Buffer<'a> {
    fn new(stats: &'a PipelineStats) -> Self {
        Self { bytes: BytesMut::new(), stats }
    }

    fn extend(&mut self, piece: &[u8]) {
        self.stats.parts.take(piece.len() as u64);
        self.bytes.extend_from_slice(piece);
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.stats.parts.release(self.bytes.len() as u64);
    }
}

/// A run of failures without a byte between them.
struct Outage<'a> {
    since: Instant,
    backoff: Backoff,
    _waiting: WaitingFor<'a>,
}

impl Means {
    pub(super) fn new(config: FetchConfig, stats: std::sync::Arc<PipelineStats>) -> Self {
        let parts = (config.memory_bytes / config.part_bytes.max(1)).clamp(1, 1 << 16);
        let memory = Semaphore::new(usize::try_from(parts).expect("clamped"));
        Self { config, stats, pace: Pace::default(), memory }
    }
}

impl<'a> Source<'a> {
    /// Size and tag of the object.
    pub(super) async fn meta(&self) -> Result<ObjectMeta, FetchError> {
        let mut outage = None;
        loop {
            let answer = timeout(STALLED, self.location.store.head(&self.location.prefix)).await;
            let error = match answer {
                Ok(Ok(meta)) => return Ok(meta),
                Ok(Err(error)) => StorageError::at(self.location.url(), &error),
                Err(_elapsed) => self.stalled(),
            };
            let error = match error {
                StorageError::NotFound { .. } => self.why_missing().await,
                other => other,
            };
            self.pause(&mut outage, error).await?;
        }
    }

    /// Whether it is the object or its bucket that is missing: an answer to HEAD has no body to say so.
    async fn why_missing(&self) -> StorageError {
        match timeout(STALLED, self.location.store.get_range(&self.location.prefix, 0..1)).await {
            Ok(Err(error)) => StorageError::at(self.location.url(), &error),
            Ok(Ok(_)) => self.unreachable("it was missing a moment ago".into()),
            Err(_elapsed) => self.stalled(),
        }
    }

    /// The bytes of `range`, in order, in parts.
    pub(super) fn read(&'a self, range: Range<u64>) -> impl Stream<Item = Result<Part<'a>, FetchError>> + 'a {
        let step = self.means.config.part_bytes.max(1);
        let starts = (range.start..range.end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        let parts = starts.map(move |start| self.part(start..(start + step).min(range.end)));
        stream::iter(parts).buffered(self.means.memory.available_permits().clamp(1, 4))
    }

    async fn part(&self, range: Range<u64>) -> Result<Part<'a>, FetchError> {
        let room = self.means.memory.acquire().await.map_err(|_| FetchError::Stopped)?;
        let mut content = Buffer::new(&self.means.stats);
        let mut outage = None;
        loop {
            let rest = range.start + content.len() as u64..range.end;
            let answer = self.hedged(rest).await;
            if !answer.content.is_empty() {
                outage = None;
            }
            if content.is_empty() {
                content = answer.content;
            } else {
                content.extend(&answer.content);
            }
            match answer.broke {
                None => return Ok(Part { content, _room: room }),
                Some(error) => self.pause(&mut outage, error).await?,
            }
        }
    }

    /// Asks for `range`, and when that is slow once more; takes what is complete first, else what got farther.
    async fn hedged(&self, range: Range<u64>) -> Answer<'a> {
        let first = Box::pin(self.request(range.clone()));
        let first = match select(first, Box::pin(sleep(self.means.pace.bound()))).await {
            Either::Left((answer, _)) => return answer,
            Either::Right(((), first)) => first,
        };
        // A second part in memory for the second answer: at most as many again.
        if !self.may_hedge() {
            return first.await;
        }
        self.means.stats.hedges.add(1);
        tracing::debug!(shard = %self.location, start = range.start, "slow; asked for a second time");
        match select(first, Box::pin(self.request(range))).await {
            Either::Left((answer @ Answer { broke: None, .. }, _)) => answer,
            Either::Right((answer @ Answer { broke: None, .. }, _)) => answer,
            Either::Left((failed, other)) => farther(failed, other.await),
            Either::Right((failed, other)) => farther(failed, other.await),
        }
    }

    fn may_hedge(&self) -> bool {
        let allowed = (self.means.stats.requests.get() as f64 * HEDGES_PER_REQUEST) as u64 + FIRST_HEDGES;
        self.means.stats.hedges.get() < allowed
    }

    async fn request(&self, range: Range<u64>) -> Answer<'a> {
        let wanted = range.end - range.start;
        let mut content = Buffer::new(&self.means.stats);
        let begin = Instant::now();
        self.means.stats.requests.add(1);
        let done = self.receive(range, &mut content).await;
        let took = begin.elapsed();
        self.means.stats.fetching.add(took);
        let broke = match done {
            Err(error) => Some(error),
            Ok(()) if (content.len() as u64) < wanted => Some(self.ended_early(content.len() as u64, wanted)),
            Ok(()) => None,
        };
        if broke.is_none() {
            self.means.pace.record(took);
        }
        Answer { content, broke }
    }

    async fn receive(&self, range: Range<u64>, content: &mut Buffer<'a>) -> Result<(), StorageError> {
        let failed = |error: object_store::Error| StorageError::at(self.location.url(), &error);
        let if_match = self.etag.clone();
        let options = GetOptions { range: Some(GetRange::Bounded(range)), if_match, ..GetOptions::default() };
        let object = self.location.store.get_opts(&self.location.prefix, options);
        let mut body = timeout(STALLED, object).await.map_err(|_| self.stalled())?.map_err(failed)?.into_stream();
        while let Some(piece) = timeout(STALLED, body.next()).await.map_err(|_| self.stalled())? {
            let piece = piece.map_err(failed)?;
            self.means.stats.fetched_bytes.add(piece.len() as u64);
            content.extend(&piece);
        }
        Ok(())
    }

    /// Waits before the next attempt, unless trying again is of no use or patience is at its end.
    async fn pause(&self, outage: &mut Option<Outage<'a>>, error: StorageError) -> Result<(), FetchError> {
        let outage = outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            backoff: Backoff::default(),
            _waiting: self.means.stats.wait_for(self.location.to_string()),
        });
        let waited = outage.since.elapsed();
        if !error.is_transient() || waited >= self.means.config.patience {
            return Err(FetchError::Remote { location: self.location.to_string(), waited, source: error });
        }
        let pause = outage.backoff.next().min(self.means.config.patience - waited);
        tracing::warn!(
            shard = %self.location, waiting_s = waited.as_secs(), pause_ms = pause.as_millis() as u64, %error,
            "the store does not deliver; waiting and trying again"
        );
        self.means.stats.retries.add(1);
        sleep(pause).await;
        Ok(())
    }

    fn stalled(&self) -> StorageError {
        self.unreachable(format!("nothing came for {} s", STALLED.as_secs()))
    }

    fn ended_early(&self, got: u64, wanted: u64) -> StorageError {
        self.unreachable(format!("the answer ended after {got} of {wanted} bytes"))
    }

    fn unreachable(&self, message: String) -> StorageError {
        StorageError::unreachable(self.location.url(), message)
    }
}

/// A stretch of a shard, with the memory it takes.
pub(super) struct Part<'a> {
    pub(super) content: Buffer<'a>,
    _room: SemaphorePermit<'a>,
}

fn farther<'a>(one: Answer<'a>, other: Answer<'a>) -> Answer<'a> {
    let better = other.broke.is_none() || other.content.len() > one.content.len();
    if better { other } else { one }
}
