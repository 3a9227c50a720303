//! Groups that begin from an older checkpoint than they were told to.

use cappa_core::{
    CHECKPOINT_DAMAGED, Change, Command, Failure, Generation, Holding, JobId, Report, Stage, Step, Work, log_violations,
};

use crate::bench::Bench;

fn job() -> JobId {
    JobId::from("demo")
}

fn pin(bench: &mut Bench, step: u64) {
    let reason = "good".to_owned();
    bench.perform(Command::PinCheckpoint { job: job(), step: Step(step), reason }).unwrap();
}

/// A job with checkpoints of steps 10 and 30, whose second group is to begin from the newer one: nobody holds its state any more.
fn restoring() -> Bench {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    bench.checkpoint("demo", 10);
    pin(&mut bench, 10);
    bench.checkpoint("demo", 30);
    for worker in 1..=2 {
        let failure = Failure { code: "COLLECTIVE_FAILED".into(), message: "a peer is gone".into(), permanent: false };
        let (generation, failure) = (Generation(1), Some(failure));
        bench.say(worker, Report::Left { job: job(), generation, step: Step(0), has_state: false, failure });
    }
    let group = bench.job("demo").group().unwrap();
    assert_eq!((group.generation, group.step, bench.kept("demo")), (Generation(2), Step(30), vec![10, 30]));
    bench
}

/// The worker leaves its group with the state of this step, because newer checkpoints are damaged.
fn falls_back(bench: &mut Bench, worker: u64, step: u64) {
    let message = "damaged: checkpoints/000000000030/MANIFEST.json".to_owned();
    let failure = Some(Failure { code: CHECKPOINT_DAMAGED.to_owned(), message, permanent: false });
    bench.say(
        worker,
        Report::Left { job: job(), generation: Generation(2), step: Step(step), has_state: true, failure },
    );
}

#[test]
fn a_job_goes_back_with_a_group_that_found_the_newest_checkpoint_damaged() {
    let mut bench = restoring();
    falls_back(&mut bench, 1, 10);
    assert_eq!(bench.kept("demo"), [10], "nobody counts on the damaged one any more");
    let cause = bench.log.iter().rev().find_map(|record| match &record.change {
        Change::GroupBroken { cause, step, .. } => Some((cause.to_string(), *step)),
        _ => None,
    });
    let told = "damaged: checkpoints/000000000030/MANIFEST.json".to_owned();
    assert_eq!(cause, Some((told, Step(10))), "that is nobody's fault");
    falls_back(&mut bench, 2, 10);
    let group = bench.job("demo").group().unwrap();
    assert_eq!((group.generation, group.step), (Generation(3), Step(10)));
    assert!(group.members.iter().all(|member| !member.has_state), "{group:?}");

    bench.enter("demo", &[1, 2]);
    let abandon = bench.core.outstanding(bench.now).find(|work| matches!(work, Work::Abandon { .. }));
    assert_eq!(abandon, Some(Work::Abandon { job: job(), after: Step(10), through: Generation(2) }));
    bench.perform(Command::BranchAbandoned { job: job(), through: Generation(2) }).unwrap();
    bench.checkpoint("demo", 20);
    assert_eq!(bench.kept("demo"), [10, 20], "what is made on the way counts");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_pin_does_not_keep_what_is_damaged() {
    let mut bench = restoring();
    pin(&mut bench, 30);
    falls_back(&mut bench, 2, 10);
    assert_eq!(bench.kept("demo"), [10]);
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn only_a_fallback_to_a_checkpoint_that_is_kept_takes_a_job_back() {
    for step in [30, 15] {
        let mut bench = restoring();
        falls_back(&mut bench, 1, step);
        assert_eq!(bench.kept("demo"), [10, 30], "from step {step}");
    }
}

#[test]
fn a_group_that_began_from_an_older_checkpoint_runs_once_it_is_past_the_damaged_one() {
    let mut bench = restoring();
    let generation = Generation(2);
    for worker in 1..=2 {
        let held = Holding { job: job(), generation, step: Step(11), has_state: true, stepping: true };
        bench.connect(worker, Some(held));
    }
    bench.wait(0.3, &[1, 2]);
    assert!(matches!(bench.job("demo").group().unwrap().stage, Stage::Forming));
    for worker in 1..=2 {
        bench.say(worker, Report::Heartbeat { at: Some((job(), generation, Step(31))), pace: None });
    }
    assert!(matches!(bench.job("demo").group().unwrap().stage, Stage::Running { .. }));
}
