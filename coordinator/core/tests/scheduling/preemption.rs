//! Who has to give way, and what becomes of them.

use cappa_core::{
    Change, Command, Ending, JobId, OnPreemption, Phase, Policy, Reason, Scheduling, StopCause, Submission,
};

use crate::yard::{Yard, ask};

fn urgent(min: u32, max: u32) -> Submission {
    Submission { priority: 10, ..ask(min, max) }
}

#[test]
fn the_victim_saves_its_state_waits_and_goes_on_from_there() {
    let mut yard = Yard::new(2, Policy::default());
    yard.submit("humble", ask(2, 2));
    yard.submit("urgent", urgent(2, 2));
    assert_eq!(yard.sizes(["humble", "urgent"]), [0, 2]);
    let by = JobId::from("urgent");
    let asked = Change::StopRequested { cause: StopCause::Preemption { by: by.clone() } };
    let changes: Vec<&Change> = yard.log.iter().map(|record| &record.change).collect();
    assert!(changes.contains(&&asked) && changes.contains(&&Change::Preempted { by }));
    assert_eq!(yard.reason("humble"), Reason::Workers { free: 0, needed: 2 });
    yard.finish("urgent");
    yard.pass(1);
    assert_eq!(yard.size("humble"), 2);
    assert!(yard.job("humble").group().unwrap().step.0 > 0, "nothing was lost");
    yard.audit();
}

#[test]
fn equals_do_not_pre_empt_each_other() {
    let mut yard = Yard::new(2, Policy::default());
    yard.submit("first", urgent(2, 2));
    yard.submit("second", urgent(1, 2));
    yard.pass(100);
    assert_eq!(yard.sizes(["first", "second"]), [2, 0]);
}

#[test]
fn those_with_the_least_to_make_again_give_way_and_no_more_than_needed() {
    let mut yard = Yard::new(6, Policy::default());
    yard.submit("old", ask(2, 2));
    yard.pass(100);
    yard.submit("young", ask(2, 2));
    yard.submit("younger", ask(1, 1));
    yard.pass(1);
    yard.submit("urgent", urgent(3, 3));
    assert_eq!(yard.sizes(["old", "young", "younger", "urgent"]), [2, 0, 1, 3], "one is free, two are missing");
    yard.audit();
}

#[test]
fn nobody_gives_way_in_vain() {
    let mut yard = Yard::new(4, Policy::default());
    yard.submit("even-more", Submission { priority: 20, ..ask(2, 2) });
    yard.submit("humble", ask(2, 2));
    yard.submit("urgent", urgent(3, 3));
    yard.pass(20);
    assert_eq!(yard.sizes(["humble", "urgent"]), [2, 0], "its two workers would not suffice");
}

#[test]
fn a_job_may_ask_to_end_when_it_is_pre_empted() {
    let mut yard = Yard::new(1, Policy::default());
    let scheduling = Scheduling { on_preemption: OnPreemption::Cancel, ..Scheduling::default() };
    yard.submit("humble", Submission { scheduling, ..ask(1, 1) });
    yard.submit("urgent", urgent(1, 1));
    let by = JobId::from("urgent");
    assert_eq!(yard.job("humble").phase, Phase::Ended(Ending::Preempted { by }));
    yard.perform(&Command::Requeue { job: JobId::from("humble"), reason: "again".to_owned() }).unwrap();
    yard.finish("urgent");
    yard.pass(1);
    assert_eq!(yard.size("humble"), 1);
    yard.audit();
}

#[test]
fn a_raised_priority_counts_at_once() {
    let mut yard = Yard::new(1, Policy::default());
    yard.submit("running", ask(1, 1));
    yard.submit("waiting", ask(1, 1));
    yard.perform(&Command::SetPriority { job: JobId::from("waiting"), priority: 1 }).unwrap();
    yard.pass(1);
    assert_eq!(yard.sizes(["running", "waiting"]), [0, 1]);
    yard.audit();
}
