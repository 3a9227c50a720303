//! What workers say about themselves and nobody decides by.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_core::WorkerId;
use cappa_proto as proto;
use cappa_proto::{Heartbeat, Hello};
use parking_lot::Mutex;

/// What each worker said in its newest hello. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    workers: Arc<Mutex<HashMap<WorkerId, WorkerFacts>>>,
    /// Who waits for a store.
    waiting: Arc<Mutex<HashMap<WorkerId, Waiting>>>,
}

/// A store keeps a worker waiting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    /// What it waits for.
    pub(crate) url: String,
    /// Since when.
    pub(crate) since: Instant,
}

/// What one worker said.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerFacts {
    /// Of its program.
    pub(crate) version: String,
    /// `cpu` or the name of the GPU.
    pub(crate) device: String,
    /// `host:port` of its `/metrics`.
    pub(crate) metrics_address: String,
}

impl Facts {
    /// Notes what a hello says.
    pub(crate) fn learn(&self, worker: &WorkerId, hello: &Hello) {
        let facts = WorkerFacts {
            version: hello.version.clone(),
            device: hello.device.clone(),
            metrics_address: hello.metrics_address.clone(),
        };
        self.workers.lock().insert(worker.clone(), facts);
    }

    /// Notes what a heartbeat says.
    pub(crate) fn heard(&self, worker: &WorkerId, heartbeat: &Heartbeat) {
        let mut waiting = self.waiting.lock();
        match &heartbeat.waiting {
            Some(proto::Waiting { url, seconds }) => {
                let so_far = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
                let since = Instant::now().checked_sub(so_far).unwrap_or_else(Instant::now);
                waiting.insert(worker.clone(), Waiting { url: url.clone(), since });
            }
            None => {
                waiting.remove(worker);
            }
        }
    }

    /// The worker's stream has ended: what it waits for is not known any more.
    pub(crate) fn lost_sight(&self, worker: &WorkerId) {
        self.waiting.lock().remove(worker);
    }

    /// What a store keeps the worker waiting for.
    pub(crate) fn waiting(&self, worker: &WorkerId) -> Option<Waiting> {
        self.waiting.lock().get(worker).cloned()
    }

    /// What the worker said.
    pub(crate) fn of(&self, worker: &WorkerId) -> WorkerFacts {
        self.workers.lock().get(worker).cloned().unwrap_or_default()
    }
}
