//! Pinned checkpoints, and jobs that go back to one.

use cappa_core::{
    Change, Command, Core, Generation, JobId, Outcome, Record, Refusal, Report, Step, Work, log_violations,
};

use crate::bench::{Bench, TIMINGS};

/// A job with two workers and checkpoints at these steps; retention keeps one.
fn with_checkpoints(steps: &[u64]) -> Bench {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    steps.iter().for_each(|step| bench.checkpoint("demo", *step));
    bench
}

fn job() -> JobId {
    JobId::from("demo")
}

fn pin(step: u64) -> Command {
    Command::PinCheckpoint { job: job(), step: Step(step), reason: "good".to_owned() }
}

fn unpin(step: u64) -> Command {
    Command::UnpinCheckpoint { job: job(), step: Step(step), reason: "done with it".to_owned() }
}

fn roll_back(step: u64) -> Command {
    Command::RollBack { job: job(), step: Step(step), reason: "diverged".to_owned() }
}

/// What the store is to do, done at once.
fn tidy(bench: &mut Bench) {
    loop {
        let work = bench.core.outstanding(bench.now).find(|work| work.in_store().is_some());
        let done = match work {
            Some(Work::DeleteCheckpoint { job, step, generation }) => {
                Command::CheckpointDeleted { job, step, generation }
            }
            Some(Work::Abandon { job, through, .. }) => Command::BranchAbandoned { job, through },
            Some(Work::CommitManifest { job, step, generation }) => {
                Command::ManifestCommitted { job, step, generation }
            }
            _ => return,
        };
        bench.perform(done).unwrap();
    }
}

#[test]
fn a_pinned_checkpoint_outlives_retention_and_a_restart_until_it_is_unpinned() {
    let mut bench = with_checkpoints(&[10]);
    bench.perform(pin(10)).unwrap();
    bench.checkpoint("demo", 20);
    bench.core = Core::recover(TIMINGS, bench.now, &bench.log);
    for worker in 1..=2 {
        let holding = Some(cappa_core::Holding {
            job: job(),
            generation: Generation(1),
            step: Step(20),
            has_state: true,
            stepping: true,
        });
        bench.connect(worker, holding);
    }
    bench.checkpoint("demo", 30);
    assert_eq!(bench.kept("demo"), [10, 30], "one is kept besides the pinned one");
    bench.perform(unpin(10)).unwrap();
    assert_eq!(bench.kept("demo"), [30], "retention takes it at once");
    assert_eq!(log_violations(&bench.log), []);
    let unknown = Refusal::UnknownCheckpoint { job: job(), step: Step(10), kept: vec![Step(30)] };
    assert_eq!(bench.perform(pin(10)), Err(unknown));
}

#[test]
fn a_running_job_that_goes_back_forms_anew_from_the_checkpoint_and_from_nobodys_memory() {
    let mut bench = with_checkpoints(&[10]);
    bench.perform(pin(10)).unwrap();
    bench.checkpoint("demo", 20);
    bench.checkpoint("demo", 30);
    bench.perform(roll_back(10)).unwrap();
    assert_eq!(bench.kept("demo"), [10]);
    let aborts = bench.core.outstanding(bench.now).filter(|work| matches!(work, Work::Abort { .. })).count();
    assert_eq!(aborts, 2, "its members leave");
    bench.leave(1, "demo", 37);
    bench.leave(2, "demo", 37);
    let group = bench.job("demo").group().unwrap();
    assert_eq!((group.generation, group.step), (Generation(2), Step(10)));
    assert!(group.members.iter().all(|member| !member.has_state), "{group:?}");
    assert_eq!(bench.job("demo").recoveries, 0, "it is no recovery");
    bench.enter("demo", &[1, 2]);
    tidy(&mut bench);
    bench.checkpoint("demo", 20);
    assert_eq!(bench.kept("demo"), [10, 20]);
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn nothing_is_committed_until_the_branch_that_was_given_up_is_out_of_the_way() {
    let mut bench = with_checkpoints(&[10]);
    bench.perform(roll_back(10)).unwrap();
    bench.leave(1, "demo", 12);
    let is_abandoned =
        |bench: &Bench| bench.core.outstanding(bench.now).any(|work| matches!(work, Work::Abandon { .. }));
    assert!(!is_abandoned(&bench), "a member of the old group may still read it");
    bench.leave(2, "demo", 12);
    bench.enter("demo", &[1, 2]);
    bench.write("demo", 20);
    assert!(is_abandoned(&bench));
    assert!(!bench.core.outstanding(bench.now).any(|work| matches!(work, Work::CommitManifest { .. })));
    tidy(&mut bench);
    assert_eq!(bench.kept("demo"), [20]);
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn what_the_old_group_still_reports_after_a_rollback_means_nothing() {
    let mut bench = with_checkpoints(&[10]);
    bench.write("demo", 20);
    assert_eq!(bench.perform(roll_back(10)), Err(Refusal::StillCommitting(job())));
    tidy(&mut bench);
    bench.perform(pin(20)).unwrap();
    bench.perform(unpin(20)).unwrap();
    assert_eq!(bench.kept("demo"), [20]);
    bench.perform(roll_back(20)).unwrap();
    let generation = Generation(1);
    for worker in 1..=2 {
        let (outcome, step) = (Outcome::Finished, Step(100));
        bench.say(worker, Report::Completed { job: job(), generation, step, outcome, summary: None });
    }
    assert!(!bench.job("demo").has_ended(), "the steps that it says it has made are given up");
    let group = bench.job("demo").group().unwrap();
    assert_eq!((group.generation, group.step), (Generation(2), Step(20)));
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_job_does_not_go_back_beyond_a_pinned_checkpoint_nor_after_success() {
    let mut bench = with_checkpoints(&[10]);
    bench.perform(pin(10)).unwrap();
    bench.checkpoint("demo", 20);
    bench.perform(pin(20)).unwrap();
    assert_eq!(bench.perform(roll_back(10)), Err(Refusal::Pinned { job: job(), step: Step(20) }));
    assert_eq!(bench.kept("demo"), [10, 20]);
    bench.checkpoint("demo", 100);
    for worker in 1..=2 {
        let (generation, outcome, step) = (Generation(1), Outcome::Finished, Step(100));
        bench.say(worker, Report::Completed { job: job(), generation, step, outcome, summary: None });
    }
    assert!(bench.job("demo").has_ended());
    assert_eq!(bench.perform(roll_back(20)), Err(Refusal::Ended(job())));
}

#[test]
fn a_cancelled_job_goes_back_and_is_requeued_from_there() {
    let mut bench = with_checkpoints(&[10]);
    bench.perform(pin(10)).unwrap();
    bench.checkpoint("demo", 20);
    bench.perform(Command::Cancel { job: job(), reason: "test".to_owned() }).unwrap();
    bench.perform(roll_back(10)).unwrap();
    bench.leave(1, "demo", 25);
    bench.leave(2, "demo", 25);
    bench.perform(Command::Requeue { job: job(), reason: "test".to_owned() }).unwrap();
    let formed = bench.log.iter().rev().find_map(|record| match &record.change {
        Change::GroupFormed { step, .. } => Some(*step),
        _ => None,
    });
    assert_eq!(formed, Some(Step(10)));
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_job_that_is_back_at_a_checkpoint_does_not_go_back_to_it_again() {
    let mut bench = with_checkpoints(&[10]);
    bench.perform(roll_back(10)).unwrap();
    let logged = bench.log.len();
    bench.perform(roll_back(10)).unwrap();
    assert_eq!(bench.log.len(), logged);
    (1..=2).for_each(|worker| bench.leave(worker, "demo", 15));
    tidy(&mut bench);
    bench.enter("demo", &[1, 2]);
    assert!(bench.job("demo").generation == Generation(2) && bench.job("demo").abandoned.is_none());
    bench.perform(roll_back(10)).unwrap();
    assert!(bench.job("demo").abandoned.is_some(), "the next group may have made something");
}

#[test]
fn a_job_whose_restored_log_has_checkpoints_of_later_groups_gives_those_up_as_well() {
    let mut bench = with_checkpoints(&[10]);
    let (step, generation) = (Step(20), Generation(4));
    let written = Change::CheckpointWritten { step, generation, ranks: Vec::new() };
    for change in [written, Change::CheckpointCommitted { step, generation }] {
        bench.log.push(Record { at: bench.now, job: Some(job()), change });
    }
    bench.core = Core::recover(TIMINGS, bench.now, &bench.log);
    bench.perform(roll_back(10)).unwrap();
    assert!(
        bench.log.iter().any(|record| matches!(record.change, Change::RolledBack { generation: Generation(4), .. }))
    );
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.wait(0.1, &[1, 2]);
    assert_eq!(bench.job("demo").generation, Generation(5), "no generation is used twice");
}
