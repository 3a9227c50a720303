//! Shards on lease: fetched ahead by background threads, shared by those who hold a lease, let go with the last lease.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use cappa_shared::manifest::{self, DataManifest, Format, FoundShard};
use cappa_shared::storage::Location;
use tokio::sync::watch;

use super::cache::Cache;
use super::fetch::{Expected, Fetcher, local_path};
use super::{Damage, FetchError, Folder, Shard};

/// What a pool serves and with which means.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// The corpus.
    pub manifest: Arc<DataManifest>,
    /// Where the manifest lies; shards are beside it.
    pub origin: Location,
    /// Folder for downloaded shards; processes of one host may share it. Local shards are read in place.
    pub cache_folder: PathBuf,
    /// How much the folder may hold. Exceeded only where the shards needed at once are larger.
    pub cache_bytes: u64,
    /// Shards fetched at the same time.
    pub fetch_threads: usize,
}

/// The shards of a corpus, on lease.
pub struct ShardPool {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
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
    /// Which shard, as the manifest numbers them.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Waits until the shard is at hand.
    ///
    /// # Errors
    /// When it can't be fetched, or the pool was stopped meanwhile.
    pub fn wait(&self) -> Result<Arc<Shard>, Arc<FetchError>> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.done.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
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
        let cache = Cache::open(&config.cache_folder, config.cache_bytes).map_err(FetchError::Cache)?;
        let cache = Arc::new(cache);
        let (stop, stopped) = watch::channel(false);
        let fetch_threads = config.fetch_threads.max(1);
        let shared = Arc::new(Shared { config, state: Mutex::new(State::default()), queued: Condvar::new() });
        let mut pool = Self { shared, stop, threads: Vec::new() };
        for number in 0..fetch_threads {
            let fetcher = Fetcher::new(Arc::clone(&cache), stopped.clone())?;
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("shards-{number}"))
                .spawn(move || shared.serve(fetcher))
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
        if local_path(&self.shared.config.origin).is_some() {
            return true;
        }
        let manifest = self.shared.config.manifest.shards();
        let wanted: u64 = shards.iter().map(|&shard| manifest[shard as usize].bytes).sum();
        let state = lock(&self.shared.state);
        let held = state.held().map(|shard| manifest[shard as usize].bytes).sum::<u64>();
        held + wanted <= self.shared.config.cache_bytes
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
    }
}

impl Shared {
    /// The life of a fetching thread.
    fn serve(&self, mut fetcher: Fetcher) {
        while let Some(lease) = self.next() {
            lease.settle(self.fetch(&mut fetcher, lease.shard).map(Arc::new).map_err(Arc::new));
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

    fn fetch(&self, fetcher: &mut Fetcher, number: u32) -> Result<Shard, FetchError> {
        let shard = &self.config.manifest.shards()[number as usize];
        let location = self
            .config
            .origin
            .sibling(&shard.path)
            .map_err(|source| FetchError::Location { path: shard.path.clone(), source })?;
        if shard.format == Format::Folder {
            return folder(&location, shard);
        }
        let key = shard.content_key(location.url());
        let expected = Expected { bytes: shard.bytes, sha256: &key };
        let fetched = fetcher.fetch(&location, expected, &self.leased())?;
        if let Some(damage) = fetched.damage() {
            tracing::warn!(shard = %location, usable = fetched.samples().len(), promised = shard.all_samples(), %damage, "damaged shard");
        }
        Ok(fetched.with_kept(shard.kept.as_ref()))
    }

    /// Digests of the shards that somebody holds a lease of.
    fn leased(&self) -> HashSet<String> {
        let manifest = self.config.manifest.shards();
        let of = |shard: &manifest::Shard| {
            // Where the location is unusable nothing was fetched.
            let location = self.config.origin.sibling(&shard.path).ok()?;
            Some(shard.content_key(location.url()))
        };
        lock(&self.state).held().filter_map(|shard| of(&manifest[shard as usize])).collect()
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
        None => Shard::of_folder(folder).with_kept(shard.kept.as_ref()),
    })
}

impl State {
    /// The shards that somebody holds a lease of.
    fn held(&self) -> impl Iterator<Item = u32> {
        self.leases.iter().filter(|(_, lease)| lease.strong_count() > 0).map(|(&shard, _)| shard)
    }
}
