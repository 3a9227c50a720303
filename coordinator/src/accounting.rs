//! Where a job's wall time went: every second is in exactly one bucket, and they sum to the wall time.

use std::time::Duration;

use cappa_core::Time;
use serde::{Deserialize, Serialize};

/// The buckets, in the order in which they are shown.
pub(crate) const BUCKETS: [&str; 9] =
    ["productive", "queue", "startup", "data_wait", "checkpoint", "recovery", "evaluation", "paused", "other"];

/// What a job is doing, as far as time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Indexing,
    Queued,
    Forming,
    Running,
    Evaluating,
    Recovering,
    Paused,
    Ended,
}

/// Time by state, from the job's transitions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ledger {
    state: State,
    since: Time,
    has_run: bool,
    queue: Duration,
    startup: Duration,
    running: Duration,
    evaluation: Duration,
    recovery: Duration,
    paused: Duration,
}

/// What the steps of a job report about their time, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StepTime {
    /// All of it.
    pub(crate) total: f64,
    /// Waiting for data.
    pub(crate) data_wait: f64,
    /// Standing still for a checkpoint.
    pub(crate) checkpoint: f64,
}

impl Ledger {
    /// The ledger of a job that was submitted at `at`.
    pub(crate) fn starting(at: Time) -> Self {
        Self {
            state: State::Queued,
            since: at,
            has_run: false,
            queue: Duration::ZERO,
            startup: Duration::ZERO,
            running: Duration::ZERO,
            evaluation: Duration::ZERO,
            recovery: Duration::ZERO,
            paused: Duration::ZERO,
        }
    }

    /// The job is in another state from now on.
    pub(crate) fn enter(&mut self, at: Time, state: State) {
        let elapsed = at.since(self.since);
        if let Some(account) = self.account() {
            *account += elapsed;
        }
        self.has_run |= matches!(state, State::Running | State::Evaluating);
        self.since = self.since.max(at);
        self.state = state;
    }

    fn account(&mut self) -> Option<&mut Duration> {
        match self.state {
            State::Queued => Some(&mut self.queue),
            State::Indexing => Some(&mut self.startup),
            State::Forming if !self.has_run => Some(&mut self.startup),
            State::Forming | State::Recovering => Some(&mut self.recovery),
            State::Running => Some(&mut self.running),
            State::Evaluating => Some(&mut self.evaluation),
            State::Paused => Some(&mut self.paused),
            State::Ended => None,
        }
    }

    /// Seconds by bucket, in the order of [`BUCKETS`], as of `now`. What the steps account for
    /// is taken from the time the job was running; what they don't is `other`. Steps that are
    /// made twice, or before everybody has entered, can report more than that: then it is scaled.
    pub(crate) fn seconds(&self, now: Time, steps: StepTime) -> [f64; BUCKETS.len()] {
        let mut settled = self.clone();
        settled.enter(now, self.state);
        let running = settled.running.as_secs_f64();
        let scale = if steps.total > running { running / steps.total } else { 1.0 };
        let data_wait = steps.data_wait.clamp(0.0, steps.total) * scale;
        let checkpoint = steps.checkpoint.clamp(0.0, steps.total * scale - data_wait) * scale;
        let productive = (steps.total * scale - data_wait - checkpoint).max(0.0);
        [
            productive,
            settled.queue.as_secs_f64(),
            settled.startup.as_secs_f64(),
            data_wait,
            checkpoint,
            settled.recovery.as_secs_f64(),
            settled.evaluation.as_secs_f64(),
            settled.paused.as_secs_f64(),
            (running - productive - data_wait - checkpoint).max(0.0),
        ]
    }

    /// How long the job has waited in the queue so far.
    pub(crate) fn queue_wait(&self, now: Time) -> Duration {
        let mut settled = self.clone();
        settled.enter(now, self.state);
        settled.queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::starting(Time(1_000));
        for (at, state) in [
            (2_000, State::Forming),
            (4_000, State::Running),
            (10_000, State::Recovering),
            (11_000, State::Forming),
            (12_000, State::Running),
            (20_000, State::Evaluating),
            (23_000, State::Ended),
        ] {
            ledger.enter(Time(at), state);
        }
        ledger
    }

    #[test]
    fn every_second_is_in_exactly_one_bucket() {
        let steps = StepTime { total: 12.0, data_wait: 2.0, checkpoint: 1.0 };
        let seconds = ledger().seconds(Time(99_000), steps);
        assert_eq!(seconds, [9.0, 1.0, 2.0, 2.0, 1.0, 2.0, 3.0, 0.0, 2.0]);
        assert_eq!(seconds.iter().sum::<f64>(), 22.0);
    }

    #[test]
    fn steps_that_report_too_much_do_not_make_time() {
        let steps = StepTime { total: 28.0, data_wait: 30.0, checkpoint: 9.0 };
        let seconds = ledger().seconds(Time(99_000), steps);
        assert!((seconds.iter().sum::<f64>() - 22.0).abs() < 1e-9, "{seconds:?}");
        assert!(seconds.iter().all(|bucket| *bucket >= 0.0), "{seconds:?}");
    }

    #[test]
    fn a_running_job_is_accounted_up_to_now() {
        let mut ledger = Ledger::starting(Time(0));
        ledger.enter(Time(1_000), State::Forming);
        assert_eq!(ledger.seconds(Time(5_000), StepTime::default()).iter().sum::<f64>(), 5.0);
    }
}
