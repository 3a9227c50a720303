//! Ranks whose parameters are not those of the others.

use cappa_core::{Change, Failure, Generation, JobId, Report, Step};

use crate::bench::{Bench, name};

/// The worker has given up its state, which the others have outvoted.
fn diverged(bench: &mut Bench, worker: u64) {
    let failure = Failure {
        code: "REPLICA_DIVERGED".to_owned(),
        message: "its parameters are not those of the other ranks".to_owned(),
        permanent: false,
    };
    let (job, generation) = (JobId::from("demo"), Generation(1));
    bench.say(worker, Report::Left { job, generation, step: Step(0), has_state: false, failure: Some(failure) });
}

fn group_of(workers: u64) -> Bench {
    let mut bench = Bench::new();
    let all: Vec<u64> = (1..=workers).collect();
    all.iter().for_each(|worker| bench.connect(*worker, None));
    bench.submit("demo", 0, 2, 3);
    bench.wait(1.5, &all);
    bench.enter("demo", &all);
    bench
}

#[test]
fn a_rank_that_diverged_is_named_and_receives_the_state_of_a_healthy_one() {
    let mut bench = group_of(3);
    diverged(&mut bench, 2);
    let cause = bench.log.iter().rev().find_map(|record| match &record.change {
        Change::GroupBroken { cause, .. } => Some(cause.to_string()),
        _ => None,
    });
    assert!(cause.unwrap().starts_with("rank 1 (worker-2) failed: REPLICA_DIVERGED"));
    bench.leave(1, "demo", 40);
    bench.leave(3, "demo", 40);
    let group = bench.job("demo").group().unwrap();
    let members: Vec<_> = group.members.iter().map(|member| (&member.worker, member.has_state)).collect();
    assert_eq!(members, [(&name(1), true), (&name(3), true), (&name(2), false)]);
    assert_eq!((group.step, group.members[group.lead.0 as usize].has_state), (Step(40), true));
}

#[test]
fn where_nobody_can_tell_which_of_two_ranks_is_right_both_go_back_to_the_checkpoint() {
    let mut bench = group_of(2);
    bench.checkpoint("demo", 10);
    diverged(&mut bench, 1);
    diverged(&mut bench, 2);
    let group = bench.job("demo").group().unwrap();
    assert_eq!((group.generation, group.step), (Generation(2), Step(10)));
    assert!(group.members.iter().all(|member| !member.has_state));
    let common = serde_json::to_value(bench.core.state().common()).unwrap();
    assert_eq!(common["flaps"]["losses"], serde_json::json!({}), "it is held against neither");
}
