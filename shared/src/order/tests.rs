use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn order(counts: &[u32], seed: u64, lanes: u32, window: u32) -> SampleOrder {
    SampleOrder::new(counts.to_vec(), seed, lanes, window).unwrap()
}

/// All slots of a step, gathered rank by rank.
fn step(order: &SampleOrder, batch_size: u64, step: u64, world_size: u32) -> Vec<Slot> {
    let steps = order.steps(batch_size).unwrap();
    let position = steps.position(Step(step));
    let epoch = order.epoch(position.epoch);
    (0..world_size)
        .flat_map(|rank| {
            steps.batch(&epoch, position, lanes_of_rank(Rank(rank), world_size, order.lanes())).collect::<Vec<_>>()
        })
        .collect()
}

fn corpora() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![Just(0u32), 1u32..4, 1u32..60], 1..40)
        .prop_filter("a corpus has a sample", |counts| counts.iter().any(|&count| count > 0))
}

proptest! {
    #[test]
    fn every_sample_comes_once_per_epoch(
        counts in corpora(), seed: u64, lanes in 1u32..70, window in 1u32..9, per_lane in 1u64..6, epoch in 0u64..4,
    ) {
        let order = order(&counts, seed, lanes, window);
        let batch_size = per_lane * u64::from(lanes);
        let steps = order.steps(batch_size).unwrap();
        let mut seen = HashSet::new();
        let mut numbers = HashSet::new();
        for offset in 0..steps.per_epoch() {
            for slot in step(&order, batch_size, epoch * steps.per_epoch() + offset, 1) {
                prop_assert!(numbers.insert(slot.number), "slot numbers key the draws and must be unique");
                if let Some(sample) = slot.sample {
                    prop_assert!(sample.index < counts[sample.shard as usize]);
                    prop_assert!(seen.insert(sample), "{sample:?} came twice");
                }
            }
        }
        prop_assert_eq!(seen.len() as u64, order.total_samples());
    }

    #[test]
    fn a_step_has_the_same_slots_for_every_world_size(
        counts in corpora(), seed: u64, lanes in 1u32..70, per_lane in 1u64..4, at in 0u64..200, world_size in 1u32..80,
    ) {
        let order = order(&counts, seed, lanes, 3);
        let batch_size = per_lane * u64::from(lanes);
        let whole = step(&order, batch_size, at, 1);
        prop_assert_eq!(whole.len() as u64, batch_size);
        prop_assert_eq!(step(&order, batch_size, at, world_size), whole);
    }

    #[test]
    fn null_slots_are_the_last_of_their_lane(counts in corpora(), seed: u64, lanes in 1u32..70) {
        let order = order(&counts, seed, lanes, 4);
        let epoch = order.epoch(0);
        for lane in 0..lanes {
            let samples = (0..order.slots_per_lane()).filter(|&index| epoch.slot(lane, index).sample.is_some()).count();
            prop_assert!(samples as u64 + 1 >= order.slots_per_lane(), "a lane has at most one null slot");
            prop_assert!((0..samples as u64).all(|index| epoch.slot(lane, index).sample.is_some()));
        }
    }

    #[test]
    fn windows_tile_a_lane_and_name_the_shards_of_its_samples(
        counts in corpora(), seed: u64, lanes in 1u32..20, window_shards in 1u32..9,
    ) {
        let order = order(&counts, seed, lanes, window_shards);
        let epoch = order.epoch(1);
        for lane in 0..lanes {
            let mut index = 0;
            while let Some(window) = epoch.window(lane, index) {
                prop_assert_eq!(window.slots.start, index);
                prop_assert!(window.shards.len() <= window_shards as usize);
                let used: HashSet<u32> =
                    window.slots.clone().map(|slot| epoch.slot(lane, slot).sample.unwrap().shard).collect();
                prop_assert_eq!(used, window.shards.iter().copied().collect::<HashSet<_>>());
                index = window.slots.end;
            }
            prop_assert!(epoch.slot(lane, index).sample.is_none());
        }
    }

    #[test]
    fn lanes_are_divided_whole_contiguous_and_evenly(lanes in 1u32..200, world_size in 1u32..300) {
        let mut next = 0;
        let mut sizes = HashSet::new();
        for rank in 0..world_size {
            let range = lanes_of_rank(Rank(rank), world_size, lanes);
            prop_assert_eq!(range.start, next);
            sizes.insert(range.len());
            next = range.end;
        }
        prop_assert_eq!(next, lanes);
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
    }
}

#[test]
fn epochs_and_seeds_give_different_orders() {
    let counts = [50; 20];
    let first = |seed, epoch| order(&counts, seed, 4, 5).epoch(epoch).slot(0, 0).sample;
    let starts: HashSet<_> = (0..20).flat_map(|seed| (0..20).map(move |epoch| first(seed, epoch))).collect();
    assert!(starts.len() > 250, "{} distinct first samples of 400 orders over 1,000 samples", starts.len());
}

/// Computed by a second implementation, in Python, from the description above.
#[test]
fn the_order_stays_the_same_across_versions() {
    let order = order(&[3, 0, 7, 2, 5], 42, 2, 2);
    let lane = |lane| -> Vec<(u32, u32)> {
        (0..order.slots_per_lane())
            .filter_map(|index| order.epoch(1).slot(lane, index).sample)
            .map(|sample| (sample.shard, sample.index))
            .collect()
    };
    assert_eq!(lane(0), [(4, 2), (4, 3), (3, 1), (4, 4), (4, 1), (3, 0), (4, 0), (0, 1), (0, 0)]);
    assert_eq!(lane(1), [(0, 2), (2, 0), (2, 2), (2, 1), (2, 6), (2, 3), (2, 4), (2, 5)]);
}

#[test]
fn impossible_orders_are_refused() {
    assert_eq!(SampleOrder::new(vec![0, 0], 1, 1, 1), Err(OrderError::NoSamples));
    assert_eq!(SampleOrder::new(vec![1], 1, 0, 1), Err(OrderError::NoLanes));
    assert_eq!(SampleOrder::new(vec![1], 1, 1, 0), Err(OrderError::NoWindow));
    let order = order(&[100], 1, 64, 1);
    assert_eq!(order.steps(65), Err(OrderError::BatchNotDivisible { batch_size: 65, lanes: 64 }));
    assert_eq!(order.steps(0), Err(OrderError::BatchNotDivisible { batch_size: 0, lanes: 64 }));
}

/// A billion samples in 10⁵ shards; the bound on time is loose because machines are shared.
#[test]
fn any_slot_of_a_large_corpus_is_found_at_once() {
    let order = order(&[10_000; 100_000], 5, 64, 16);
    let epoch = order.epoch(9);
    let begin = std::time::Instant::now();
    for index in 0..1000 {
        assert!(epoch.slot(63, index * 15_000).sample.is_some());
    }
    assert!(begin.elapsed().as_secs_f64() < 1.0, "1,000 slots took {:?}", begin.elapsed());
}
