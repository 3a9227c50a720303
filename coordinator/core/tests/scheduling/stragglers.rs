//! Slow ranks, and idle workers in their place.

use std::time::Duration;

use cappa_core::{Change, Pace, Policy, Stragglers};

use crate::yard::{Yard, ask};

/// Four workers of which three have a job; one of those takes twice as long as the mean.
fn with_a_slow_rank(replace: bool) -> Yard {
    let stragglers = Stragglers { replace, ..Stragglers::default() };
    let mut yard = Yard::new(4, Policy { stragglers, reshape_every: Duration::from_secs(30), ..Policy::default() });
    yard.submit("demo", ask(3, 3));
    yard.paces.extend([(0, Pace(900)), (1, Pace(2000)), (2, Pace(1000)), (3, Pace(3000))]);
    yard.pass(10);
    yard
}

fn members(yard: &Yard) -> Vec<String> {
    let group = yard.job("demo").group().unwrap();
    let mut members: Vec<_> = group.members.iter().map(|member| member.worker.to_string()).collect();
    members.sort();
    members
}

fn names(workers: [u64; 3]) -> Vec<String> {
    workers.map(|worker| format!("worker-{worker:05}")).to_vec()
}

#[test]
fn a_slow_rank_is_replaced_by_an_idle_worker_where_the_operator_wants_that() {
    let yard = with_a_slow_rank(false);
    assert_eq!(members(&yard), names([0, 1, 2]), "nobody is replaced unasked");

    let mut yard = with_a_slow_rank(true);
    assert_eq!(members(&yard), names([0, 2, 3]));
    let job = yard.job("demo");
    assert!(job.recoveries == 0 && job.group().unwrap().members.iter().filter(|member| member.has_state).count() == 2);
    yard.pass(15);
    assert_eq!(
        members(&yard),
        names([0, 2, 3]),
        "what it says of its pace in another group means nothing, and once in a while is enough"
    );
    yard.pass(30);
    assert_eq!(members(&yard), names([0, 1, 2]), "the other is slower still");
    let cause = yard.log.iter().find_map(|record| match &record.change {
        Change::GroupBroken { cause, .. } => Some(cause.to_string()),
        _ => None,
    });
    let said = "worker-00001 takes 2.0 times as long as the mean, an idle worker takes its place";
    assert_eq!(cause.as_deref(), Some(said));
    yard.audit();
}

#[test]
fn an_idle_worker_that_a_queued_job_could_use_replaces_nobody() {
    let mut yard = with_a_slow_rank(false);
    yard.submit("waiting", ask(2, 2));
    let stragglers = Stragglers { replace: true, ..Stragglers::default() };
    yard.core = yard.core.with_policy(Policy { stragglers, ..Policy::default() });
    yard.pass(10);
    assert_eq!(members(&yard), names([0, 1, 2]));
    yard.audit();
}
