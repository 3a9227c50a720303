use std::collections::HashSet;

use proptest::prelude::*;

use super::draw::mix;
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

/// A billion samples in 10⁶ shards; the bound on time has a margin, and is one of the median, because machines are shared.
#[test]
fn any_slot_of_a_billion_samples_is_found_within_a_millisecond_and_a_hundred_megabytes() {
    let order = SampleOrder::new(vec![1000; 1_000_000], 5, 64, 16).unwrap();
    let epoch = order.epoch(9);
    let mut took: Vec<_> = (0..10)
        .map(|hundred| {
            let begin = std::time::Instant::now();
            for index in 0..100 {
                assert!(epoch.slot(63, (hundred * 100 + index) * 15_000).sample.is_some());
            }
            begin.elapsed() / 100
        })
        .collect();
    took.sort();
    let each = took[5];
    println!("{each:?} a slot");
    assert!(each.as_secs_f64() < 1e-3, "a slot took {each:?}");
    // Two epochs are at hand where one ends.
    let bytes = order.bytes() + 2 * epoch.bytes();
    assert!(bytes < 100_000_000, "{bytes} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn every_sample_of_up_to_a_hundred_thousand_shards_comes_once_per_epoch(
        shards in 1usize..=100_000, seed: u64, lanes in 1u32..100, window in 1u32..20, epoch in 0u64..3,
    ) {
        let counts: Vec<u32> = (0..shards as u64).map(|shard| (mix(seed, shard) % 4) as u32).collect();
        prop_assume!(counts.iter().any(|&count| count > 0));
        let order = order(&counts, seed, lanes, window);
        let epoch = order.epoch(epoch);
        let mut used: Vec<u32> = vec![0; shards];
        let mut last = HashSet::new();
        for lane in 0..lanes {
            for sample in (0..order.slots_per_lane()).filter_map(|index| epoch.slot(lane, index).sample) {
                prop_assert!(sample.index < counts[sample.shard as usize]);
                used[sample.shard as usize] += 1;
                if counts[sample.shard as usize] > 1 {
                    prop_assert!(last.insert(sample), "{sample:?} came twice");
                }
            }
        }
        prop_assert_eq!(used, counts);
    }
}

/// How far apart in time neighbours in source order come, and how often they meet in a batch: the table of the module's text.
#[test]
fn larger_windows_shuffle_better_and_the_table_says_how_well() {
    let (shards, each, lanes, batch) = (1000u32, 100u32, 16u32, 256u64);
    let total = u64::from(shards * each);
    let quality = |window: u32| {
        let order = SampleOrder::new(vec![each; shards as usize], 11, lanes, window).unwrap();
        let epoch = order.epoch(0);
        let mut time = vec![0u64; total as usize];
        for lane in 0..lanes {
            for index in 0..order.slots_per_lane() {
                if let Some(sample) = epoch.slot(lane, index).sample {
                    time[(sample.shard * each + sample.index) as usize] = index * u64::from(lanes) + u64::from(lane);
                }
            }
        }
        neighbours(&time, batch)
    };
    let shuffle = Permutation::new(3, total);
    let full = neighbours(&(0..total).map(|sample| shuffle.apply(sample)).collect::<Vec<_>>(), batch);
    let windows = [1, 4, 8, 16, 64].map(|window| (window, quality(window)));
    for (window, (distance, meet)) in windows {
        println!("| {window} | {:.3} | {:.1} |", distance / full.0, meet / full.1);
    }
    assert!((full.0 - 1.0 / 3.0).abs() < 0.01, "{full:?}");
    assert!(windows.windows(2).all(|pair| pair[0].1.0 < pair[1].1.0 && pair[0].1.1 > pair[1].1.1), "{windows:?}");
    assert!(windows[4].1.0 > 0.9 * full.0, "64 of the 62 shards of a lane are nearly a full shuffle: {windows:?}");
}

/// Of samples that are neighbours in source order: their mean distance in time as a share of the epoch, and the share that meets
/// in a batch.
fn neighbours(time: &[u64], batch: u64) -> (f64, f64) {
    let pairs = time.len() as f64 - 1.0;
    let distance: u64 = time.windows(2).map(|pair| pair[0].abs_diff(pair[1])).sum();
    let meet = time.windows(2).filter(|pair| pair[0] / batch == pair[1] / batch).count();
    (distance as f64 / pairs / time.len() as f64, meet as f64 / pairs)
}
