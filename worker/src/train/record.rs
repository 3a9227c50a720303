//! What every step leaves behind: its numbers for the curve and the metrics, and the reasons to give up.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cappa_model::optim::StepStats as Update;
use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_session::Assignment;
use cappa_shared::ids::Generation;

use super::config;
use super::outcome::Departure;
use super::state::{Tally, TrainState};
use super::stats::StepStats;
use crate::metrics::Metrics;
use crate::session::ledger::Ledger;

/// Weight of the newest step in the straggler score.
const SMOOTHING: f64 = 0.05;

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for the batch and moving it to the device.
    Data,
    /// The loss.
    Forward,
    /// Its gradients, averaged over the group meanwhile.
    Backward,
    /// The step's small all-reduce: waiting for the slowest rank.
    Comm,
    /// The update.
    Optimizer,
    /// Copying the state for a checkpoint.
    Checkpoint,
}

impl Phase {
    /// All, in a step's order.
    pub(super) const ALL: [Phase; 6] =
        [Self::Data, Self::Forward, Self::Backward, Self::Comm, Self::Optimizer, Self::Checkpoint];

    /// As a label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Comm => "comm",
            Self::Optimizer => "optimizer",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Times the phases of one step.
pub(super) struct Clock {
    begun: Instant,
    last: Instant,
    laps: [Duration; Phase::ALL.len()],
    /// Of [`Phase::Data`] and [`Phase::Forward`]: waiting for other ranks' batches and embeddings.
    for_others: Duration,
}

impl Clock {
    /// What ran since the last lap was this phase.
    pub(super) fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        self.laps[phase as usize] += now - self.last;
        self.last = now;
    }

    /// What ran since the last lap was waiting for another rank's batch: for data, but no time of this rank's own.
    pub(super) fn lap_for_others(&mut self) {
        let before = self.of(Phase::Data);
        self.lap(Phase::Data);
        self.for_others += self.of(Phase::Data) - before;
    }

    /// So long of what ran was waiting for other ranks' embeddings.
    pub(super) fn others_took(&mut self, waited: Duration) {
        self.for_others += waited;
    }

    /// Seconds that were the rank's own: data and forward, without waiting for anybody.
    pub(super) fn busy(&self) -> f64 {
        (self.of(Phase::Data) + self.of(Phase::Forward)).saturating_sub(self.for_others).as_secs_f64()
    }

    fn of(&self, phase: Phase) -> Duration {
        self.laps[phase as usize]
    }
}

/// Takes the numbers of a turn to where they are wanted.
pub(super) struct Recorder {
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    generation: u64,
    world_size: u32,
    max_bad_fraction: f64,
    /// Samples of an epoch: few bad ones at the very beginning are no large share.
    epoch_samples: i64,
    entered: Option<wire::Entered>,
    rank: u32,
    /// Smoothed; 1 is as fast as the mean.
    straggler: f64,
    flop_per_image: f64,
    /// Of one device; only where it was told.
    peak_flops: Option<f64>,
}

impl Recorder {
    /// A recorder for a turn; `entered` is told when its first step is done.
    pub(super) fn new(
        assignment: &Assignment,
        ledger: &Arc<Ledger>,
        metrics: &Arc<Metrics>,
        epoch_samples: u64,
        entered: wire::Entered,
        peak_flops: Option<f64>,
    ) -> Self {
        Self {
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            generation: assignment.generation.0,
            world_size: u32::try_from(assignment.world_size()).expect("a world size is small"),
            max_bad_fraction: assignment.spec.data.max_bad_fraction,
            epoch_samples: i64::try_from(epoch_samples).unwrap_or(i64::MAX),
            entered: Some(entered),
            rank: assignment.rank.0,
            straggler: 1.0,
            flop_per_image: config::flop_per_image(&assignment.spec),
            peak_flops,
        }
    }

    /// Starts a step's clock.
    pub(super) fn start(&self) -> Clock {
        let now = Instant::now();
        Clock { begun: now, last: now, laps: Default::default(), for_others: Duration::ZERO }
    }

    /// Whether training may go on: not too many samples are bad. Every rank sees the same sums, so all decide alike.
    pub(super) fn check(
        &self,
        all: &StepStats,
        state: &TrainState,
        quarantined: &[wire::Quarantined],
    ) -> Result<(), Departure> {
        if state.step.0 == 0 && all.weight == 0.0 && all.seen > 0.0 {
            let hint = quarantined.first().map(|bad| format!("; the first: {}: {}", bad.key, bad.reason));
            return Err(Departure::NoGoodSample { seen: all.seen as i64, hint: hint.unwrap_or_default() });
        }
        let Tally { seen, bad } = state.tally();
        let (seen, bad) = (seen + all.seen as i64, bad + all.bad as i64);
        if bad as f64 > self.max_bad_fraction * seen.max(self.epoch_samples) as f64 {
            return Err(Departure::TooManyBad { bad, seen, allowed: self.max_bad_fraction });
        }
        Ok(())
    }

    /// The state has advanced by one step, with an update or, for what is `told` of it, without. `quarantined` are this rank's samples
    /// that are to be listed.
    pub(super) fn record(
        &mut self,
        clock: Clock,
        all: &StepStats,
        update: Option<&Update>,
        told: wire::Update,
        state: &TrainState,
        quarantined: Vec<wire::Quarantined>,
    ) {
        let point = wire::StepMetrics {
            step: state.step.0,
            loss: all.mean_loss(),
            learning_rate: update.map_or(0.0, |update| update.learning_rate),
            grad_norm: update.map_or(0.0, |update| update.grad_norm.double_value(&[])),
            examples: update.map_or(0, |_| all.weight as u64),
            seconds: clock.begun.elapsed().as_secs_f64(),
            data_wait_seconds: clock.of(Phase::Data).as_secs_f64(),
            checkpoint_stall_seconds: clock.of(Phase::Checkpoint).as_secs_f64(),
            generation: self.generation,
            world_size: self.world_size,
            unix_ms: unix_ms(),
            update: told.into(),
        };
        self.metrics.step(&point, Phase::ALL.map(|phase| (phase.as_str(), clock.of(phase))), &quarantined);
        // Samples of an update that was not made are no fault of theirs.
        for sample in quarantined.iter().filter(|_| update.is_some()) {
            let wire::Quarantined { shard, key, reason, .. } = sample;
            tracing::warn!(shard, key, reason, "a sample is quarantined: it weighs nothing");
        }
        if !quarantined.is_empty() || all.bad > 0.0 {
            self.ledger.book().quarantine(quarantined, state.tally().bad as u64);
        }
        let seconds = point.seconds;
        self.utilisation(clock.busy(), all, seconds);
        self.ledger.book().point(point);
        if let Some(mut entered) = self.entered.take() {
            entered.first_step_seconds = seconds;
            self.ledger.notice(Tell::Entered(entered));
        }
    }

    /// This rank's own time beside the mean of all, and the use made of the device.
    fn utilisation(&mut self, busy: f64, all: &StepStats, seconds: f64) {
        let ranks = f64::from(self.world_size);
        let score = if all.busy > 0.0 { busy * ranks / all.busy } else { 1.0 };
        self.straggler += SMOOTHING * (score - self.straggler);
        let mfu = self.peak_flops.map(|peak| all.weight / ranks * self.flop_per_image / (seconds * peak));
        self.metrics.utilisation(self.rank, self.straggler, mfu);
        // Zero stands for not known yet.
        let pace = (self.straggler * 1000.0).round().clamp(1.0, 1e9) as u32;
        self.ledger.book().keep_pace(Generation(self.generation), pace);
    }

    /// There was no step to do: the group is entered all the same.
    pub(super) fn finish(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.ledger.notice(Tell::Entered(entered));
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
