//! Order, gangs, loans, growth and shrinking.

use std::time::Duration;

use cappa_core::{Command, EndsWhen, JobId, Policy, Reason};

use crate::yard::{Yard, ask};

fn eager() -> Policy {
    Policy { reshape_every: Duration::from_secs(5), ..Policy::default() }
}

#[test]
fn everybody_gets_the_minimum_before_anybody_gets_more() {
    let mut yard = Yard::new(6, eager());
    yard.try_submit("first", ask(2, 8)).unwrap();
    yard.try_submit("second", ask(2, 2)).unwrap();
    yard.obey();
    assert_eq!(yard.sizes(["first", "second"]), [4, 2]);
    yard.audit();
}

#[test]
fn members_that_share_a_host_get_ranks_side_by_side() {
    let mut yard = Yard::new(8, eager());
    yard.submit("four", ask(4, 4));
    let hosts: Vec<String> = yard
        .job("four")
        .group()
        .unwrap()
        .members
        .iter()
        .map(|member| yard.core.presence().worker(&member.worker).unwrap().host.clone())
        .collect();
    assert_eq!(hosts, ["host-0", "host-0", "host-1", "host-1"]);
}

#[test]
fn free_workers_that_do_not_suffice_for_the_head_are_lent_and_called_back() {
    let mut yard = Yard::new(6, eager());
    yard.submit("running", ask(4, 4));
    yard.submit("large", ask(5, 5));
    assert_eq!(yard.reason("large"), Reason::Workers { free: 2, needed: 5 });
    yard.submit("small", ask(2, 2));
    assert_eq!(yard.sizes(["large", "small"]), [0, 2], "two idle workers are lent");
    yard.finish("running");
    yard.pass(3);
    assert_eq!(yard.sizes(["large", "small"]), [5, 0], "the head takes them back and starts");
    assert_eq!(yard.reason("small"), Reason::Workers { free: 1, needed: 2 });
    yard.finish("large");
    yard.pass(1);
    assert_eq!(yard.size("small"), 2);
    assert!(yard.job("small").group().unwrap().step.0 > 0, "it goes on from what it had");
    yard.audit();
}

#[test]
fn a_loan_is_called_back_by_those_it_overtook_only() {
    let mut yard = Yard::new(4, eager());
    yard.submit("running", ask(3, 3));
    yard.submit("large", ask(4, 4));
    yard.submit("small", ask(1, 1));
    assert!(yard.job("small").is_loan);
    yard.perform(&Command::Cancel { job: JobId::from("large"), reason: String::new() }).unwrap();
    yard.pass(2);
    yard.submit("late", ask(4, 4));
    yard.finish("running");
    yard.pass(10);
    assert_eq!(yard.sizes(["small", "late"]), [1, 0], "who came later has no claim");
    yard.audit();
}

#[test]
fn a_job_that_nobody_can_serve_holds_nobody_back() {
    let mut yard = Yard::new(2, eager());
    yard.submit("huge", ask(3, 3));
    assert_eq!(yard.reason("huge"), Reason::TooFewConnected { connected: 2, needed: 3 });
    assert_eq!(yard.plan().waits[0].ends_when, EndsWhen::WorkersConnect { more: 1 });
    yard.submit("small", ask(2, 2));
    assert_eq!(yard.size("small"), 2);
}

#[test]
fn idle_workers_grow_a_job_and_leave_it_for_one_that_waits() {
    let mut yard = Yard::new(4, eager());
    yard.submit("elastic", ask(1, 4));
    assert_eq!(yard.size("elastic"), 4);
    yard.submit("other", ask(2, 2));
    yard.pass(3);
    assert_eq!(yard.sizes(["elastic", "other"]), [2, 2], "it gives what is missing and no more");
    yard.finish("other");
    yard.pass(1);
    assert_eq!(yard.size("elastic"), 2, "it was reshaped just before");
    yard.pass(6);
    assert_eq!(yard.size("elastic"), 4);
    assert!(yard.job("elastic").group().unwrap().step.0 >= 2, "no step was lost");
    yard.audit();
}

#[test]
fn a_job_of_higher_priority_keeps_what_it_has_grown_into() {
    let mut yard = Yard::new(4, eager());
    yard.submit("elastic", cappa_core::Submission { priority: 5, ..ask(1, 4) });
    yard.submit("other", ask(2, 2));
    yard.pass(30);
    assert_eq!(yard.sizes(["elastic", "other"]), [4, 0]);
}

#[test]
fn jobs_that_come_and_go_do_not_make_an_elastic_one_change_its_size_all_the_time() {
    let mut yard = Yard::new(4, Policy { reshape_every: Duration::from_secs(60), ..Policy::default() });
    yard.submit("elastic", ask(1, 4));
    for round in 0..12 {
        let id = format!("short-{round}");
        yard.submit(&id, ask(1, 1));
        yard.pass(5);
        if yard.size(&id) > 0 {
            yard.finish(&id);
        }
        yard.pass(5);
    }
    let changes = yard.job("elastic").generation.0 - 1;
    assert!((1..=3).contains(&changes), "{changes} changes of size within two minutes");
    yard.audit();
}
