use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::ids::Rank;
use crate::order::lanes_of_rank;

fn job(counts: &[Vec<u32>], weights: &[f64], seed: u64, lanes: u32, per_lane: u64) -> JobOrder {
    let weights = Weights::new(weights).unwrap();
    JobOrder::new(counts.to_vec(), &weights, seed, lanes, 3, per_lane * u64::from(lanes)).unwrap()
}

/// All slots of a step with the sources they came from, gathered rank by rank.
fn step(order: &JobOrder, at: u64, world_size: u32) -> Vec<(u32, Slot)> {
    let lanes = (0..world_size).flat_map(|rank| lanes_of_rank(Rank(rank), world_size, order.lanes()));
    let places = lanes.flat_map(|lane| order.places(Step(at), lane).collect::<Vec<_>>());
    places.map(|place| (place.source, order.slot(&order.epoch(place.source, place.epoch), place))).collect()
}

fn corpora() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![Just(0u32), 1u32..4, 1u32..30], 1..20)
        .prop_filter("a source has a sample for every lane", |counts| counts.iter().sum::<u32>() >= 8)
}

#[test]
fn a_source_alone_has_the_order_of_its_corpus() {
    let counts = vec![3, 0, 7, 2, 5];
    let whole = job(std::slice::from_ref(&counts), &[5.0], 42, 2, 3);
    let corpus = SampleOrder::new(counts, 42, 2, 3).unwrap();
    let steps = corpus.steps(6).unwrap();
    for at in 0..20 {
        let position = steps.position(Step(at));
        let slots: Vec<Slot> = steps.batch(&corpus.epoch(position.epoch), position, 0..2).collect();
        assert_eq!(step(&whole, at, 1).into_iter().map(|(_, slot)| slot).collect::<Vec<_>>(), slots);
    }
    assert_eq!(whole.draws(), corpus.draws());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Workers come and go as they like: generation after generation of another size, each of some steps.
    #[test]
    fn a_run_has_the_same_content_for_every_history_of_joins_and_losses(
        counts in prop::collection::vec(corpora(), 1..4), seed: u64, lanes in 1u32..9, per_lane in 1u64..4,
        history in prop::collection::vec((1u32..12, 1u64..9), 1..8),
    ) {
        let weights: Vec<f64> = (1..=counts.len()).map(|weight| weight as f64).collect();
        let order = job(&counts, &weights, seed, lanes, per_lane);
        let mut at = 0;
        for (world_size, steps) in history {
            for _ in 0..steps {
                prop_assert_eq!(step(&order, at, world_size), step(&order, at, 1));
                at += 1;
            }
        }
    }

    #[test]
    fn the_step_of_every_slot_is_known_beforehand(
        counts in prop::collection::vec(corpora(), 1..4), seed: u64, lanes in 1u32..9, per_lane in 1u64..4,
    ) {
        let weights: Vec<f64> = (1..=counts.len()).map(|weight| weight as f64).collect();
        let order = job(&counts, &weights, seed, lanes, per_lane);
        for at in (0..60).map(Step) {
            for lane in 0..lanes {
                let mut begun = vec![false; counts.len()];
                for place in order.places(at, lane) {
                    prop_assert_eq!(order.step_of(place), at, "{:?}", place);
                    // The epoch at the beginning of a step is that of the source's first slot in it.
                    if !std::mem::replace(&mut begun[place.source as usize], true) {
                        prop_assert_eq!(order.epoch_at(at, place.source, lane), place.epoch, "{:?}", place);
                    }
                }
            }
        }
    }

    #[test]
    fn every_source_of_a_mixture_has_its_samples_once_per_epoch(
        counts in prop::collection::vec(corpora(), 2..4), seed: u64, lanes in 1u32..9, per_lane in 1u64..4,
    ) {
        let weights: Vec<f64> = (1..=counts.len()).map(|weight| weight as f64).collect();
        let order = job(&counts, &weights, seed, lanes, per_lane);
        let (mut uses, mut numbers) = (HashMap::<_, HashSet<_>>::new(), HashSet::new());
        // Enough for every lane to have left two epochs of the largest source behind.
        let steps = 2 * 6 * (order.total_samples() / u64::from(lanes) + 8) / per_lane;
        for at in 0..steps {
            for (source, slot) in step(&order, at, 1) {
                prop_assert!(numbers.insert((slot.epoch, slot.number)), "slot numbers key the draws and must be unique");
                let sample = slot.sample.expect("a mixture has no null slots");
                let new = uses.entry((source, slot.epoch)).or_default().insert(sample);
                prop_assert!(new, "{sample:?} came twice in epoch {} of source {source}", slot.epoch);
            }
        }
        for (source, corpus) in (0u32..).zip(order.sources()) {
            for epoch in 0..2 {
                let used = uses.get(&(source, epoch)).map_or(0, HashSet::len);
                prop_assert_eq!(used as u64, corpus.total_samples(), "epoch {} of source {}", epoch, source);
            }
        }
    }
}

/// The numbers are what was computed when mixtures were new; they never change.
#[test]
fn the_order_of_a_mixture_stays_the_same_across_versions() {
    let order = job(&[vec![3, 0, 7], vec![2, 5]], &[2.0, 1.0], 42, 2, 3);
    let samples: Vec<_> = (0..3).flat_map(|at| step(&order, at, 1)).map(|(_, slot)| slot.sample.unwrap()).collect();
    let samples: Vec<(u32, u32)> = samples.into_iter().map(|sample| (sample.shard, sample.index)).collect();
    let expected = [
        [(4, 0), (2, 0), (2, 4), (2, 5), (0, 1), (4, 4)],
        [(4, 1), (2, 3), (2, 1), (0, 2), (0, 0), (4, 3)],
        [(3, 0), (2, 2), (0, 2), (2, 6), (2, 4), (4, 2)],
    ];
    assert_eq!(samples, expected.concat());
}

#[test]
fn impossible_mixtures_are_refused() {
    let new = |counts: Vec<Vec<u32>>, weights: &[f64]| {
        JobOrder::new(counts, &Weights::new(weights).unwrap(), 1, 4, 1, 8).map(drop)
    };
    assert_eq!(new(vec![], &[1.0]), Err(OrderError::Sources(0)));
    assert_eq!(new(vec![vec![9]], &[1.0, 1.0]), Err(OrderError::Sources(1)));
    let small = OrderError::SmallSource { place: 1, samples: 3, lanes: 4 };
    assert_eq!(new(vec![vec![9], vec![3]], &[1.0, 1.0]), Err(small));
    assert_eq!(new(vec![vec![0], vec![9]], &[1.0, 1.0]), Err(OrderError::NoSamples));
}
