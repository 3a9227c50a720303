//! Workers whose devices fail, or whose parameters are not those of the others.

use cappa_core::{
    Change, Command, Core, Failure, Flapping, Incarnation, JobId, Link, Policy, Report, State, Step, log_violations,
};

use crate::bench::{Bench, TIMINGS, name};

const ECC: &str = "the device failed: CUDA error: uncorrectable ECC error encountered";

/// Workers from 1 on that train a job, under rules that suffer so many losses.
fn group_of(workers: u64, losses: u32) -> Bench {
    let mut bench = Bench::new();
    let flapping = Flapping { losses, ..Flapping::default() };
    bench.core = bench.core.with_policy(Policy { flapping, ..Policy::default() });
    let all: Vec<u64> = (1..=workers).collect();
    all.iter().for_each(|worker| bench.connect(*worker, None));
    bench.submit("demo", 0, 1, u32::try_from(workers).unwrap());
    bench.wait(11.0, &all);
    bench.enter("demo", &all);
    bench.wait(1.0, &all);
    bench
}

/// The worker leaves its group without state.
fn fail(bench: &mut Bench, worker: u64, code: &str, message: &str) {
    let failure = Some(Failure { code: code.to_owned(), message: message.to_owned(), permanent: false });
    let generation = bench.job("demo").generation;
    let job = JobId::from("demo");
    bench.say(worker, Report::Left { job, generation, step: Step(0), has_state: false, failure });
}

/// The worker's device fails: it says that it ends, why it left, and then it is gone.
fn lose_device(bench: &mut Bench, worker: u64) {
    bench.say(worker, Report::Goodbye { reason: ECC.to_owned() });
    fail(bench, worker, "DEVICE_FAILED", ECC);
    bench.perform(Command::Disconnected { worker: name(worker), link: Link(worker) }).unwrap();
}

/// Another process takes the worker's place.
fn restart(bench: &mut Bench, worker: u64, incarnation: u64) {
    let (host, store_address) = ("host".to_owned(), format!("{worker}:1"));
    let incarnation = Incarnation::from(format!("next-{incarnation}"));
    bench.say(worker, Report::Hello { incarnation, host, store_address, holding: None });
}

fn reason(state: &State, worker: u64) -> Option<String> {
    state.flaps().quarantine(&name(worker)).map(|quarantine| quarantine.reason.clone())
}

fn causes(bench: &Bench) -> Vec<String> {
    let broken = bench.log.iter().filter_map(|record| match &record.change {
        Change::GroupBroken { cause, .. } => Some(cause.to_string()),
        _ => None,
    });
    broken.collect()
}

#[test]
fn a_device_that_fails_costs_the_job_its_worker_and_no_step() {
    let mut bench = group_of(3, 4);
    lose_device(&mut bench, 2);
    bench.leave(1, "demo", 40);
    bench.leave(3, "demo", 40);
    assert_eq!(causes(&bench), [format!("rank 1 (worker-2) failed: DEVICE_FAILED: {ECC}")]);
    let group = bench.job("demo").group().expect("the job goes on");
    let members: Vec<_> = group.members.iter().map(|member| (member.worker.clone(), member.has_state)).collect();
    assert_eq!((members, group.step), (vec![(name(1), true), (name(3), true)], Step(40)));
    assert_eq!(reason(bench.core.state(), 2), None, "once may happen");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_worker_whose_device_fails_again_and_again_is_put_into_no_group_and_the_error_is_named() {
    let mut bench = group_of(2, 3);
    for time in 1..=3 {
        let step = bench.holding(1).unwrap().step.0;
        lose_device(&mut bench, 2);
        bench.leave(1, "demo", step);
        assert_eq!((bench.world_size("demo"), reason(bench.core.state(), 2).is_some()), (1, time == 3));
        bench.enter("demo", &[1]);
        restart(&mut bench, 2, time);
        if time == 3 {
            break;
        }
        while !bench.job("demo").group().unwrap().is_breaking() {
            bench.wait(0.5, &[1, 2]); // the group takes it in again
        }
        let step = bench.holding(1).unwrap().step.0;
        bench.leave(1, "demo", step);
        bench.wait(0.5, &[1, 2]);
        bench.enter("demo", &[1, 2]);
    }
    let told = format!("lost or failed 3 times within 10 min; its last error: DEVICE_FAILED: {ECC}");
    assert_eq!(reason(bench.core.state(), 2), Some(told.clone()));
    let recovered = Core::recover(TIMINGS, bench.now, &bench.log);
    assert_eq!(reason(recovered.state(), 2), Some(told), "a restart does not forget it");
    bench.wait(120.0, &[1, 2]);
    assert!(bench.is_active("demo") && bench.world_size("demo") == 1, "the job goes on without it");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn the_worker_whose_device_failed_is_named_where_its_peers_errors_were_heard_first() {
    let mut bench = group_of(3, 1);
    fail(&mut bench, 1, "COLLECTIVE_FAILED", "connection closed by peer");
    lose_device(&mut bench, 2);
    let [first, second] = &causes(&bench)[..] else { panic!("{:?}", causes(&bench)) };
    assert!(first.contains("COLLECTIVE_FAILED") && second.contains("(worker-2) failed: DEVICE_FAILED"), "{second}");
    assert_eq!(bench.job("demo").recoveries, 1, "it is one group that broke");
    assert!(reason(bench.core.state(), 2).is_some() && reason(bench.core.state(), 1).is_none());
    fail(&mut bench, 3, "COLLECTIVE_FAILED", "connection closed by peer");
    assert_eq!(causes(&bench).len(), 2, "what follows from it is told once");
    assert_eq!(log_violations(&bench.log), []);

    let mut bench = group_of(2, 1);
    bench.leave(1, "demo", 40);
    lose_device(&mut bench, 2);
    assert!(reason(bench.core.state(), 2).is_some(), "the group waits for its last member, although that ends");
    assert_eq!((bench.world_size("demo"), bench.job("demo").group().unwrap().step), (1, Step(40)));
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn an_error_that_most_of_a_group_meets_is_the_jobs_and_held_against_nobody() {
    let mut bench = group_of(3, 2);
    for _ in 0..3 {
        for worker in 1..=3 {
            fail(&mut bench, worker, "DEVICE_FAILED", "the device failed: CUDA error: device-side assert triggered");
        }
        bench.wait(1.0, &[1, 2, 3]);
        bench.enter("demo", &[1, 2, 3]);
        bench.wait(1.0, &[1, 2, 3]);
    }
    assert_eq!(bench.core.state().flaps().quarantined().count(), 0);
    assert!(bench.is_active("demo"), "three times are not too often yet");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_rank_that_diverges_again_and_again_is_put_into_no_group() {
    let mut bench = group_of(3, 2);
    let said = "the parameters of rank 1 are not those of the other ranks after step 500";
    for time in 1..=2 {
        fail(&mut bench, 2, "REPLICA_DIVERGED", said);
        bench.leave(1, "demo", 40 * time);
        bench.leave(3, "demo", 40 * time);
        assert_eq!(bench.world_size("demo"), if time == 1 { 3 } else { 2 });
        let members: Vec<u64> = if time == 1 { vec![1, 3, 2] } else { vec![1, 3] };
        bench.enter("demo", &members);
        bench.wait(1.0, &[1, 2, 3]);
    }
    let told = reason(bench.core.state(), 2).expect("it is kept out");
    assert!(told.starts_with("lost or failed 2 times") && told.contains(said), "{told}");
    assert_eq!(log_violations(&bench.log), []);
}
