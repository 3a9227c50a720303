//! Single decisions, each named after what it promises.

#![allow(clippy::unwrap_used, reason = "code of tests")]

mod bench;
mod checks;
mod damaged;
mod devices;
mod flapping;
mod last_save;
mod limits;
mod looks;
mod refused;
mod replicas;
mod rollback;

use std::time::Duration;

use bench::{Bench, TIMINGS, name};
use cappa_core::{
    Change, Command, Core, EndsWhen, Generation, Holding, Incarnation, JobId, Link, Phase, Reason, Record, Refusal,
    Report, Step, Time, Wait, Work, WorkerReport,
};

#[test]
fn priority_comes_before_age() {
    let mut bench = Bench::new();
    bench.submit("old", 0, 1, 1);
    bench.wait(0.1, &[]);
    bench.submit("urgent", 5, 1, 1);
    bench.connect(1, None);
    assert!(bench.is_active("urgent") && !bench.is_active("old"));
    bench.connect(2, None);
    assert!(bench.is_active("old"));
}

#[test]
fn a_large_job_is_not_starved_by_small_ones() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.connect(2, None);
    bench.submit("running", 0, 1, 1);
    bench.submit("large", 0, 2, 2);
    bench.wait(0.1, &[1, 2]);
    bench.submit("small", 0, 1, 1);
    let (large, small) = (JobId::from("large"), JobId::from("small"));
    let waits = bench.core.plan(bench.now).waits;
    let reason = Reason::Workers { free: 1, needed: 2 };
    assert_eq!(waits[0], Wait { job: large.clone(), reason, ends_when: EndsWhen::WorkersFree { more: 1 } });
    let reason = Reason::Behind { head: large.clone() };
    assert_eq!(waits[1], Wait { job: small, reason, ends_when: EndsWhen::Starts(large) });
    // One that needs more workers than there are holds nobody back.
    bench.perform(Command::Cancel { job: JobId::from("large"), reason: String::new() }).unwrap();
    bench.submit("huge", 9, 3, 3);
    assert!(bench.is_active("small"));
}

#[test]
fn a_job_waits_a_moment_for_workers_that_are_still_arriving_and_grows_later() {
    let mut bench = Bench::new();
    bench.submit("demo", 0, 1, 3);
    bench.connect(1, None);
    bench.wait(0.5, &[1]);
    bench.connect(2, None);
    assert!(!bench.is_active("demo"));
    bench.wait(1.1, &[1, 2]);
    assert_eq!(bench.world_size("demo"), 2);
    bench.enter("demo", &[1, 2]);
    bench.connect(3, None);
    bench.wait(1.2, &[1, 2, 3]);
    let aborts = bench.core.outstanding(bench.now).filter(|work| matches!(work, Work::Abort { .. })).count();
    assert_eq!(aborts, 2, "the members leave so that the third can join");
}

#[test]
fn a_coordinator_that_stood_still_accuses_nobody() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.submit("demo", 0, 1, 1);
    bench.enter("demo", &[1]);
    bench.wait(1.0, &[1]);
    bench.now = bench.now + Duration::from_secs(30);
    bench.log.extend(bench.core.review(bench.now));
    assert_eq!(bench.log.iter().filter(|record| matches!(record.change, Change::GroupBroken { .. })).count(), 0);
    bench.wait(5.5, &[]);
    assert!(bench.log.iter().any(|record| matches!(record.change, Change::GroupBroken { .. })), "silence counts again");
}

#[test]
fn after_a_restart_members_have_the_grace_period_to_come_back() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.submit("demo", 0, 1, 1);
    bench.enter("demo", &[1]);
    bench.core = Core::recover(TIMINGS, bench.now, &bench.log);
    bench.wait(9.0, &[]);
    let (job, generation) = (JobId::from("demo"), Generation(1));
    bench.connect(1, Some(Holding { job, generation, step: Step(40), has_state: true, stepping: true }));
    bench.wait(6.0, &[1]);
    assert_eq!(bench.core.state().job(&JobId::from("demo")).unwrap().generation, Generation(1));
    assert_eq!(bench.core.outstanding(bench.now).count(), 0, "nothing is asked of a worker that goes on");
}

#[test]
fn a_worker_lost_soon_after_the_coordinator_started_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.connect(2, None);
    bench.wait(0.5, &[1, 2]);
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    bench.perform(Command::Disconnected { worker: name(1), link: Link(1) }).unwrap();
    let (job, generation) = (JobId::from("demo"), Generation(1));
    bench.say(2, Report::Left { job, generation, step: Step(1), has_state: true, failure: None });
    assert!(bench.now.since(Time(1_000_000)) < TIMINGS.grace, "within the grace period of the start");
    let generation = bench.core.state().job(&JobId::from("demo")).unwrap().generation;
    assert_eq!((generation, bench.world_size("demo")), (Generation(2), 1), "formed anew at once");
}

#[test]
fn a_job_that_has_nothing_to_save_yet_is_paused_at_once() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.submit("demo", 0, 1, 1);
    let pause = || Command::Pause { job: JobId::from("demo"), reason: "test".to_owned() };
    bench.perform(pause()).unwrap();
    assert!(matches!(bench.job("demo").phase, Phase::Paused { .. }), "it is still forming");
    bench.perform(Command::Resume { job: JobId::from("demo") }).unwrap();
    bench.wait(1.2, &[1]);
    bench.enter("demo", &[1]);
    bench.perform(pause()).unwrap();
    assert!(bench.is_active("demo"), "it checkpoints first");
    let told = bench.core.outstanding(bench.now).any(|work| matches!(work, Work::Stop { .. }));
    assert!(told);
}

#[test]
fn members_of_a_whole_group_hear_at_once_that_they_are_to_end() {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    bench.wait(1.0, &[1, 2]);
    assert_eq!(bench.core.outstanding(bench.now).count(), 0);
    bench.perform(Command::DrainWorker { worker: name(2), reason: "maintenance".to_owned() }).unwrap();
    bench.wait(1.0, &[1, 2]);
    let told: Vec<Work> = bench.core.outstanding(bench.now).collect();
    assert!(matches!(&told[..], [Work::Drain { worker, .. }] if *worker == name(2)), "{told:?}");
}

#[test]
fn replaying_the_log_gives_the_same_state() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.submit("demo", 0, 1, 1);
    bench.enter("demo", &[1]);
    bench.perform(Command::Pause { job: JobId::from("demo"), reason: "test".to_owned() }).unwrap();
    let text: Vec<String> = bench.log.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
    let read: Vec<Record> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let replayed = Core::recover(TIMINGS, bench.now, &read);
    assert_eq!(replayed.state(), bench.core.state());
}

#[test]
fn what_an_old_stream_still_delivers_means_nothing() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    let report = Report::Heartbeat { at: None, pace: None };
    let stale = WorkerReport { worker: name(1), link: Link(99), report };
    assert_eq!(bench.perform(Command::Worker(stale)), Err(Refusal::StaleLink));
    let end = Command::Disconnected { worker: name(1), link: Link(99) };
    assert_eq!(bench.perform(end), Err(Refusal::StaleLink));
}

#[test]
fn a_slow_hello_of_an_older_stream_does_not_shut_out_the_newer_one() {
    let mut bench = Bench::new();
    let hello = |link| {
        let report = Report::Hello {
            incarnation: Incarnation::from("1"),
            host: "host".to_owned(),
            store_address: "1:1".to_owned(),
            holding: None,
        };
        Command::Worker(WorkerReport { worker: name(1), link: Link(link), report })
    };
    bench.perform(hello(11)).unwrap();
    assert_eq!(bench.perform(hello(10)), Err(Refusal::StaleLink));
    let beat = WorkerReport { worker: name(1), link: Link(11), report: Report::Heartbeat { at: None, pace: None } };
    assert_eq!(bench.perform(Command::Worker(beat)), Ok(()));
}

#[test]
fn a_spare_worker_replaces_a_lost_one_in_the_next_group_at_once() {
    let mut bench = Bench::new();
    (1..=3).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    bench.perform(Command::Disconnected { worker: name(1), link: Link(1) }).unwrap();
    bench.wait(11.0, &[2, 3]);
    let (job, generation) = (JobId::from("demo"), Generation(1));
    bench.say(2, Report::Left { job, generation, step: Step(1), has_state: true, failure: None });
    let group = bench.core.state().job(&JobId::from("demo")).unwrap().group().unwrap();
    let members: Vec<_> = group.members.iter().map(|member| (&member.worker, member.has_state)).collect();
    assert_eq!(members, [(&name(2), true), (&name(3), false)]);
    assert_eq!(group.formed_at, bench.now, "with the survivor's answer, without a pause");
}

#[test]
fn who_holds_more_than_the_survivors_is_in_the_next_group_even_of_a_job_that_is_to_pause() {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 1, 2);
    bench.enter("demo", &[1, 2]);
    bench.wait(11.0, &[1]);
    let left = |generation, step| Report::Left {
        job: JobId::from("demo"),
        generation: Generation(generation),
        step: Step(step),
        has_state: true,
        failure: None,
    };
    bench.say(1, left(1, 1));
    assert_eq!(bench.world_size("demo"), 1, "the other was silent");
    bench.perform(Command::Pause { job: JobId::from("demo"), reason: "test".to_owned() }).unwrap();
    bench.say(2, left(1, 5));
    bench.say(1, left(2, 1));
    let group = bench.core.state().job(&JobId::from("demo")).unwrap().group().unwrap();
    assert_eq!((group.generation, group.step), (Generation(3), Step(5)));
}
