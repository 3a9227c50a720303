//! The promises of the control plane, over thousands of schedules.

#![allow(clippy::unwrap_used, reason = "code of tests")]

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use cappa_sim::{Failure, Summary, Tamper, rendered, run};

/// Schedules of an ordinary run; `CAPPA_SCHEDULES` asks for more or fewer, `CAPPA_FIRST` for others.
const SCHEDULES: u64 = 10_000;

/// Corrupted decisions must be found within so many schedules.
const WITHIN: u64 = 400;

/// Names the corruption with which [`every_promise_is_kept_under_any_schedule`] is to fail.
const CORRUPTION: &str = "CAPPA_TAMPER";

/// A panic of the code under test is a finding, told with its seed. Schedules run on threads without names, tests on others.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panicked| {
            if std::thread::current().name().is_some() {
                tell(panicked);
            }
        }));
    });
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
    let tamper =
        std::env::var(CORRUPTION).ok().and_then(|name| Tamper::ALL.into_iter().find(|t| format!("{t:?}") == name));
    let tamper = tamper.unwrap_or_default();
    let (summary, failure) = search(asked("CAPPA_FIRST").unwrap_or(0), schedules, tamper);
    if let Some(Failure { seed, .. }) = failure {
        let log = std::thread::spawn(move || rendered(seed, tamper)).join().unwrap();
        panic!("schedule {seed} breaks a promise; see it again: cargo run -p cappa-sim --bin replay -- {seed}\n{log}");
    }
    println!("{schedules} schedules: {summary:?}");
    assert!(schedules < 1_000 || summary.losses.iter().all(|losses| *losses > 0), "{summary:?}");
    assert!(schedules < 1_000 || summary.waits.min(summary.damages) > schedules / 100, "{summary:?}");
    assert!(schedules < 1_000 || summary.rollbacks.min(summary.quarantines) > schedules / 20, "{summary:?}");
    assert!(schedules < 1_000 || summary.devices > schedules / 20, "{summary:?}");
    assert!(schedules < 1_000 || summary.refusals > schedules / 20, "{summary:?}");
    assert!(schedules < 1_000 || summary.yields.iter().all(|yields| *yields > schedules / 1_000), "{summary:?}");
    assert!(schedules < 1_000 || summary.loans > schedules / 100, "{summary:?}");
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
fn a_broken_promise_is_told_with_its_seed_and_step_by_step_in_the_tests_own_output() {
    let test = "every_promise_is_kept_under_any_schedule";
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test]).env(CORRUPTION, "RetiresNewest").env("CAPPA_SCHEDULES", WITHIN.to_string());
    let ended = again.env_remove("CAPPA_FIRST").env_remove("RUST_TEST_NOCAPTURE").output().unwrap();
    let told = String::from_utf8(ended.stdout).unwrap() + &String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && told.contains(&format!("test {test} ... FAILED")), "{told}");
    let (_, after) = told.split_once("cargo run -p cappa-sim --bin replay -- ").expect("it names the schedule");
    let (seed, log) = after.split_once('\n').unwrap();
    let expected = rendered(seed.parse().unwrap(), Tamper::RetiresNewest);
    assert!(log.starts_with(&expected), "the log as the schedule tells it: {told}");
    assert!(expected.lines().count() > 20 && expected.contains("CommittedStaysCommitted"), "{expected}");
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
