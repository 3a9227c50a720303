//! Within a namespace: the first job that its quota keeps waiting is not overtaken, and gets back what its siblings have to give.

use std::collections::BTreeMap;
use std::time::Duration;

use cappa_core::{Bound, EndsWhen, JobId, OnPreemption, Policy, Quota, Reason, Scheduling, Submission};

use crate::yard::{Yard, ask};

/// A yard whose namespace `team` may have so many workers at a time.
fn yard(workers: u64, quota: Quota) -> Yard {
    let namespaces = BTreeMap::from([("team".to_owned(), quota)]);
    Yard::new(workers, Policy { namespaces, reshape_every: Duration::from_secs(5), ..Policy::default() })
}

fn workers(most: u32) -> Quota {
    Quota { max_workers: Some(most), ..Quota::default() }
}

fn team(min: u32, max: u32) -> Submission {
    Submission { namespace: "team".to_owned(), ..ask(min, max) }
}

fn urgent(min: u32, max: u32) -> Submission {
    Submission { priority: 10, ..team(min, max) }
}

fn full(bound: Bound, used: u32, limit: u32) -> Reason {
    Reason::Quota { bound, used, limit }
}

#[test]
fn small_jobs_do_not_overtake_a_large_one_of_their_namespace_for_ever() {
    let mut yard = yard(8, workers(4));
    yard.submit("small-0", team(1, 1));
    yard.submit("large", team(4, 4));
    assert_eq!(yard.reason("large"), full(Bound::Workers, 1, 4));
    let by = 1;
    assert_eq!(yard.plan().waits[0].ends_when, EndsWhen::NamespaceUsesLess { bound: Bound::Workers, by });
    for round in 1..4 {
        yard.submit(&format!("small-{round}"), team(1, 1));
        yard.pass(3);
    }
    assert_eq!(yard.sizes(["large", "small-1", "small-2", "small-3"]), [0, 1, 1, 1], "what is left is lent");
    yard.finish("small-0");
    yard.pass(3);
    assert_eq!(yard.sizes(["large", "small-1", "small-2", "small-3"]), [4, 0, 0, 0], "and called in");
    yard.submit("small-4", team(1, 1));
    assert_eq!(yard.reason("small-4"), Reason::BehindSibling { head: JobId::from("small-1") });
    yard.audit();
}

#[test]
fn a_job_that_would_end_when_pre_empted_borrows_nothing_of_the_quota() {
    let mut yard = yard(8, workers(4));
    yard.submit("running", team(1, 1));
    yard.submit("large", team(4, 4));
    let scheduling = Scheduling { on_preemption: OnPreemption::Cancel, ..Scheduling::default() };
    yard.submit("proud", Submission { scheduling, ..team(1, 1) });
    yard.pass(5);
    assert_eq!(yard.reason("proud"), Reason::BehindSibling { head: JobId::from("large") });
    assert_eq!(yard.plan().waits[1].ends_when, EndsWhen::Starts(JobId::from("large")));
    yard.submit("elsewhere", ask(4, 8));
    assert_eq!(yard.size("elsewhere"), 7, "other namespaces are not held up");
}

#[test]
fn a_more_important_job_gets_the_quota_of_a_sibling_that_is_less() {
    let mut yard = yard(8, workers(4));
    yard.submit("humble", team(3, 3));
    yard.submit("other", ask(2, 2));
    yard.submit("urgent", urgent(2, 2));
    assert_eq!(yard.sizes(["humble", "other", "urgent"]), [0, 2, 2], "workers are free, so nobody else gives way");
    yard.finish("urgent");
    yard.pass(1);
    assert_eq!(yard.size("humble"), 3);
    yard.audit();
}

#[test]
fn those_of_the_namespace_with_the_least_to_make_again_give_way_and_no_more_than_needed() {
    let mut yard = yard(10, workers(6));
    yard.submit("old", team(2, 2));
    yard.pass(100);
    yard.submit("young", team(2, 2));
    yard.submit("younger", team(1, 1));
    yard.submit("foreign", ask(1, 1));
    yard.pass(1);
    yard.submit("urgent", urgent(3, 3));
    assert_eq!(yard.sizes(["old", "young", "younger", "foreign", "urgent"]), [2, 0, 1, 1, 3]);
    yard.audit();
}

#[test]
fn a_running_job_gives_its_place_to_a_more_important_one() {
    let mut yard = yard(4, Quota { max_running: Some(2), ..Quota::default() });
    yard.submit("first", team(1, 2));
    yard.submit("equal", urgent(1, 1));
    yard.submit("urgent", urgent(1, 1));
    assert_eq!(yard.sizes(["first", "equal", "urgent"]), [0, 1, 1]);
    assert_eq!(yard.reason("first"), full(Bound::Running, 2, 2), "equals do not pre-empt each other");
    yard.audit();
}

#[test]
fn an_elastic_job_hands_back_of_the_quota_what_is_above_its_minimum() {
    let mut yard = yard(8, workers(4));
    yard.submit("elastic", team(1, 8));
    assert_eq!(yard.size("elastic"), 4);
    yard.submit("waiting", team(2, 2));
    yard.pass(3);
    assert_eq!(yard.sizes(["elastic", "waiting"]), [2, 2], "what is missing and no more");
    yard.finish("waiting");
    yard.pass(10);
    assert_eq!(yard.size("elastic"), 4);
    yard.audit();
}

#[test]
fn an_elastic_job_of_higher_priority_keeps_the_quota_it_has_grown_into() {
    let mut yard = yard(8, workers(4));
    yard.submit("elastic", urgent(1, 8));
    yard.submit("waiting", team(1, 1));
    yard.pass(20);
    assert_eq!(yard.sizes(["elastic", "waiting"]), [4, 0]);
}

#[test]
fn a_group_that_loses_a_worker_leaves_its_share_of_the_quota_to_a_sibling_that_waits() {
    let mut yard = yard(8, workers(4));
    yard.submit("elastic", urgent(1, 4));
    yard.submit("waiting", team(1, 1));
    yard.lose(0);
    yard.pass(12);
    assert_eq!(yard.sizes(["elastic", "waiting"]), [3, 1]);
    yard.audit();
}

#[test]
fn idle_workers_are_no_use_to_elastic_jobs_whose_quota_is_kept_for_a_sibling() {
    let mut yard = yard(10, workers(6));
    yard.submit("rigid", urgent(3, 3));
    yard.submit("elastic", urgent(1, 1));
    yard.submit("large", team(4, 4));
    yard.submit("grower", Submission { priority: 20, ..team(1, 4) });
    yard.pass(20);
    assert_eq!(yard.sizes(["rigid", "elastic", "grower", "large"]), [3, 1, 1, 0], "one more might be used");
    yard.finish("rigid");
    yard.pass(3);
    assert_eq!(yard.size("large"), 4);
    yard.audit();
}

#[test]
fn who_waits_for_a_running_job_to_end_keeps_no_more_of_the_quota_than_it_needs() {
    let mut yard = yard(4, Quota { max_workers: Some(6), max_running: Some(1), ..Quota::default() });
    yard.submit("elastic", team(1, 6));
    yard.submit("waiting", team(1, 1));
    yard.connect();
    yard.connect();
    yard.pass(20);
    assert_eq!(yard.sizes(["elastic", "waiting"]), [5, 0]);
    yard.audit();
}

#[test]
fn no_sibling_gives_way_while_the_cluster_has_too_few_workers_all_the_same() {
    let mut yard = yard(6, workers(4));
    yard.submit("elsewhere", Submission { priority: 10, ..ask(4, 4) });
    yard.submit("humble", team(2, 2));
    yard.submit("urgent", urgent(3, 3));
    yard.pass(20);
    assert_eq!(yard.sizes(["humble", "urgent"]), [2, 0]);
    assert_eq!(yard.reason("urgent"), Reason::Workers { free: 0, needed: 3 });
    yard.finish("elsewhere");
    yard.pass(3);
    assert_eq!(yard.sizes(["humble", "urgent"]), [0, 3]);
    yard.audit();
}

#[test]
fn a_sibling_that_borrows_workers_does_not_cost_the_head_its_reservation() {
    let mut yard = yard(6, workers(4));
    yard.submit("elsewhere", ask(3, 3));
    yard.submit("large", team(4, 4));
    yard.submit("small", team(2, 2));
    assert_eq!(yard.sizes(["large", "small"]), [0, 2], "on loan from the one whose quota it uses");
    yard.submit("late", Submission { namespace: "third".to_owned(), ..ask(1, 1) });
    assert!(yard.job("late").is_loan, "the head still has its place");
    yard.finish("elsewhere");
    yard.pass(3);
    assert_eq!(yard.sizes(["large", "small", "late"]), [4, 0, 1], "the loan of the sibling is called in, and suffices");
    yard.audit();
}

#[test]
fn who_borrows_of_the_quota_alone_does_not_stop_for_a_job_of_another_namespace_that_comes_later() {
    let mut yard = yard(5, workers(2));
    yard.submit("rigid", urgent(1, 1));
    yard.submit("elsewhere", ask(3, 3));
    yard.pass(30);
    yard.try_submit("large", Submission { priority: 1, ..team(2, 2) }).unwrap();
    yard.try_submit("small", team(1, 1)).unwrap();
    yard.try_submit("late", ask(1, 1)).unwrap();
    yard.obey();
    let generation = yard.job("small").generation;
    yard.pass(30);
    assert_eq!(yard.sizes(["small", "late"]), [1, 0]);
    assert_eq!(yard.job("small").generation, generation, "it was never stopped");
    yard.audit();
}

#[test]
fn a_job_that_a_lowered_quota_can_never_serve_holds_nobody_back() {
    let mut yard = yard(4, workers(4));
    yard.submit("running", ask(4, 4));
    yard.submit("large", team(3, 3));
    yard.submit("small", team(1, 1));
    let namespaces = BTreeMap::from([("team".to_owned(), workers(2))]);
    yard.core = yard.core.with_policy(Policy { namespaces, ..Policy::default() });
    let bound = Bound::Workers;
    assert_eq!(yard.reason("large"), Reason::QuotaTooSmall { bound, needed: 3, limit: 2 });
    assert_eq!(yard.plan().waits[0].ends_when, EndsWhen::QuotaAllows { bound, needed: 3 });
    yard.finish("running");
    assert_eq!(yard.sizes(["large", "small"]), [0, 1]);
    yard.audit();
}
