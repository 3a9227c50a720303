//! What a group has done counts once it is saved.

use std::time::Duration;

use cappa_core::{
    Change, Command, Core, Ending, Generation, Holding, JobId, Link, Outcome, Phase, Rank, Report, Scheduling, Step,
    Time, Work, log_violations,
};

use crate::bench::{Bench, TIMINGS, name};

const LAST: u64 = 100;

/// Two workers that train a job of a hundred steps.
fn training() -> Bench {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    bench
}

fn complete(bench: &mut Bench, worker: u64, step: u64, outcome: Outcome) {
    let (job, step) = (JobId::from("demo"), Step(step));
    let generation = bench.job("demo").generation;
    bench.say(worker, Report::Completed { job, generation, step, outcome, summary: None });
}

fn commit(bench: &mut Bench, step: u64, generation: u64) {
    let (job, step, generation) = (JobId::from("demo"), Step(step), Generation(generation));
    bench.perform(Command::ManifestCommitted { job, step, generation }).unwrap();
}

fn is_committing(bench: &Bench) -> bool {
    bench.core.outstanding(bench.now).any(|work| matches!(work, Work::CommitManifest { .. }))
}

fn has_succeeded(bench: &Bench) -> bool {
    matches!(bench.job("demo").phase, Phase::Ended(Ending::Succeeded { step: Step(LAST), .. }))
}

/// Another process leads, which knows the log and no worker.
fn restart(bench: &mut Bench) {
    bench.core = Core::recover(TIMINGS, bench.now, &bench.log);
}

/// A worker that is out of the group comes back to it, with all that it has to tell.
fn come_back(bench: &mut Bench, worker: u64, rank: u32) {
    let (job, generation, step) = (JobId::from("demo"), Generation(1), Step(LAST));
    let holding = Holding { job: job.clone(), generation, step, has_state: true, stepping: true };
    bench.connect(worker, Some(holding));
    let parts = cappa_core::RankParts::default();
    let (rank, world_size) = (Rank(rank), 2);
    bench.say(worker, Report::PartsWritten { job, generation, step, rank, world_size, parts });
    complete(bench, worker, LAST, Outcome::Finished);
}

#[test]
fn a_job_is_over_once_the_checkpoint_of_its_last_step_is_committed_and_no_sooner() {
    let mut bench = training();
    bench.checkpoint("demo", 90);
    bench.write("demo", LAST);
    (1..=2).for_each(|worker| complete(&mut bench, worker, LAST, Outcome::Finished));
    bench.wait(300.0, &[1, 2]);
    assert_eq!((bench.is_active("demo"), bench.job("demo").unsaved()), (true, Some(Step(LAST))));
    assert!(is_committing(&bench) && bench.job("demo").depends_on(Step(LAST)), "it is not given up");
    bench.perform(Command::Disconnected { worker: name(1), link: Link(1) }).unwrap();
    bench.wait(20.0, &[2]);
    assert_eq!(bench.job("demo").generation, Generation(1), "who has written its part may go");
    commit(&mut bench, LAST, 1);
    assert!(has_succeeded(&bench));
    assert_eq!((bench.kept("demo"), log_violations(&bench.log)), (vec![LAST], vec![]));
}

#[test]
fn a_coordinator_that_takes_over_before_the_last_parts_are_told_waits_for_them() {
    let mut bench = training();
    // The first writes its part, which the next coordinator has to be told again.
    let (job, generation, step) = (JobId::from("demo"), Generation(1), Step(LAST));
    let report = |rank| Report::PartsWritten {
        job: job.clone(),
        generation,
        step,
        rank: Rank(rank),
        world_size: 2,
        parts: cappa_core::RankParts::default(),
    };
    bench.say(1, report(0));
    complete(&mut bench, 1, LAST, Outcome::Finished);
    restart(&mut bench);
    come_back(&mut bench, 2, 1);
    bench.wait(8.0, &[2]);
    assert!(bench.is_active("demo") && !is_committing(&bench));
    come_back(&mut bench, 1, 0);
    assert!(is_committing(&bench));
    commit(&mut bench, LAST, 1);
    assert!(has_succeeded(&bench));
}

#[test]
fn a_worker_that_is_lost_with_its_last_part_untold_costs_no_step() {
    let mut bench = training();
    bench.checkpoint("demo", 90);
    bench.write("demo", LAST);
    (1..=2).for_each(|worker| complete(&mut bench, worker, LAST, Outcome::Finished));
    // The append of that record was lost with its coordinator.
    let is_lost = |change: &Change| matches!(change, Change::CheckpointWritten { step: Step(LAST), .. });
    bench.log.retain(|record| !is_lost(&record.change));
    restart(&mut bench);
    come_back(&mut bench, 2, 1);
    bench.wait(11.0, &[2]);
    let group = bench.job("demo").group().expect("it is not over");
    assert_eq!((group.generation, group.step, group.members.len()), (Generation(2), Step(LAST), 1));
    bench.checkpoint("demo", LAST);
    complete(&mut bench, 2, LAST, Outcome::Finished);
    assert!(has_succeeded(&bench));
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_group_whose_last_checkpoint_came_to_nothing_forms_again_with_what_it_holds() {
    let mut bench = training();
    bench.checkpoint("demo", 30);
    bench.perform(Command::Pause { job: JobId::from("demo"), reason: "test".to_owned() }).unwrap();
    let (job, generation, step, error) = (JobId::from("demo"), Generation(1), Step(40), "the store is away".to_owned());
    bench.say(2, Report::CheckpointFailed { job, generation, step, rank: Rank(1), error });
    (1..=2).for_each(|worker| complete(&mut bench, worker, 40, Outcome::Stopped));
    let group = bench.job("demo").group().expect("it is not paused");
    assert_eq!((group.generation, group.step, group.completed.len()), (Generation(2), Step(40), 0));
    bench.enter("demo", &[1, 2]);
    bench.write("demo", 41);
    (1..=2).for_each(|worker| complete(&mut bench, worker, 41, Outcome::Stopped));
    assert!(bench.is_active("demo"));
    let (job, step, generation) = (JobId::from("demo"), Step(41), Generation(2));
    let error = "another manifest is there".to_owned();
    bench.perform(Command::ManifestFailed { job, step, generation, error }).unwrap();
    assert_eq!(bench.job("demo").generation, Generation(3), "likewise where the manifest can't be written");
    bench.enter("demo", &[1, 2]);
    bench.checkpoint("demo", 42);
    (1..=2).for_each(|worker| complete(&mut bench, worker, 42, Outcome::Stopped));
    assert!(matches!(bench.job("demo").phase, Phase::Paused { .. }));
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_group_that_has_made_no_step_needs_no_checkpoint() {
    let mut bench = training();
    (1..=2).for_each(|worker| complete(&mut bench, worker, 0, Outcome::Finished));
    assert!(bench.job("demo").has_ended());
}

#[test]
fn a_store_that_stays_away_is_waited_for_until_the_time_limit() {
    let mut bench = Bench::new();
    bench.connect(1, None);
    let time_limit = Some(Duration::from_secs(30));
    bench.submit_under(Scheduling { time_limit, ..Scheduling::default() }, "demo", 0, 1, 1);
    bench.enter("demo", &[1]);
    let begun = bench.now;
    bench.write("demo", LAST);
    complete(&mut bench, 1, LAST, Outcome::Finished);
    while bench.is_active("demo") {
        bench.wait(1.0, &[1]);
    }
    assert!(matches!(&bench.job("demo").phase, Phase::Ended(Ending::Failed { code, .. }) if code == "time_limit"));
    let waited: Duration = bench.now.since(begun);
    assert!(waited < Duration::from_secs(30) + TIMINGS.forming + Duration::from_secs(2), "{waited:?}");
    assert!(bench.now > Time(0) && is_committing(&bench), "the manifest may still come");
}
