//! How long a plan takes for a large cluster.

use std::time::{Duration, Instant};

use cappa_core::{Command, Core, Incarnation, JobId, Link, Report, Submission, Time, WorkerId, WorkerReport};

use crate::yard::{TIMINGS, ask};

const WORKERS: u64 = 10_000;
const JOBS: u64 = 1_000;

/// Without optimisation everything takes longer; `cargo test --release` holds the plan to its bound.
const BOUND: Duration = if cfg!(debug_assertions) { Duration::from_millis(500) } else { Duration::from_millis(10) };

#[test]
fn ten_thousand_workers_and_a_thousand_waiting_jobs_are_planned_in_time() {
    let start = Time(1_000_000);
    let mut core = Core::recover(TIMINGS, start, []);
    for n in 0..WORKERS {
        let (worker, link) = (WorkerId::from(format!("worker-{n:05}")), Link(n));
        let (incarnation, host) = (Incarnation::from(n.to_string()), format!("host-{}", n / 8));
        let report = Report::Hello { incarnation, host, store_address: format!("{n}:1"), holding: None };
        core.perform(start, &Command::Worker(WorkerReport { worker, link, report })).unwrap();
    }
    let now = start + Duration::from_secs(2);
    for n in 0..JOBS {
        let submission = Submission { namespace: format!("team-{}", n % 20), priority: (n % 3) as i32, ..ask(64, 64) };
        let job = JobId::from(format!("job-{n:04}"));
        core.perform(start, &Command::Submit { job, submission }).unwrap();
    }
    // A few start, so that most workers are members, and most jobs wait behind the head.
    let events = core.decide(now, &Command::Review).unwrap();
    events.iter().for_each(|event| core.apply(event));
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let started = Instant::now();
            let plan = core.plan(now);
            assert_eq!(plan.waits.len() + core.state().live_jobs().filter(|job| job.group().is_some()).count(), 1_000);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("median plan: {:?}", times[4]);
    assert!(times[4] < BOUND, "{times:?}");
}
