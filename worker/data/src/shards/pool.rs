//! Shards on lease: fetched ahead by background threads, shared by those who hold a lease, let go with the last lease.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use cappa_shared::manifest::{self, Format, FoundShard};
use cappa_shared::storage::Location;
use tokio::sync::watch;

use super::cache::{Cache, NextUse};
use super::download::Means;
use super::fetch::{Expected, Fetcher, local_path};
use super::verified::Verified;
use super::{Damage, FetchConfig, FetchError, Folder, Schedule, Shard};
use crate::sources::Sources;
use crate::stats::PipelineStats;

/// Threads that serve connections; the work on what arrives is done by the fetching threads.
const CONNECTION_THREADS: usize = 2;

/// What a pool serves and with which means.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// What is read; shards go by their number over all sources.
    pub sources: Arc<Sources>,
    /// Folder for downloaded shards; processes of one host may share it. Local shards are read in place.
    pub cache_folder: PathBuf,
    /// How much the folder may hold. Exceeded only where the shards needed at once are larger.
    pub cache_bytes: u64,
    /// How shards are fetched.
    pub fetch: FetchConfig,
    /// What is counted.
    pub stats: Arc<PipelineStats>,
}

/// The shards of a corpus, on lease.
pub struct ShardPool {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    /// One for all threads: a connection that one of them left open can be used by another only while its runtime runs.
    runtime: Option<tokio::runtime::Runtime>,
}

struct Shared {
    config: PoolConfig,
    state: Mutex<State>,
    queued: Condvar,
}

#[derive(Default)]
struct State {
    leases: HashMap<u32, Weak<Lease>>,
    queue: VecDeque<Weak<Lease>>,
    /// Keys of the shards that this pool had.
    had: HashSet<String>,
    /// What comes next, where somebody has a plan.
    schedule: Schedule,
    stopped: bool,
}

/// The right to a shard; the shard is kept at hand while any of its leases lives.
pub struct Lease {
    shard: u32,
    outcome: Mutex<Option<Outcome>>,
    done: Condvar,
}

type Outcome = Result<Arc<Shard>, Arc<FetchError>>;

/// Locks a mutex whose data is consistent between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    /// Which shard, by its number over all sources.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Waits until the shard is at hand.
    ///
    /// # Errors
    /// When it can't be fetched, or the pool was stopped meanwhile.
    pub fn wait(&self) -> Result<Arc<Shard>, Arc<FetchError>> {
        let waiting = self.done.wait_while(lock(&self.outcome), |outcome| outcome.is_none());
        let settled = waiting.unwrap_or_else(PoisonError::into_inner);
        settled.clone().expect("waited until there is an outcome")
    }

    /// Likewise, for so long at most; nothing when the shard is not at hand by then.
    ///
    /// # Errors
    /// As [`Lease::wait`].
    pub fn wait_within(&self, limit: Duration) -> Result<Option<Arc<Shard>>, Arc<FetchError>> {
        let waiting = self.done.wait_timeout_while(lock(&self.outcome), limit, |outcome| outcome.is_none());
        let (outcome, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        outcome.clone().transpose()
    }

    fn settle(&self, outcome: Outcome) {
        lock(&self.outcome).get_or_insert(outcome);
        self.done.notify_all();
    }
}

impl ShardPool {
    /// Opens the cache and starts the fetching threads.
    ///
    /// # Errors
    /// [`FetchError::Cache`] when the folder or the threads can't be made.
    pub fn start(config: PoolConfig) -> Result<Self, FetchError> {
        let stats = Arc::clone(&config.stats);
        let cache = Cache::open(&config.cache_folder, config.cache_bytes, Arc::clone(&stats));
        let cache = Arc::new(cache.map_err(FetchError::Cache)?);
        let verified = Arc::new(Verified::open(&config.cache_folder));
        let means = Arc::new(Means::new(config.fetch, stats));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONNECTION_THREADS)
            .thread_name("storage")
            .enable_all()
            .build()
            .map_err(FetchError::Cache)?;
        let (stop, stopped) = watch::channel(false);
        let handle = runtime.handle().clone();
        let fetch_threads = config.fetch.threads.max(1);
        let shared = Arc::new(Shared { config, state: Mutex::new(State::default()), queued: Condvar::new() });
        let mut pool = Self { shared, stop, threads: Vec::new(), runtime: Some(runtime) };
        for number in 0..fetch_threads {
            let fetcher = Fetcher {
                runtime: handle.clone(),
                cache: Arc::clone(&cache),
                means: Arc::clone(&means),
                verified: Arc::clone(&verified),
                stop: stopped.clone(),
            };
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("shards-{number}"))
                .spawn(move || shared.serve(&fetcher))
                .map_err(FetchError::Cache)?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// A lease of a shard. Shards that are not at hand are fetched in the order in which they were first leased.
    pub fn lease(&self, shard: u32) -> Arc<Lease> {
        let mut state = lock(&self.shared.state);
        if let Some(lease) = state.leases.get(&shard).and_then(Weak::upgrade) {
            return lease;
        }
        let lease = Arc::new(Lease { shard, outcome: Mutex::new(None), done: Condvar::new() });
        if state.stopped {
            lease.settle(Err(Arc::new(FetchError::Stopped)));
        } else {
            state.leases.retain(|_, lease| lease.strong_count() > 0);
            state.leases.insert(shard, Arc::downgrade(&lease));
            state.queue.push_back(Arc::downgrade(&lease));
            self.shared.queued.notify_one();
        }
        lease
    }

    /// Whether the cache has room for `shards` beside those on lease; always where they are read in place.
    pub fn has_room_for(&self, shards: &[u32]) -> bool {
        let wanted: u64 = shards.iter().map(|&shard| self.shared.cached_bytes(shard)).sum();
        if wanted == 0 {
            return true;
        }
        let state = lock(&self.shared.state);
        let held = state.held().map(|shard| self.shared.cached_bytes(shard)).sum::<u64>();
        held + wanted <= self.shared.config.cache_bytes
    }

    /// Tells what is wanted next; the cache lets go first of what is wanted last.
    pub(crate) fn plan(&self, schedule: Schedule) {
        lock(&self.shared.state).schedule = schedule;
    }

    /// Tells that the plan has come to a step.
    pub(crate) fn arrived_at(&self, step: u64) {
        lock(&self.shared.state).schedule.arrived_at(step);
    }

    /// Whether any shard needs the cache, so that the plan matters to it.
    pub(crate) fn uses_cache(&self) -> bool {
        let mut shards = 0..self.shared.config.sources.shards();
        shards.any(|shard| self.shared.cached_bytes(shard) > 0)
    }

    /// Stops fetching and wakes everybody who waits for a lease.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        let mut state = lock(&self.shared.state);
        state.stopped = true;
        for lease in state.leases.values().filter_map(Weak::upgrade) {
            lease.settle(Err(Arc::new(FetchError::Stopped)));
        }
        self.shared.queued.notify_all();
    }
}

impl Drop for ShardPool {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported by the panic hook.
            let _ = thread.join();
        }
        if let Some(runtime) = self.runtime.take() {
            // Without waiting: a pool may be dropped inside of another runtime.
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// The life of a fetching thread.
    fn serve(&self, fetcher: &Fetcher) {
        while let Some(lease) = self.next() {
            lease.settle(self.fetch(fetcher, lease.shard).map(Arc::new).map_err(Arc::new));
        }
    }

    /// The next lease that somebody still holds; nothing after the stop.
    fn next(&self) -> Option<Arc<Lease>> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            match state.queue.pop_front() {
                Some(lease) => {
                    if let Some(lease) = lease.upgrade() {
                        return Some(lease);
                    }
                }
                None => state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn fetch(&self, fetcher: &Fetcher, number: u32) -> Result<Shard, FetchError> {
        let (_, shard) = self.config.sources.shard(number);
        let location = self
            .config
            .sources
            .location(number)
            .map_err(|source| FetchError::Location { path: shard.path.clone(), source })?;
        if shard.format == Format::Folder {
            return folder(&location, shard);
        }
        let key = shard.content_key(location.url());
        let expected = Expected { key: &key, shard };
        let fetched = fetcher.fetch(&location, expected, &self.next_use())?;
        lock(&self.state).had.insert(key);
        if let Some(damage) = fetched.damage() {
            tracing::warn!(shard = %location, usable = fetched.samples().len(), promised = shard.all_samples(), %damage, "damaged shard");
        }
        Ok(fetched.counted_as(shard))
    }

    /// What a shard takes in the cache; nothing where it is read in place.
    fn cached_bytes(&self, shard: u32) -> u64 {
        let (source, shard) = self.config.sources.shard(shard);
        let local = match shard.path.contains("://") {
            true => shard.path.starts_with("file://"),
            false => local_path(&source.origin).is_some(),
        };
        if local && !shard.format.is_packed() { 0 } else { shard.unpacked_bytes }
    }

    /// When a shard is wanted next, by its key; looked up only if somebody asks.
    fn next_use(&self) -> impl Fn(&str) -> NextUse {
        let known = OnceCell::new();
        move |key| known.get_or_init(|| self.next_uses()).get(key).copied().unwrap_or(NextUse::Unknown)
    }

    /// What a shard is called in the cache.
    fn key(&self, shard: u32) -> Option<String> {
        let location = self.config.sources.location(shard).ok()?;
        Some(self.config.sources.shard(shard).1.content_key(location.url()))
    }

    fn next_uses(&self) -> HashMap<String, NextUse> {
        // Where the location is unusable nothing was fetched.
        let key = |shard: u32| self.key(shard).unwrap_or_default();
        let state = lock(&self.state);
        let mut known: HashMap<String, NextUse> = state.had.iter().map(|key| (key.clone(), NextUse::Never)).collect();
        for (shard, step) in state.schedule.next_uses() {
            known.insert(key(shard), NextUse::Step(Reverse(step)));
        }
        for shard in state.held() {
            known.insert(key(shard), NextUse::Leased);
        }
        known
    }
}

/// A folder of loose files, read in place where it is the one that the manifest records.
fn folder(location: &Location, shard: &manifest::Shard) -> Result<Shard, FetchError> {
    let path = local_path(location).unwrap_or_else(|| location.url().into());
    let failed = |source| FetchError::Local { path: path.display().to_string(), source };
    let folder = Folder::open(&path).map_err(failed)?;
    let sha256 = folder.sha256().map_err(failed)?;
    let found = FoundShard { bytes: Some(folder.bytes()), sha256: Some(&sha256), etag: None };
    Ok(match shard.difference(&found) {
        Some(message) => Shard::of_folder(folder).damaged(Damage::Changed { message }),
        None => Shard::of_folder(folder).counted_as(shard),
    })
}

impl State {
    /// The shards that somebody holds a lease of.
    fn held(&self) -> impl Iterator<Item = u32> {
        self.leases.iter().filter(|(_, lease)| lease.strong_count() > 0).map(|(&shard, _)| shard)
    }
}
