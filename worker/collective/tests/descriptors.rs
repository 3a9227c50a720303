//! What is left behind, in a process of its own: other tests open descriptors too.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
mod common;

use std::thread;
use std::time::{Duration, Instant};

use cappa_collective::{AbortHandle, Group, Op, Reducer, ReducerOptions, Store};
use common::{FLOAT, HOST, Net, examples, member, timeouts};
use tch::Tensor;

const LIMIT: Duration = Duration::from_secs(10);

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Every generation reduces once; all but every third end with an abort, which the peer meets in mid-step.
fn one_rank(store: &Store, rank: usize, generations: std::ops::Range<usize>) {
    tch::set_num_threads(1); // OpenMP keeps it for each thread
    let net = Net::new(1, 64, false);
    let (x, y) = examples(1, 4);
    for generation in generations {
        let prefix = store.prefix(&generation.to_string()).unwrap();
        let group = Group::gloo(&prefix, member(rank, 2), timeouts(LIMIT), &AbortHandle::new()).unwrap();
        let mut reducer = Reducer::new(&group, &net.params, ReducerOptions::default()).unwrap();
        let _loss = reducer.step(|| net.loss(&x, &y)).unwrap();
        if generation % 3 == 0 {
            group.barrier().unwrap();
        } else if generation % 2 == rank {
            group.abort();
        } else {
            assert!(group.all_reduce(&Tensor::zeros([1 << 16], FLOAT), Op::Sum).unwrap_err().is_group_lost());
        }
    }
}

#[test]
fn a_hundred_generations_leak_no_descriptors() {
    cappa_collective::init();
    let (store, _) = Store::serve(HOST, 0, LIMIT).unwrap();
    let run = |generations: std::ops::Range<usize>| {
        thread::scope(|scope| {
            for rank in 0..2 {
                let (store, generations) = (store.clone(), generations.clone());
                scope.spawn(move || one_rank(&store, rank, generations));
            }
        });
    };
    run(0..10);
    let usage = || (count("/proc/self/fd"), count("/proc/self/task"));
    thread::sleep(Duration::from_millis(200)); // aborted groups are freed in the background
    let early = usage();
    run(10..110);
    let began = Instant::now();
    let mut late = usage();
    while (late.0 > early.0 || late.1 > early.1) && began.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(50));
        late = usage();
    }
    assert!(late.0 <= early.0 && late.1 <= early.1, "descriptors and threads: {early:?}, then {late:?}");
    assert!(store.clear().unwrap() >= 110, "the keys of all generations");
}
