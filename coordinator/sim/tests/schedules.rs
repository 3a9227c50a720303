//! The promises of the control plane, over thousands of schedules.

#![allow(clippy::unwrap_used, reason = "code of tests")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use cappa_sim::{Failure, Summary, Tamper, run};

/// Schedules of an ordinary run; `CAPPA_SCHEDULES` asks for more or fewer, `CAPPA_FIRST` for others.
const SCHEDULES: u64 = 10_000;

/// Corrupted decisions must be found within so many schedules.
const WITHIN: u64 = 400;

fn quiet() {
    static ONCE: Once = Once::new();
    // A panic of the code under test is a finding, told with its seed.
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

/// Runs schedules on all cores until one breaks a promise.
fn search(first: u64, schedules: u64, tamper: Tamper) -> (Summary, Option<Failure>) {
    quiet();
    let (next, found) = (AtomicU64::new(first), Mutex::new((Summary::default(), None::<Failure>)));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + schedules || found.lock().unwrap().1.is_some() {
                        break;
                    }
                    let ran = run(seed, tamper, None);
                    let mut found = found.lock().unwrap();
                    match ran {
                        Ok(summary) => found.0 += summary,
                        Err(failure) => {
                            found.1.get_or_insert(failure);
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn every_promise_is_kept_under_any_schedule() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let schedules = asked("CAPPA_SCHEDULES").unwrap_or(SCHEDULES);
    let (summary, failure) = search(asked("CAPPA_FIRST").unwrap_or(0), schedules, Tamper::Nothing);
    if let Some(failure) = failure {
        let seed = failure.seed;
        println!("{failure}\nsee it step by step: cargo run -p cappa-sim --bin replay -- {seed}");
        std::process::exit(101);
    }
    println!("{schedules} schedules: {summary:?}");
    assert!(schedules < 1_000 || summary.losses.iter().all(|losses| *losses > 0), "{summary:?}");
    assert!(schedules < 1_000 || summary.rollbacks.min(summary.quarantines) > schedules / 20, "{summary:?}");
    assert!(summary.faults > 3 * schedules && summary.steps > 10 * schedules, "{summary:?}");
}

#[test]
fn every_corruption_of_the_cores_decisions_is_found() {
    let mut missed = Vec::new();
    for tamper in Tamper::ALL {
        match search(0, WITHIN, tamper).1 {
            Some(failure) => println!("{tamper:?}: {failure}"),
            None => missed.push(tamper),
        }
    }
    assert_eq!(missed, []);
}

#[test]
fn a_schedule_is_a_function_of_its_seed() {
    quiet();
    for seed in 0..5 {
        let told = |seed| {
            let mut lines = Vec::new();
            let mut tell = |line| lines.push(line);
            let ran = run(seed, Tamper::Nothing, Some(&mut tell));
            (format!("{ran:?}"), lines)
        };
        assert_eq!(told(seed), told(seed));
    }
}
