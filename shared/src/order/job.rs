//! The order of a whole job: one corpus, or several mixed by weight.

use super::draw::mix;
use super::mixture::{Cycle, Weights};
use super::{Draws, EpochOrder, OrderError, SampleOrder, Slot, Steps};
use crate::ids::Step;

/// Domain of the seeds of a mixture's sources.
const SOURCE: u64 = 0x736f_7572;

/// Which sample every slot of every step of a job holds.
///
/// The shards of several sources are numbered through, in the order of the sources. A corpus alone has the order of its
/// [`SampleOrder`], and its epochs end with a step. The sources of a mixture each have epochs of their own: a lane that has
/// seen its part of one goes on with its part of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOrder {
    sources: Vec<SampleOrder>,
    cycle: Cycle,
    steps: Steps,
    seed: u64,
    lanes: u32,
}

/// Where in the sources' orders a slot of a step lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The source, from zero.
    pub source: u32,
    /// The source's epoch, from zero.
    pub epoch: u64,
    /// The lane.
    pub lane: u32,
    /// Where in the lane's part of the epoch.
    pub index: u64,
}

impl JobOrder {
    /// The order over sources whose shards hold `counts` samples, cut into `lanes` lanes and shuffled within windows of
    /// `window_shards` shards, for steps of `batch_size` samples.
    ///
    /// # Errors
    /// When there is nothing to order, a number is zero that must not be, the batch does not divide into the lanes, or a
    /// source of a mixture has fewer samples than there are lanes.
    pub fn new(
        counts: Vec<Vec<u32>>,
        weights: &Weights,
        seed: u64,
        lanes: u32,
        window_shards: u32,
        batch_size: u64,
    ) -> Result<Self, OrderError> {
        let count = u32::try_from(counts.len()).unwrap_or(u32::MAX);
        if counts.is_empty() || counts.len() != weights.turns().len() {
            return Err(OrderError::Sources(counts.len()));
        }
        let mut first_shard = 0;
        let mut sources = Vec::with_capacity(counts.len());
        for (number, counts) in (0..count).zip(counts) {
            let seed = if count == 1 { seed } else { mix(mix(seed, SOURCE), number.into()) };
            let shards = counts.len();
            let source = SampleOrder::new(counts, seed, lanes, window_shards)?.in_mixture(number, count, first_shard);
            if count > 1 && source.total_samples() < u64::from(lanes) {
                return Err(OrderError::SmallSource { place: number, samples: source.total_samples(), lanes });
            }
            let next = u64::from(first_shard) + shards as u64;
            first_shard = u32::try_from(next).map_err(|_| OrderError::TooManyShards(usize::MAX))?;
            sources.push(source);
        }
        let steps = sources[0].steps(batch_size)?;
        Ok(Self { sources, cycle: Cycle::new(seed, weights), steps, seed, lanes })
    }

    /// Number of sources.
    pub fn sources(&self) -> &[SampleOrder] {
        &self.sources
    }

    /// Number of lanes, C.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Slots that a step takes of every lane.
    pub fn slots_per_step(&self) -> u64 {
        self.steps.slots_per_step()
    }

    /// Samples in an epoch of every source, together.
    pub fn total_samples(&self) -> u64 {
        self.sources.iter().map(SampleOrder::total_samples).sum()
    }

    /// Steps of an epoch; a mixture has none.
    pub fn steps_per_epoch(&self) -> Option<u64> {
        self.is_alone().then(|| self.steps.per_epoch())
    }

    /// The draws of the job.
    pub fn draws(&self) -> Draws {
        Draws::new(self.seed)
    }

    /// Where the slots of a lane lie that a step (the number of updates completed before it) takes, in batch order.
    pub fn places(&self, step: Step, lane: u32) -> impl Iterator<Item = Place> + '_ {
        assert!(lane < self.lanes, "lane {lane} is outside {} lanes", self.lanes);
        (0..self.slots_per_step()).map(move |number| self.place(step, lane, number))
    }

    fn place(&self, step: Step, lane: u32, number: u64) -> Place {
        if self.is_alone() {
            let position = self.steps.position(step);
            let index = self.steps.slots(position).start + number;
            return Place { source: 0, epoch: position.epoch, lane, index };
        }
        let (source, before) = self.cycle.turn(lane, self.lanes, step.0 * self.slots_per_step() + number);
        let samples = self.sources[source as usize].samples_of_lane(lane);
        Place { source, epoch: before / samples, lane, index: before % samples }
    }

    /// The step that takes a slot. Indices past the lane's samples, in a source alone, are null slots.
    pub fn step_of(&self, place: Place) -> Step {
        if self.is_alone() {
            return Step(place.epoch * self.steps.per_epoch() + place.index / self.slots_per_step());
        }
        let before = place.epoch * self.sources[place.source as usize].samples_of_lane(place.lane) + place.index;
        let index = self.cycle.index(place.source, place.lane, self.lanes, before);
        Step(index / self.slots_per_step())
    }

    /// In which epoch of a source a lane is when a step begins.
    pub fn epoch_at(&self, step: Step, source: u32, lane: u32) -> u64 {
        if self.is_alone() {
            return self.steps.position(step).epoch;
        }
        let before = self.cycle.before(source, lane, self.lanes, step.0 * self.slots_per_step());
        before / self.sources[source as usize].samples_of_lane(lane)
    }

    /// The order within an epoch of a source. Costs time and eight bytes per shard; keep it while it is needed.
    pub fn epoch(&self, source: u32, epoch: u64) -> EpochOrder {
        self.sources[source as usize].epoch(epoch)
    }

    /// What a place holds; `epoch` must be that of the place.
    pub fn slot(&self, epoch: &EpochOrder, place: Place) -> Slot {
        debug_assert_eq!(epoch.epoch(), place.epoch);
        epoch.slot(place.lane, place.index)
    }

    fn is_alone(&self) -> bool {
        self.sources.len() == 1
    }
}

#[cfg(test)]
mod tests;
