//! Groups that go on below their minimum after losses.

use cappa_core::{Policy, Submission};

use crate::yard::{Yard, ask};

/// A job that needs four workers and has lost one of them.
fn degraded() -> Yard {
    let mut yard = Yard::new(4, Policy::default());
    yard.submit("degraded", ask(4, 4));
    yard.lose(3);
    yard.pass(10);
    assert_eq!(yard.size("degraded"), 3);
    yard
}

#[test]
fn a_new_worker_takes_the_place_of_a_lost_one_before_a_job_that_waits_starts() {
    let mut yard = degraded();
    yard.submit("waiting", ask(1, 1));
    yard.connect();
    yard.pass(3);
    assert_eq!(yard.sizes(["degraded", "waiting"]), [4, 0]);
    yard.connect();
    yard.pass(3);
    assert_eq!(yard.sizes(["degraded", "waiting"]), [4, 1], "the next is nobody's");
    yard.audit();
}

#[test]
fn a_job_of_higher_priority_comes_before_the_repair_of_a_group() {
    let mut yard = degraded();
    yard.connect();
    yard.try_submit("urgent", Submission { priority: 1, ..ask(1, 1) }).unwrap();
    yard.obey();
    yard.pass(10);
    assert_eq!(yard.sizes(["degraded", "urgent"]), [3, 1]);
    yard.audit();
}

#[test]
fn a_worker_that_is_kept_for_a_waiting_equal_replaces_a_lost_one_at_once() {
    let mut yard = Yard::new(5, Policy::default());
    yard.submit("running", ask(4, 4));
    yard.submit("large", ask(2, 2));
    let before = yard.job("running").generation.0;
    yard.lose(0);
    yard.pass(12);
    assert_eq!(yard.sizes(["running", "large"]), [4, 0]);
    assert_eq!(yard.job("running").generation.0, before + 1, "it formed once");
    assert!(yard.job("running").group().unwrap().step.0 > 0, "no step was lost");
    yard.audit();
}

#[test]
fn a_repair_needs_no_pause_between_two_changes_of_size() {
    let mut yard = degraded();
    yard.lose(2);
    yard.pass(10);
    assert_eq!(yard.size("degraded"), 2);
    yard.connect();
    yard.pass(3);
    yard.connect();
    yard.pass(3);
    assert_eq!(yard.size("degraded"), 4);
    yard.audit();
}
