//! What Prometheus is told by a worker, at `/metrics` of its HTTP port.

mod data;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cappa_data::stats::PipelineStats;
use cappa_proto as wire;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::checkpoint::CheckpointError;

/// From a millisecond to about a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Label(&'static str, String);

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        [(self.0, self.1.as_str())].encode(encoder)
    }
}

/// The worker's metrics.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    step: Family<Label, Histogram, fn() -> Histogram>,
    quarantined: Family<Label, Counter>,
    stall: Histogram,
    write: Histogram,
    bytes: Gauge,
    failures: Counter,
    at: Gauge,
    loss: Gauge<f64, AtomicU64>,
    straggler: Family<Label, Gauge<f64, AtomicU64>>,
    mfu: Gauge<f64, AtomicU64>,
    data: Arc<PipelineStats>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            step: Family::new_with_constructor(seconds),
            quarantined: Family::default(),
            stall: seconds(),
            write: seconds(),
            bytes: Gauge::default(),
            failures: Counter::default(),
            at: Gauge::default(),
            loss: Gauge::default(),
            straggler: Family::default(),
            mfu: Gauge::default(),
            data: Arc::default(),
            registry: Mutex::default(),
        };
        registry.register("cappa_step_duration_seconds", "Time of each phase of a step", metrics.step.clone());
        registry.register(
            "cappa_samples_quarantined",
            "Samples that could not be used, by reason",
            metrics.quarantined.clone(),
        );
        registry.register(
            "cappa_checkpoint_stall_duration_seconds",
            "Training stood still for a checkpoint",
            metrics.stall.clone(),
        );
        registry.register(
            "cappa_checkpoint_write_duration_seconds",
            "Writing this rank's part of a checkpoint",
            metrics.write.clone(),
        );
        registry.register("cappa_checkpoint_bytes", "Size of this rank's newest part", metrics.bytes.clone());
        registry.register("cappa_checkpoint_failures", "Parts that could not be written", metrics.failures.clone());
        registry.register("cappa_worker_step", "Completed updates of the job in this process", metrics.at.clone());
        registry.register("cappa_worker_loss", "Loss of the last update, over all ranks", metrics.loss.clone());
        registry.register(
            "cappa_straggler_score",
            "Own time of this rank in a step, of the mean over all ranks, smoothed: above 1 is slower",
            metrics.straggler.clone(),
        );
        registry.register(
            "cappa_job_mfu_ratio",
            "Model FLOP/s of a device by its peak; 0 where --peak-tflops is not given",
            metrics.mfu.clone(),
        );
        registry.register_collector(Box::new(data::DataCollector(metrics.data.clone())));
        Self { registry: Mutex::new(registry), ..metrics }
    }
}

impl Metrics {
    /// What the data pipelines of this process count, one after the other.
    pub(crate) fn data(&self) -> Arc<PipelineStats> {
        self.data.clone()
    }

    /// A step is done.
    pub(crate) fn step<'a>(
        &self,
        point: &wire::StepMetrics,
        phases: impl IntoIterator<Item = (&'static str, Duration)>,
        quarantined: impl IntoIterator<Item = &'a wire::Quarantined>,
    ) {
        for (phase, took) in phases {
            self.step.get_or_create(&Label("phase", phase.into())).observe(took.as_secs_f64());
        }
        for sample in quarantined {
            let reason = sample.reason.split(':').next().unwrap_or_default();
            self.quarantined.get_or_create(&Label("reason", reason.into())).inc();
        }
        self.at.set(i64::try_from(point.step).unwrap_or(i64::MAX));
        if point.update() == wire::Update::Made {
            self.loss.set(point.loss);
        }
    }

    /// How this rank compares, and what it makes of its device.
    pub(crate) fn utilisation(&self, rank: u32, straggler: f64, mfu: Option<f64>) {
        // A process has one rank at a time; a score of an earlier group would stay for ever.
        self.straggler.clear();
        self.straggler.get_or_create(&Label("rank", rank.to_string())).set(straggler);
        self.mfu.set(mfu.unwrap_or_default());
    }

    /// A part of a checkpoint was written, or not.
    pub(crate) fn checkpoint(&self, outcome: &Result<wire::Part, CheckpointError>, stall: Duration, write: Duration) {
        self.stall.observe(stall.as_secs_f64());
        match outcome {
            Ok(part) => {
                self.write.observe(write.as_secs_f64());
                self.bytes.set(i64::try_from(part.bytes).unwrap_or(i64::MAX));
            }
            Err(_) => {
                self.failures.inc();
            }
        }
    }

    /// In the text format of Prometheus.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).expect("writing to a string can't fail");
        text
    }

    /// The HTTP side.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/metrics", get(move || std::future::ready(self.text())))
            .route("/healthz", get(|| std::future::ready("ok\n")))
    }
}
