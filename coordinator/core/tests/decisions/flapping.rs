//! Workers that are lost again and again, that someone keeps out of groups, and that are asked to end.

use std::time::Duration;

use cappa_core::{
    BreakCause, Change, Command, Core, Flapping, Generation, Incarnation, JobId, Link, Policy, Refusal, Report, Work,
    log_violations,
};

use crate::bench::{Bench, TIMINGS, name};

/// Rules under which the third loss is one too many.
fn strict() -> Policy {
    let flapping = Flapping { losses: 3, within: Duration::from_secs(600), cool_down: Duration::from_secs(60) };
    Policy { flapping, reshape_every: Duration::from_secs(1), ..Policy::default() }
}

/// A job with two workers, of which the second loses its stream so many times and comes back each time, in time to be
/// taken in again by the group that the first carries on.
fn flaps(times: u32) -> Bench {
    let mut bench = Bench::new();
    bench.core = bench.core.with_policy(strict());
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 1, 2);
    bench.wait(11.0, &[1, 2]); // the grace period of the start
    for _ in 0..times {
        bench.enter("demo", &[1, 2]);
        lose(&mut bench, 2);
        let step = bench.holding(1).unwrap().step.0;
        bench.leave(1, "demo", step);
        bench.enter("demo", &[1]);
        bench.connect(2, None);
        while !bench.job("demo").group().unwrap().is_breaking() {
            bench.wait(0.1, &[1, 2]);
        }
        bench.leave(1, "demo", step + 1);
    }
    bench
}

fn lose(bench: &mut Bench, worker: u64) {
    bench.perform(Command::Disconnected { worker: name(worker), link: Link(worker) }).unwrap();
}

fn reason(bench: &Bench, worker: u64) -> Option<String> {
    bench.core.state().flaps().quarantine(&name(worker)).map(|quarantine| quarantine.reason.clone())
}

#[test]
fn a_worker_that_is_lost_too_often_is_put_into_no_group_until_it_has_cooled_down() {
    let bench = flaps(2);
    assert_eq!((reason(&bench, 2), bench.world_size("demo")), (None, 2), "twice may happen");

    let mut bench = flaps(2);
    bench.enter("demo", &[1, 2]);
    lose(&mut bench, 2);
    assert_eq!(reason(&bench, 2).as_deref(), Some("lost 3 times within 10 min"));
    bench.connect(2, None);
    bench.leave(1, "demo", 9);
    bench.enter("demo", &[1]);
    bench.wait(58.0, &[1, 2]);
    assert_eq!(bench.world_size("demo"), 1, "it is connected and idle, and not taken");
    assert_eq!(bench.core.workers_free(bench.now), (0, 1));

    let recovered = Core::recover(TIMINGS, bench.now, &bench.log);
    assert!(recovered.state().flaps().quarantine(&name(2)).is_some(), "a restart does not forget it");
    bench.wait(5.0, &[1, 2]);
    assert_eq!(reason(&bench, 2), None);
    assert!(bench.job("demo").group().unwrap().is_breaking(), "the group takes it in again");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_quarantined_worker_is_released_by_hand_with_a_clean_record() {
    let mut bench = flaps(2);
    bench.enter("demo", &[1, 2]);
    lose(&mut bench, 2);
    assert!(reason(&bench, 2).is_some());
    let release = || Command::ReleaseWorker { worker: name(2), reason: "cable replaced".to_owned() };
    bench.perform(release()).unwrap();
    assert_eq!(reason(&bench, 2), None);
    assert_eq!(bench.perform(release()), Err(Refusal::NotQuarantined(name(2))));
    bench.wait(1.0, &[1]);
    assert_eq!(reason(&bench, 2), None, "its earlier losses are forgotten");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_worker_that_ends_on_purpose_is_never_held_to_be_lost() {
    let mut bench = Bench::new();
    bench.core = bench.core.with_policy(strict());
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 1, 2);
    bench.wait(11.0, &[1, 2]);
    bench.enter("demo", &[1, 2]);
    bench.say(2, Report::Goodbye { reason: "pre-emption notice".to_owned() });
    // Its time is up before its group has checkpointed.
    lose(&mut bench, 2);
    let broken = bench.log.iter().rev().find_map(|record| match &record.change {
        Change::GroupBroken { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    let departure = BreakCause::Departure { worker: name(2), reason: "pre-emption notice".to_owned() };
    assert_eq!(broken, Some(departure));
    let job = bench.job("demo");
    assert_eq!((job.recoveries, job.fruitless), (0, 0), "nor is it held against the job");
}

#[test]
fn a_worker_that_someone_has_end_is_told_until_it_says_goodbye() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    let drain = || Command::DrainWorker { worker: name(1), reason: "maintenance".to_owned() };
    bench.perform(drain()).unwrap();
    let told = |bench: &Bench| bench.core.outstanding(bench.now).any(|work| matches!(work, Work::Drain { .. }));
    assert!(told(&bench));
    bench.submit("demo", 0, 1, 1);
    bench.wait(2.0, &[1]);
    assert!(!bench.is_active("demo"), "it gets no job any more");
    bench.say(1, Report::Goodbye { reason: "maintenance".to_owned() });
    assert!(!told(&bench));
    let nobody = Command::DrainWorker { worker: name(7), reason: String::new() };
    assert_eq!(bench.perform(nobody), Err(Refusal::UnknownWorker(name(7))));
}

#[test]
fn a_cordoned_worker_gets_no_place_until_it_is_released() {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    let cordon = || Command::CordonWorker { worker: name(2), reason: "new disk".to_owned() };
    bench.perform(cordon()).unwrap();
    let logged = bench.log.len();
    bench.perform(cordon()).unwrap();
    assert_eq!(bench.log.len(), logged, "once is enough");
    bench.submit("demo", 0, 1, 2);
    bench.wait(60.0, &[1, 2]);
    assert_eq!(bench.world_size("demo"), 1);
    bench.enter("demo", &[1]);

    let held = bench.holding(1);
    bench.core = Core::recover(TIMINGS, bench.now, &bench.log);
    assert_eq!(reason(&bench, 2).as_deref(), Some("new disk"), "a restart does not forget it");
    bench.connect(1, held);
    bench.connect(2, None);
    bench.wait(600.0, &[1, 2]);
    assert_eq!((reason(&bench, 2).is_some(), bench.world_size("demo")), (true, 1), "nor does time");

    bench.perform(Command::ReleaseWorker { worker: name(2), reason: "replaced".to_owned() }).unwrap();
    bench.submit("other", 0, 1, 1);
    bench.wait(2.0, &[1, 2]);
    assert_eq!(bench.world_size("other"), 1);
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn who_trains_when_it_is_cordoned_goes_on_until_its_group_forms_anew() {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 1, 2);
    bench.wait(11.0, &[1, 2]);
    bench.enter("demo", &[1, 2]);
    bench.perform(Command::CordonWorker { worker: name(2), reason: "test".to_owned() }).unwrap();
    bench.wait(60.0, &[1, 2]);
    assert!(bench.is_active("demo") && bench.world_size("demo") == 2);
    let step = bench.holding(1).unwrap().step.0;
    bench.say(1, Report::Goodbye { reason: "test".to_owned() });
    bench.leave(1, "demo", step);
    bench.leave(2, "demo", step + 1);
    bench.wait(1.0, &[2]);
    assert_eq!(bench.world_size("demo"), 1, "it holds what nobody else does: its steps are not lost");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_worker_that_is_to_end_hears_of_it_from_the_next_coordinator_as_well() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    bench.perform(Command::DrainWorker { worker: name(1), reason: "maintenance".to_owned() }).unwrap();
    let (now, log) = (bench.now, bench.log.clone());
    bench.core = Core::recover(TIMINGS, now, &log);
    let told = |bench: &Bench| bench.core.outstanding(bench.now).any(|work| matches!(work, Work::Drain { .. }));
    assert!(!told(&bench), "it has not come back yet");
    bench.connect(1, None);
    assert!(told(&bench));
    bench.perform(Command::Disconnected { worker: name(1), link: Link(1) }).unwrap();
    bench.wait(6.0, &[]);
    let (host, store_address) = ("host".to_owned(), "1:1".to_owned());
    let next = Incarnation::from("next");
    bench.say(1, Report::Hello { incarnation: next, host, store_address, holding: None });
    assert!(!told(&bench), "its next process may stay");
}

#[test]
fn what_most_of_a_group_suffers_at_once_is_held_against_nobody() {
    let mut bench = Bench::new();
    let flapping = Flapping { losses: 1, ..Flapping::default() };
    bench.core = bench.core.with_policy(Policy { flapping, ..Policy::default() });
    (1..=3).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 3, 3);
    bench.wait(11.0, &[1, 2, 3]);
    bench.enter("demo", &[1, 2, 3]);
    bench.wait(6.0, &[1]);
    let (job, generation) = (JobId::from("demo"), Generation(1));
    let lost = bench.log.iter().any(|record| {
        let Change::GroupBroken { cause: BreakCause::Lost { workers, .. }, .. } = &record.change else { return false };
        workers.len() == 2 && record.is_of(&job)
    });
    assert!(lost, "two of three of generation {generation} were silent");
    assert_eq!(bench.core.state().flaps().quarantined().count(), 0);
}
