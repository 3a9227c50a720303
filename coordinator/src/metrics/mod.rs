//! What Prometheus scrapes. Durations are observed as they are reported; everything else is read
//! from the state when it is asked for, so that no number can drift from what the API says.

mod durations;
mod names;
mod rpc;
mod snapshot;

use std::sync::Arc;

use cappa_proto::{Entered, PartsWritten};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub(crate) use durations::Durations;
pub(crate) use rpc::RpcLayer;
pub(crate) use snapshot::{Snapshot, is_past};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
    code: String,
}

/// All metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    recovery: Family<Phase, Histogram>,
    stall: Histogram,
    write: Histogram,
    commit: Histogram,
    calls: Family<Call, Histogram>,
}

/// From 1 ms to about two minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Metrics {
    /// Metrics of a process that has seen nothing yet.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::default())),
            recovery: Family::new_with_constructor(seconds),
            stall: seconds(),
            write: seconds(),
            commit: seconds(),
            calls: Family::new_with_constructor(seconds),
        };
        let mut registry = metrics.registry.lock();
        registry.register(names::RECOVERY.0, names::RECOVERY.1, metrics.recovery.clone());
        registry.register(names::STALL.0, names::STALL.1, metrics.stall.clone());
        registry.register(names::WRITE.0, names::WRITE.1, metrics.write.clone());
        registry.register(names::COMMIT.0, names::COMMIT.1, metrics.commit.clone());
        registry.register(names::CALLS.0, names::CALLS.1, metrics.calls.clone());
        drop(registry);
        metrics
    }

    /// A member has entered its group.
    pub(crate) fn entered(&self, entered: &Entered) {
        let phases = [
            ("form", entered.form_seconds),
            ("state", entered.state_seconds),
            ("first_step", entered.first_step_seconds),
        ];
        for (phase, seconds) in phases {
            self.recovery.get_or_create(&Phase { phase }).observe(seconds);
        }
    }

    /// A rank has written its parts of a checkpoint.
    pub(crate) fn written(&self, written: &PartsWritten) {
        self.stall.observe(written.stall_seconds);
        self.write.observe(written.write_seconds);
    }

    fn called(&self, method: &str, code: tonic::Code, seconds: f64) {
        let call = Call { method: method.to_owned(), code: format!("{code:?}") };
        self.calls.get_or_create(&call).observe(seconds);
    }

    /// The text that Prometheus reads: what was observed, and the state.
    pub(crate) fn encode(&self, snapshot: Snapshot) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode_registry(&mut page, &self.registry.lock())?;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(snapshot));
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}
