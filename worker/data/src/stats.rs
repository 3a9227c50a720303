//! What the data pipeline did and how long it took: counters that every thread adds to, and that `/metrics` reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::bottleneck::{Bottleneck, Window, bottleneck};

/// How far back the bottleneck is judged, at least.
const WINDOW: Duration = Duration::from_secs(5);

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Bytes in memory.
#[derive(Debug, Default)]
pub struct Held {
    now: AtomicU64,
    most: AtomicU64,
}

impl Held {
    pub(crate) fn take(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Now.
    pub fn get(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// The most at any time.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

/// A time that only grows.
#[derive(Debug, Default)]
pub struct Time(AtomicU64);

impl Time {
    /// Adds to it.
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Runs `work` and adds how long it took.
    pub fn of<T>(&self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        self.add(begin.elapsed());
        done
    }

    /// Its value.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The counters of a process's pipeline. They outlive loaders: one belongs to a process, not to a group.
#[derive(Debug, Default)]
pub struct PipelineStats {
    /// Bytes received from stores.
    pub fetched_bytes: Count,
    /// Bytes of parts of shards on their way from the store to the disk.
    pub parts: Held,
    /// Time of requests for parts of shards, summed over those at the same time.
    pub fetching: Time,
    /// Requests for parts of shards.
    pub requests: Count,
    /// Requests that were made again after a failure.
    pub retries: Count,
    /// Second requests beside one that was slow.
    pub hedges: Count,
    /// Shards that were in the cache.
    pub cache_hits: Count,
    /// Shards that had to be downloaded.
    pub cache_misses: Count,
    /// Shards that were removed from the cache for others.
    pub cache_evictions: Count,
    cache_bytes: Count,
    /// Samples that were made into rows, good or bad.
    pub samples: Count,
    /// Decoding threads waited for shards.
    pub network: Time,
    /// Decoding threads made rows: read, decoded, resized and tokenised.
    pub rows: Time,
    /// Decoding threads tokenised.
    pub tokenize: Time,
    /// The feeding thread waited for batches; a process that trains without one takes batches itself, and leaves it at zero.
    pub unfed: Time,
    /// It copied batches to where they can be sent to the device from, beside training.
    pub copy: Time,
    /// Training waited for batches. Counted by whoever trains: the loader does not know whether its batches are waited for.
    pub waited: Time,
    waiting: Mutex<Waiting>,
    window: Mutex<Option<Judged>>,
}

/// What waits for a store that does not deliver.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By number, so that the first is the oldest.
    since: BTreeMap<u64, (String, Instant)>,
}

/// Where the last window ended.
#[derive(Debug, Clone, Copy)]
struct Judged {
    at: Instant,
    totals: Window,
    found: Bottleneck,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PipelineStats {
    /// Decoding threads read, decoded and resized.
    pub fn decode(&self) -> Duration {
        self.rows.get().saturating_sub(self.tokenize.get())
    }

    /// Bytes in the cache folder when it was last looked at.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes.get()
    }

    pub(crate) fn set_cache_bytes(&self, bytes: u64) {
        self.cache_bytes.set(bytes);
    }

    /// What the pipeline has waited for longest because a store does not deliver it, and for how long.
    pub fn waiting(&self) -> Option<(String, Duration)> {
        let waiting = lock(&self.waiting);
        waiting.since.first_key_value().map(|(_, (what, since))| (what.clone(), since.elapsed()))
    }

    /// Notes that `what` is waited for, until the guard is dropped.
    pub fn wait_for(&self, what: String) -> WaitingFor<'_> {
        let mut waiting = lock(&self.waiting);
        let number = waiting.next;
        waiting.next += 1;
        waiting.since.insert(number, (what, Instant::now()));
        WaitingFor { stats: self, number }
    }

    /// What holds training up, over the last seconds. Meant to be asked by one who looks regularly.
    pub fn bottleneck(&self) -> Bottleneck {
        let (now, totals) = (Instant::now(), self.totals());
        let mut window = lock(&self.window);
        match &mut *window {
            Some(last) if now - last.at < WINDOW => last.found,
            Some(last) => {
                let found = bottleneck(&Window { elapsed: now - last.at, ..totals.since(&last.totals) });
                *last = Judged { at: now, totals, found };
                found
            }
            None => {
                *window = Some(Judged { at: now, totals, found: Bottleneck::None });
                Bottleneck::None
            }
        }
    }

    fn totals(&self) -> Window {
        Window {
            elapsed: Duration::ZERO,
            waited: self.waited.get(),
            unfed: self.unfed.get(),
            copy: self.copy.get(),
            network: self.network.get(),
            decode: self.decode(),
            tokenize: self.tokenize.get(),
        }
    }
}

/// While it lives, something waits for a store.
#[derive(Debug)]
pub struct WaitingFor<'a> {
    stats: &'a PipelineStats,
    number: u64,
}

impl Drop for WaitingFor<'_> {
    fn drop(&mut self) {
        lock(&self.stats.waiting).since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_waited_for_longest_is_named_until_it_comes() {
        let stats = PipelineStats::default();
        let first = stats.wait_for("s3://b/1".into());
        let second = stats.wait_for("s3://b/2".into());
        assert_eq!(stats.waiting().unwrap().0, "s3://b/1");
        drop(first);
        assert_eq!(stats.waiting().unwrap().0, "s3://b/2");
        drop(second);
        assert_eq!(stats.waiting(), None);
    }
}
