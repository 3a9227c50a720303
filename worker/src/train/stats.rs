//! The few numbers that ranks add up in every step, in one small all-reduce.
//!
//! It comes after the gradients' own all-reduce and before the update: where it completes, every rank
//! has all gradients and the step counts (DESIGN §4, Group).

use cappa_collective::{Group, Op};
use cappa_session::Assignment;
use tch::Tensor;

use super::outcome::Ending;
use crate::context::Context;

/// What one rank brings, or, after [`StepStats::sum`], what all ranks brought together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StepStats {
    /// Sum over examples of weight × loss.
    pub loss: f64,
    /// Sum of the examples' weights.
    pub weight: f64,
    /// Slots that held a sample, good or bad.
    pub seen: f64,
    /// Samples that were quarantined.
    pub bad: f64,
    /// Ranks asked to checkpoint and stop.
    pub stop: f64,
    /// Seconds that were the rank's own: data and forward, before anybody waits for anybody.
    pub(crate) busy: f64,
    /// Ranks whose process is to end.
    pub drain: f64,
    /// Ranks that don't have the next step's batch yet.
    pub late: f64,
}

impl StepStats {
    /// Whether this rank was asked to end the group, and nothing else.
    pub(crate) fn votes(assignment: &Assignment, context: &Context) -> Self {
        let Assignment { job, generation, .. } = assignment;
        let stop = vote(context.interrupt.stop_asked(job, *generation));
        Self { stop, drain: vote(context.interrupt.draining()), ..Self::default() }
    }

    /// Adds up over the group: equal on every rank afterwards.
    pub(crate) fn sum(self, group: &Group) -> cappa_collective::Result<Self> {
        let Self { loss, weight, seen, bad, busy, stop, drain, late } = self;
        // On the host, which every backend carries. Doubles: counts stay exact, and the sum of losses keeps more digits than they have.
        let sums = Tensor::from_slice(&[loss, weight, seen, bad, busy, stop, drain, late]);
        group.all_reduce(&sums, Op::Sum)?;
        let sums = Vec::<f64>::try_from(sums).expect("a vector of eight doubles");
        let [loss, weight, seen, bad, busy, stop, drain, late] = sums[..] else { unreachable!("eight went in") };
        Ok(Self { loss, weight, seen, bad, busy, stop, drain, late })
    }

    /// How the group ends after this step, if any rank was asked to end it.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match (self.stop > 0.0, self.drain > 0.0) {
            (true, _) => Some(Ending::Stopped),
            (_, true) => Some(Ending::Drained),
            _ => None,
        }
    }

    /// The loss of the update: the mean over its examples (SEMANTICS: mean over tokens first).
    pub(crate) fn mean_loss(&self) -> f64 {
        if self.weight > 0.0 { self.loss / self.weight } else { 0.0 }
    }
}

/// As a number that is added up.
pub(crate) fn vote(asked: bool) -> f64 {
    if asked { 1.0 } else { 0.0 }
}
