//! The index of a job's data, for jobs that name shards rather than manifests: how far it is, and what holds it up.
//!
//! The shards are read here, in the coordinator's process: a job that is indexed has no workers yet.

mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_core::JobId;
use cappa_data::index::IndexProgress;
use cappa_shared::storage::AllowList;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub(crate) use work::IndexWork;

/// Indexes that are made at the same time; each reads several shards at once.
const AT_ONCE: usize = 2;

/// Every index under way. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Indexing {
    allowed: AllowList,
    turns: Arc<Semaphore>,
    jobs: Arc<Mutex<HashMap<JobId, Standing>>>,
}

/// Where an index stands. Known as long as this process lives, and nobody decides by it but for how long a store is waited for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// How far it is; nothing before the shards are found.
    pub(crate) progress: Option<IndexProgress>,
    /// Since when a store does not answer, and what was said last.
    pub(crate) trouble: Option<(Instant, String)>,
}

impl Indexing {
    /// No index yet; shards may be read where `allowed` permits.
    pub(crate) fn new(allowed: AllowList) -> Self {
        Self { allowed, turns: Arc::new(Semaphore::new(AT_ONCE)), jobs: Arc::default() }
    }

    /// Where a job's index stands.
    pub(crate) fn standing(&self, job: &JobId) -> Standing {
        self.jobs.lock().get(job).cloned().unwrap_or_default()
    }

    fn advanced(&self, job: &JobId, progress: IndexProgress) {
        let mut jobs = self.jobs.lock();
        let standing = jobs.entry(job.clone()).or_default();
        // What an earlier attempt had found already does not say that the store answers again.
        if standing.progress.is_none_or(|before| progress.shards > before.shards) {
            standing.trouble = None;
        }
        standing.progress = Some(progress);
    }

    /// A store did not answer: gives how long that has been so.
    fn troubled(&self, job: &JobId, error: String) -> Duration {
        let mut jobs = self.jobs.lock();
        let standing = jobs.entry(job.clone()).or_default();
        let since = standing.trouble.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        standing.trouble = Some((since, error));
        since.elapsed()
    }

    /// A job is indexed no more, or not now.
    pub(crate) fn forget(&self, job: &JobId) {
        self.jobs.lock().remove(job);
    }
}
