//! The state as metrics, gathered for one scrape.

use std::collections::BTreeMap;

use cappa_proto::JobState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::names;
use crate::curves::{Curves, Summary};
use crate::driver::View;
use crate::leadership::Role;
use crate::services::{fleet, views};

type Labels = Vec<(&'static str, String)>;

/// The samples of one scrape, by metric.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    counters: BTreeMap<(&'static str, &'static str), Vec<(Labels, f64)>>,
    gauges: BTreeMap<(&'static str, &'static str), Vec<(Labels, f64)>>,
}

impl Snapshot {
    /// The state as it is now. Ended jobs count among the jobs only: their numbers don't change.
    pub(crate) fn of(view: &View, curves: &Curves) -> Self {
        let mut snapshot = Self::default();
        // States without a job are shown too: what is not there can't be seen to grow.
        let states = (1..).map_while(|number| JobState::try_from(number).ok());
        let mut jobs: BTreeMap<i32, f64> = states.map(|state| (state.into(), 0.0)).collect();
        for job in view.core.state().jobs() {
            *jobs.entry(views::state(job).into()).or_default() += 1.0;
            if is_shown(view, job) {
                snapshot.job(view, job, &curves.summary(&job.id));
            }
        }
        for (state, count) in jobs {
            let state = JobState::try_from(state).unwrap_or_default().as_str_name();
            let state = state.trim_start_matches("JOB_STATE_").to_ascii_lowercase();
            snapshot.gauge(names::JOBS, vec![("state", state)], count);
        }
        let mut workers: BTreeMap<&str, f64> =
            ["idle", "forming", "training", "holding", "leaving", "quarantined", "cordoned", "lost"]
                .map(|s| (s, 0.0))
                .into();
        for (id, presence) in view.core.presence().workers() {
            let state = fleet::worker_state(view, id, presence, view.core.state().job_of(id));
            *workers.entry(state).or_default() += 1.0;
        }
        for (state, count) in workers {
            snapshot.gauge(names::WORKERS, vec![("state", state.to_owned())], count);
        }
        snapshot
    }

    /// What this coordinator does besides.
    pub(crate) fn with_role(mut self, role: &Role) -> Self {
        self.gauge(names::LEADER, Vec::new(), f64::from(u8::from(role.leads())));
        if let Some(leader) = role.leader() {
            self.gauge(names::TERM, Vec::new(), leader.term as f64);
        }
        if let Role::Leads { after: Some(after), .. } = role {
            self.gauge(names::TAKE_OVER, Vec::new(), after.as_secs_f64());
        }
        self
    }

    fn job(&mut self, view: &View, job: &cappa_core::Job, summary: &Summary) {
        let labels = vec![("job", job.id.to_string()), ("namespace", job.submission.namespace.clone())];
        let with = |name, value: &str| {
            let mut labels = labels.clone();
            labels.push((name, value.to_owned()));
            labels
        };
        let latest = summary.latest.unwrap_or_default();
        self.counter(names::STEPS, labels.clone(), summary.step as f64);
        self.counter(names::EXAMPLES, labels.clone(), summary.examples as f64);
        self.counter(names::RECOVERIES, labels.clone(), job.recoveries as f64);
        if summary.latest.is_some() {
            self.gauge(names::LOSS, labels.clone(), latest.loss);
            self.gauge(names::LEARNING_RATE, labels.clone(), latest.learning_rate);
        }
        let time = views::time(view, job, summary);
        let wall: f64 = time.iter().map(|bucket| bucket.seconds).sum();
        for bucket in time {
            if bucket.bucket == "productive" && wall > 0.0 {
                self.gauge(names::GOODPUT, labels.clone(), bucket.seconds / wall);
            }
            self.counter(names::TIME, with("bucket", &bucket.bucket), bucket.seconds);
        }
        if let Some(history) = view.history.job(&job.id) {
            self.counter(names::STEPS_LOST, labels.clone(), history.steps_lost as f64);
            self.gauge(names::QUEUE_WAIT, labels.clone(), history.ledger.queue_wait(view.now()).as_secs_f64());
        }
        for (reason, count) in &summary.reasons {
            self.counter(names::QUARANTINED, with("reason", reason), *count as f64);
        }
        if let Some(checkpoint) = job.newest_checkpoint() {
            let age = view.now().since(checkpoint.committed_at).as_secs_f64();
            self.gauge(names::CHECKPOINT_BYTES, labels.clone(), checkpoint.bytes as f64);
            self.gauge(names::CHECKPOINT_AGE, labels.clone(), age);
        }
    }

    fn counter(&mut self, name: (&'static str, &'static str), labels: Labels, value: f64) {
        self.counters.entry(name).or_default().push((labels, value));
    }

    fn gauge(&mut self, name: (&'static str, &'static str), labels: Labels, value: f64) {
        self.gauges.entry(name).or_default().push((labels, value));
    }
}

/// An ended job is still shown for so long, so that its last numbers are scraped.
const KEPT_AFTER_END: std::time::Duration = std::time::Duration::from_secs(600);

fn is_shown(view: &View, job: &cappa_core::Job) -> bool {
    !job.has_ended() || view.now().since(job.phase_since) < KEPT_AFTER_END
}

/// Whether a job has been over for so long that nothing of it is scraped any more.
pub(crate) fn is_past(view: &View, job: &cappa_core::JobId) -> bool {
    view.core.state().job(job).is_none_or(|job| !is_shown(view, job))
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for ((name, help), samples) in &self.counters {
            let metric_type = ConstCounter::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for (labels, value) in samples {
                ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        for ((name, help), samples) in &self.gauges {
            let metric_type = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for (labels, value) in samples {
                ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
