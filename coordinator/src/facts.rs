//! What workers say about themselves and nobody decides by.

use std::collections::HashMap;
use std::sync::Arc;

use cappa_core::WorkerId;
use cappa_proto::Hello;
use parking_lot::Mutex;

/// What each worker said in its newest hello. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    workers: Arc<Mutex<HashMap<WorkerId, WorkerFacts>>>,
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

    /// What the worker said.
    pub(crate) fn of(&self, worker: &WorkerId) -> WorkerFacts {
        self.workers.lock().get(worker).cloned().unwrap_or_default()
    }
}
