//! Which sample every slot of every step holds: a pure function of the manifest's sample counts and the seed.
//!
//! ```text
//! epoch ─ keyed permutation of the shards ─> a line of N samples ─ cut ─> C lanes of ⌈N/C⌉ slots
//! lane  ─ windows of K shards, each shuffled by a keyed permutation ─> slots
//! step s takes batch_size / C slots of every lane; a rank owns whole lanes
//! ```
//!
//! Nothing here depends on how many workers there are, so a step has the same content whoever computes it, and the cursor
//! of a run is one number: the step. Lanes hold ⌊N/C⌋ or ⌈N/C⌉ samples; a lane's slots past its samples are *null*: they
//! are the last of the epoch and weigh nothing.
//!
//! Several sources are mixed by weight: a short keyed cycle says whose turn every slot of a lane is, and every source
//! advances through its own lanes and epochs ([`JobOrder`]).
//!
//! **Quality of the shuffle.** Samples meet only samples of shards that share their window in that epoch; larger windows mix
//! more and keep more shards at hand. The shards of a window change with every epoch. For samples that are neighbours in
//! source order (1,000 shards of 100 samples, 16 lanes of 62 shards, batches of 256): how far apart in time they come, as a
//! share of the distance in a full shuffle, and how many times as often they meet in a batch. 1 and 1 are a full shuffle.
//!
//! | window K | distance | meetings |
//! |---:|---:|---:|
//! | 1 | 0.03 | 54.4 |
//! | 4 | 0.07 | 14.7 |
//! | 8 | 0.13 | 7.4 |
//! | 16 | 0.26 | 3.7 |
//! | 64 | 1.00 | 1.0 |
//!
//! The test `larger_windows_shuffle_better_and_the_table_says_how_well` prints it. What decides is K over a lane's shards: write
//! samples to shards in random order where a small window has to do.
//!
//! Any slot of 10⁹ samples in 10⁶ shards is found in about 0.3 µs, and the order holds 20 MB.

mod draw;
mod epoch;
mod job;
mod mixture;
mod permutation;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::{Rank, Step};

pub use draw::{Draws, Purpose, Stream};
pub use epoch::{EpochOrder, Window};
pub use job::{JobOrder, Place};
pub use mixture::{MAX_SOURCES, Weights};
pub use permutation::Permutation;

/// A sample of the corpus: which shard of the manifest, and which sample of it, both from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleRef {
    /// Place of the shard in the manifest.
    pub shard: u32,
    /// Place of the sample in the shard.
    pub index: u32,
}

/// One place of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// Epoch, from zero.
    pub epoch: u64,
    /// Lane that holds the slot.
    pub lane: u32,
    /// Counter that is unique within the epoch; with the epoch it keys every random draw for this slot.
    pub number: u64,
    /// The sample, or nothing in a null slot at the end of an epoch.
    pub sample: Option<SampleRef>,
}

/// Where a step lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from zero.
    pub epoch: u64,
    /// Step within the epoch, from zero.
    pub offset: u64,
}

/// Why no sample order can be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OrderError {
    /// No shard has a sample.
    #[error("the manifest has no samples; index the shards again or name others")]
    NoSamples,
    /// There must be at least one lane.
    #[error("the number of lanes must be at least 1")]
    NoLanes,
    /// A window must hold at least one shard.
    #[error("a shuffle window must hold at least 1 shard")]
    NoWindow,
    /// Shard places are 32-bit.
    #[error("the manifest has {0} shards; at most {max} are supported", max = u32::MAX)]
    TooManyShards(usize),
    /// There must be a source, and a weight for each.
    #[error("a job has 1 to {max} sources, each with a weight, not {0}", max = MAX_SOURCES)]
    Sources(usize),
    /// The source would never have its turn, or always.
    #[error(
        "weight {weight} of source {place} is not at least a thousandth of all weights together; raise it or leave the source out"
    )]
    Weight {
        /// Which source, from zero.
        place: usize,
        /// Its weight.
        weight: f64,
    },
    /// A lane of a mixture must never be empty.
    #[error("source {place} has {samples} samples for {lanes} lanes; add data or lower data.lanes")]
    SmallSource {
        /// Which source, from zero.
        place: u32,
        /// Its samples.
        samples: u64,
        /// Lanes of the order.
        lanes: u32,
    },
    /// A step takes the same number of slots of every lane.
    #[error("batch size {batch_size} is not a positive multiple of the {lanes} lanes; choose a multiple of {lanes}")]
    BatchNotDivisible {
        /// The batch size asked for.
        batch_size: u64,
        /// Lanes of the order.
        lanes: u32,
    },
}

/// The order of the samples in every epoch of a job.
///
/// Holds four bytes per shard; [`SampleOrder::epoch`] computes what one epoch needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleOrder {
    counts: Vec<u32>,
    total: u64,
    seed: u64,
    lanes: u32,
    window_shards: u32,
    place: InMixture,
}

/// What keeps the sources of a mixture apart: shards and slots are numbered through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InMixture {
    source: u32,
    sources: u32,
    first_shard: u32,
}

impl SampleOrder {
    /// The order over shards that hold `shard_sample_counts` samples, cut into `lanes` lanes and shuffled within windows of
    /// `window_shards` shards.
    ///
    /// # Errors
    /// When there is nothing to order, or a number is zero that must not be.
    pub fn new(shard_sample_counts: Vec<u32>, seed: u64, lanes: u32, window_shards: u32) -> Result<Self, OrderError> {
        let total: u64 = shard_sample_counts.iter().copied().map(u64::from).sum();
        if u32::try_from(shard_sample_counts.len()).is_err() {
            return Err(OrderError::TooManyShards(shard_sample_counts.len()));
        }
        match (total, lanes, window_shards) {
            (0, _, _) => Err(OrderError::NoSamples),
            (_, 0, _) => Err(OrderError::NoLanes),
            (_, _, 0) => Err(OrderError::NoWindow),
            _ => {
                let place = InMixture { source: 0, sources: 1, first_shard: 0 };
                Ok(Self { counts: shard_sample_counts, total, seed, lanes, window_shards, place })
            }
        }
    }

    fn in_mixture(self, source: u32, sources: u32, first_shard: u32) -> Self {
        Self { place: InMixture { source, sources, first_shard }, ..self }
    }

    /// Memory that it holds, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.counts.as_slice()) + size_of::<Self>()
    }

    /// Samples of every shard.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// The first of its shards in the numbering of the job.
    pub fn first_shard(&self) -> u32 {
        self.place.first_shard
    }

    /// Samples of a lane in every epoch, ⌊N/C⌋ or ⌈N/C⌉.
    pub fn samples_of_lane(&self, lane: u32) -> u64 {
        let lanes = u64::from(self.lanes);
        self.total / lanes + u64::from(u64::from(lane) < self.total % lanes)
    }

    /// Samples in an epoch, N.
    pub fn total_samples(&self) -> u64 {
        self.total
    }

    /// Number of lanes, C.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Slots that every lane has in an epoch, ⌈N/C⌉.
    pub fn slots_per_lane(&self) -> u64 {
        self.total.div_ceil(u64::from(self.lanes))
    }

    /// The draws of the job, from the same seed.
    pub fn draws(&self) -> Draws {
        Draws::new(self.seed)
    }

    /// The order within one epoch. Costs time and eight bytes per shard; keep it while the epoch lasts.
    pub fn epoch(&self, epoch: u64) -> EpochOrder {
        EpochOrder::new(self, epoch)
    }

    /// How steps of `batch_size` samples walk the order.
    ///
    /// # Errors
    /// [`OrderError::BatchNotDivisible`] unless the batch takes the same number of slots of every lane.
    pub fn steps(&self, batch_size: u64) -> Result<Steps, OrderError> {
        let lanes = u64::from(self.lanes);
        if batch_size == 0 || !batch_size.is_multiple_of(lanes) {
            return Err(OrderError::BatchNotDivisible { batch_size, lanes: self.lanes });
        }
        let slots_per_step = batch_size / lanes;
        Ok(Steps { slots_per_step, per_epoch: self.slots_per_lane().div_ceil(slots_per_step) })
    }
}

/// The walk of steps of one batch size along the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    slots_per_step: u64,
    per_epoch: u64,
}

impl Steps {
    /// Slots that a step takes of every lane.
    pub fn slots_per_step(&self) -> u64 {
        self.slots_per_step
    }

    /// Steps in an epoch; the last may hold null slots.
    pub fn per_epoch(&self) -> u64 {
        self.per_epoch
    }

    /// Where a step (the number of updates completed before it) lies.
    pub fn position(&self, step: Step) -> Position {
        Position { epoch: step.0 / self.per_epoch, offset: step.0 % self.per_epoch }
    }

    /// The slots of a lane that a step takes.
    pub fn slots(&self, position: Position) -> Range<u64> {
        let first = position.offset * self.slots_per_step;
        first..first + self.slots_per_step
    }

    /// The part of a step's batch that `lanes` hold, in batch order: lane after lane. The parts of the ranks in rank order
    /// make up the whole batch. `epoch` must be the epoch of `position`.
    pub fn batch<'a>(
        &self,
        epoch: &'a EpochOrder,
        position: Position,
        lanes: Range<u32>,
    ) -> impl Iterator<Item = Slot> + 'a {
        debug_assert_eq!(epoch.epoch(), position.epoch);
        let slots = self.slots(position);
        lanes.flat_map(move |lane| slots.clone().map(move |index| epoch.slot(lane, index)))
    }
}

/// The lanes of a rank: contiguous, in rank order, and as even as whole lanes allow. Ranks beyond the number of lanes own
/// none.
pub fn lanes_of_rank(rank: Rank, world_size: u32, lanes: u32) -> Range<u32> {
    let Rank(rank) = rank;
    assert!(rank < world_size, "rank {rank} is outside a world of {world_size}");
    let (each, longer) = (lanes / world_size, lanes % world_size);
    let first = rank * each + rank.min(longer);
    first..first + each + u32::from(rank < longer)
}

#[cfg(test)]
mod tests;
