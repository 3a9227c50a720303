//! Several sources mixed by weight.
//!
//! ```text
//! weights ─ quantised ─> a cycle of L ≤ 1,000 turns ─ keyed shuffle ─> whose turn each slot of a lane is
//! ```
//!
//! Every lane walks the same cycle, each from another turn on, evenly spread: a step that takes few slots of many lanes has
//! the sources in proportion too. How often a source had its turn before a slot follows from the cycle alone.

use super::OrderError;
use super::draw::mix;
use super::permutation::Permutation;

/// Sources of a job, at most.
pub const MAX_SOURCES: usize = 64;

/// Turns of a cycle, at most: a source's share is met to a thousandth, or exactly where a shorter cycle can.
const MAX_CYCLE: u32 = 1000;

/// Domain of the cycle's key.
const CYCLE: u64 = 0x6379_636c;

/// The turns that each source has in a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights(Vec<u32>);

impl Weights {
    /// The shortest cycle that has the sources in the proportion of `weights`, else the nearest of 1,000 turns.
    ///
    /// # Errors
    /// [`OrderError::Weight`] for a weight that is not above zero, or less than a thousandth of their sum.
    pub fn new(weights: &[f64]) -> Result<Self, OrderError> {
        let sum: f64 = weights.iter().sum();
        let bad = |&(_, &weight): &(usize, &f64)| !(weight > 0.0 && weight.is_finite() && weight / sum * 1000.0 >= 0.5);
        if weights.is_empty() || weights.len() > MAX_SOURCES {
            return Err(OrderError::Sources(weights.len()));
        }
        if let Some((place, &weight)) = weights.iter().enumerate().find(bad) {
            return Err(OrderError::Weight { place, weight });
        }
        let shortest = u32::try_from(weights.len()).unwrap_or(MAX_CYCLE);
        let exact = (shortest..MAX_CYCLE).find_map(|turns| exactly(weights, sum, turns));
        Ok(Self(exact.unwrap_or_else(|| nearly(weights, sum))))
    }

    /// The weights of a source alone.
    pub fn alone() -> Self {
        Self(vec![1])
    }

    /// Turns of each source in a cycle.
    pub fn turns(&self) -> &[u32] {
        &self.0
    }
}

/// The turns in a cycle of this length, if they are in proportion.
fn exactly(weights: &[f64], sum: f64, turns: u32) -> Option<Vec<u32>> {
    let share = |weight: &f64| {
        let exact = weight / sum * f64::from(turns);
        let near = exact.round();
        // Weights such as 0.1 are not exact themselves.
        (near >= 1.0 && (exact - near).abs() < 1e-6).then_some(near as u32)
    };
    let shares: Vec<u32> = weights.iter().map(share).collect::<Option<_>>()?;
    (shares.iter().sum::<u32>() == turns).then_some(shares)
}

/// The turns in the longest cycle, by largest remainder, at least one each.
fn nearly(weights: &[f64], sum: f64) -> Vec<u32> {
    let exact: Vec<f64> = weights.iter().map(|weight| weight / sum * f64::from(MAX_CYCLE)).collect();
    let mut turns: Vec<u32> = exact.iter().map(|exact| (exact.floor() as u32).max(1)).collect();
    let behind = |turns: &[u32], place: usize| exact[place] - f64::from(turns[place]);
    let mut places: Vec<usize> = (0..turns.len()).collect();
    while turns.iter().sum::<u32>() < MAX_CYCLE {
        places.sort_by(|&a, &b| behind(&turns, b).total_cmp(&behind(&turns, a)).then(a.cmp(&b)));
        turns[places[0]] += 1;
    }
    turns
}

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cycle {
    /// The source of each turn.
    turns: Vec<u32>,
    /// The turns of each source, ascending.
    turns_of: Vec<Vec<u32>>,
}

impl Cycle {
    pub(super) fn new(seed: u64, weights: &Weights) -> Self {
        let sources = (0u32..).zip(weights.turns());
        let ordered: Vec<u32> = sources.flat_map(|(source, &turns)| (0..turns).map(move |_| source)).collect();
        let shuffle = Permutation::new(mix(seed, CYCLE), ordered.len() as u64);
        let at = |turn: usize| usize::try_from(shuffle.apply(turn as u64)).expect("a cycle is short");
        let turns: Vec<u32> = (0..ordered.len()).map(|turn| ordered[at(turn)]).collect();
        let mut turns_of = vec![Vec::new(); weights.turns().len()];
        for (turn, &source) in (0u32..).zip(&turns) {
            turns_of[source as usize].push(turn);
        }
        Self { turns, turns_of }
    }

    /// The source of the slot at `index` of a lane, counted from the start of the job, and how many slots of the lane it had
    /// before.
    pub(super) fn turn(&self, lane: u32, lanes: u32, index: u64) -> (u32, u64) {
        let turn = (self.first(lane, lanes) + index) % self.length();
        let source = self.turns[usize::try_from(turn).expect("a cycle is short")];
        (source, self.before(source, lane, lanes, index))
    }

    /// How many slots before the one at `index` a source had of a lane.
    pub(super) fn before(&self, source: u32, lane: u32, lanes: u32, index: u64) -> u64 {
        let of_source = &self.turns_of[source as usize];
        let before = |turn: u64| of_source.partition_point(|&of| u64::from(of) < turn) as u64;
        let first = self.first(lane, lanes);
        let (rounds, turn) = ((first + index) / self.length(), (first + index) % self.length());
        rounds * of_source.len() as u64 + before(turn) - before(first)
    }

    /// The slot of a lane that a source has after `before` others: the inverse of [`Cycle::turn`].
    pub(super) fn index(&self, source: u32, lane: u32, lanes: u32, before: u64) -> u64 {
        let of_source = &self.turns_of[source as usize];
        let first = self.first(lane, lanes);
        let number = before + of_source.partition_point(|&of| u64::from(of) < first) as u64;
        let (rounds, place) = (number / of_source.len() as u64, number % of_source.len() as u64);
        let turn = of_source[usize::try_from(place).expect("a cycle is short")];
        rounds * self.length() + u64::from(turn) - first
    }

    /// The turn at which a lane begins.
    fn first(&self, lane: u32, lanes: u32) -> u64 {
        u64::from(lane) * self.length() / u64::from(lanes)
    }

    fn length(&self) -> u64 {
        self.turns.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(weights: &[f64]) -> Vec<u32> {
        Weights::new(weights).unwrap().turns().to_vec()
    }

    #[test]
    fn weights_become_the_shortest_cycle_that_meets_them() {
        assert_eq!(turns(&[5.0]), [1]);
        assert_eq!(turns(&[2.0, 1.0]), [2, 1]);
        assert_eq!(turns(&[0.7, 0.3]), [7, 3]);
        assert_eq!(turns(&[0.1, 0.2, 0.3]), [1, 2, 3]);
        assert_eq!(turns(&[std::f64::consts::PI, 1.0]).iter().sum::<u32>(), 1000);
        assert_eq!(turns(&[1.0, 1999.0]), [1, 999]);
    }

    #[test]
    fn weights_that_no_cycle_meets_are_refused() {
        for weights in [&[][..], &[0.0], &[-1.0, 1.0], &[f64::NAN], &[f64::INFINITY], &[1.0, 1e6], &[1.0; 65]] {
            assert!(Weights::new(weights).is_err(), "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn a_lane_counts_the_turns_of_every_source(
            weights in prop::collection::vec(0.05..1.0f64, 1..6), seed: u64, lanes in 1u32..9, lane in 0u32..9,
        ) {
            let lane = lane % lanes;
            let weights = Weights::new(&weights).unwrap();
            let cycle = Cycle::new(seed, &weights);
            let mut counts = vec![0; weights.turns().len()];
            for index in 0..2100 {
                let (source, before) = cycle.turn(lane, lanes, index);
                prop_assert_eq!(before, counts[source as usize]);
                counts[source as usize] += 1;
            }
        }

        #[test]
        fn a_whole_cycle_has_each_source_as_often_as_it_weighs(weights in prop::collection::vec(0.05..1.0f64, 1..6), seed: u64) {
            let weights = Weights::new(&weights).unwrap();
            let cycle = Cycle::new(seed, &weights);
            let length: u32 = weights.turns().iter().sum();
            for (source, &turns) in (0u32..).zip(weights.turns()) {
                let had = (0..u64::from(length)).filter(|&index| cycle.turn(0, 1, index).0 == source).count();
                prop_assert_eq!(had, turns as usize);
            }
        }
    }

    #[test]
    fn a_step_over_many_lanes_has_the_sources_in_proportion() {
        let cycle = Cycle::new(7, &Weights::new(&[3.0, 1.0]).unwrap());
        for index in 0..100 {
            let of_first = (0..64).filter(|&lane| cycle.turn(lane, 64, index).0 == 0).count();
            assert_eq!(of_first, 48);
        }
    }
}
