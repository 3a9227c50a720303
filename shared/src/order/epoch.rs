//! The order within one epoch.

use std::ops::Range;

use super::draw::mix;
use super::{InMixture, Permutation, SampleOrder, SampleRef, Slot};

/// Domains of the permutations' keys.
const SHARDS: u64 = 0x7368_6172;
const WINDOW: u64 = 0x7769_6e64;

/// The order of the samples in one epoch: the permuted shards laid out in a line, cut into lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochOrder {
    epoch: u64,
    key: u64,
    shards: Permutation,
    /// Line position at which each permuted shard begins, and at the end N.
    starts: Vec<u64>,
    lanes: u32,
    window_shards: u32,
    place: InMixture,
}

/// A stretch of a lane within which samples are shuffled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Slots of the lane that it covers.
    pub slots: Range<u64>,
    /// Shards (places in the manifest) that hold its samples, in line order.
    pub shards: Vec<u32>,
}

/// A window on the line: its number within the lane, the permuted shards it spans and its line positions.
struct Span {
    number: u64,
    ranks: Range<usize>,
    line: Range<u64>,
}

impl EpochOrder {
    pub(super) fn new(order: &SampleOrder, epoch: u64) -> Self {
        let key = mix(mix(order.seed, SHARDS), epoch);
        let shards = Permutation::new(key, order.counts.len() as u64);
        let mut starts = Vec::with_capacity(order.counts.len() + 1);
        let mut end = 0;
        starts.push(end);
        for rank in 0..order.counts.len() {
            end += u64::from(order.counts[place(&shards, rank) as usize]);
            starts.push(end);
        }
        Self { epoch, key, shards, starts, lanes: order.lanes, window_shards: order.window_shards, place: order.place }
    }

    /// Memory that it holds, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.starts.as_slice()) + size_of::<Self>()
    }

    /// Which epoch this is.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the slot at `index` of a lane holds. Indices past the lane's samples are null slots.
    pub fn slot(&self, lane: u32, index: u64) -> Slot {
        let line = self.lane(lane);
        let position = line.start + index;
        let sample = (position < line.end).then(|| self.sample(lane, position));
        let number = index * u64::from(self.lanes) + u64::from(lane);
        let number = number * u64::from(self.place.sources) + u64::from(self.place.source);
        Slot { epoch: self.epoch, lane, number, sample }
    }

    /// The window around the slot at `index` of a lane; nothing for a null slot. Whoever reads ahead walks windows with this.
    pub fn window(&self, lane: u32, index: u64) -> Option<Window> {
        let line = self.lane(lane);
        let position = line.start + index;
        (position < line.end).then(|| {
            let span = self.span(&line, position);
            Window {
                slots: span.line.start - line.start..span.line.end - line.start,
                shards: span
                    .ranks
                    // The lane may begin or end within a shard, and shards may be empty.
                    .filter(|&rank| self.starts[rank].max(span.line.start) < self.starts[rank + 1].min(span.line.end))
                    .map(|rank| self.shard(rank))
                    .collect(),
            }
        })
    }

    /// The line positions of a lane.
    fn lane(&self, lane: u32) -> Range<u64> {
        assert!(lane < self.lanes, "lane {lane} is outside {} lanes", self.lanes);
        let (lane, lanes) = (u64::from(lane), u64::from(self.lanes));
        let (each, longer) = (self.total() / lanes, self.total() % lanes);
        let first = lane * each + lane.min(longer);
        first..first + each + u64::from(lane < longer)
    }

    fn sample(&self, lane: u32, position: u64) -> SampleRef {
        let span = self.span(&self.lane(lane), position);
        let key = mix(mix(mix(self.key, WINDOW), u64::from(lane)), span.number);
        let shuffle = Permutation::new(key, span.line.end - span.line.start);
        let position = span.line.start + shuffle.apply(position - span.line.start);
        let rank = self.rank(position);
        let index = u32::try_from(position - self.starts[rank]).expect("a shard's samples are counted in 32 bits");
        SampleRef { shard: self.shard(rank), index }
    }

    /// The window of a lane that holds a line position.
    fn span(&self, lane: &Range<u64>, position: u64) -> Span {
        let first = self.rank(lane.start);
        let shards = self.window_shards as usize;
        let number = (self.rank(position) - first) / shards;
        let begin = first + number * shards;
        let end = (begin + shards).min(self.starts.len() - 1);
        Span {
            number: number as u64,
            ranks: begin..end,
            line: self.starts[begin].max(lane.start)..self.starts[end].min(lane.end),
        }
    }

    /// The permuted shard that holds a line position.
    fn rank(&self, position: u64) -> usize {
        self.starts.partition_point(|&start| start <= position) - 1
    }

    /// The job's number of the shard at `rank` of the permuted line.
    fn shard(&self, rank: usize) -> u32 {
        self.place.first_shard + place(&self.shards, rank)
    }

    fn total(&self) -> u64 {
        *self.starts.last().expect("the line has at least its end")
    }
}

/// The manifest's place of the shard at `rank` of the permuted line.
fn place(shards: &Permutation, rank: usize) -> u32 {
    u32::try_from(shards.apply(rank as u64)).expect("the order refuses more than 2^32 shards")
}
