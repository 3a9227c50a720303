//! Quotas, shares, tries, dependencies and times.

use std::collections::BTreeMap;
use std::time::Duration;

use cappa_core::{
    Bound, Change, Command, Condition, Dependency, Ending, EndsWhen, FailureClass, JobId, OnUnmet, Phase, Policy,
    Quota, Reason, Record, Refusal, Retry, Scheduling, Submission,
};

use crate::yard::{Yard, ask};

fn quota(namespace: &str, quota: Quota) -> Policy {
    Policy { namespaces: BTreeMap::from([(namespace.to_owned(), quota)]), ..Policy::default() }
}

fn of(namespace: &str, min: u32, max: u32) -> Submission {
    Submission { namespace: namespace.to_owned(), ..ask(min, max) }
}

fn with(scheduling: Scheduling) -> Submission {
    Submission { scheduling, ..ask(1, 1) }
}

fn is_failed(yard: &Yard, id: &str, wanted: &str) -> bool {
    matches!(&yard.job(id).phase, Phase::Ended(Ending::Failed { code, .. }) if code == wanted)
}

#[test]
fn a_namespace_gets_no_more_workers_than_its_quota_and_others_go_on() {
    let mut yard = Yard::new(8, quota("team", Quota { max_workers: Some(3), ..Quota::default() }));
    yard.submit("a", of("team", 3, 8));
    yard.submit("b", of("team", 1, 1));
    yard.submit("c", of("other", 2, 2));
    yard.pass(70);
    assert_eq!(yard.sizes(["a", "c"]), [3, 2]);
    let reason = Reason::Quota { bound: Bound::Workers, used: 3, limit: 3 };
    assert_eq!(yard.reason("b"), reason);
    assert_eq!(yard.plan().waits[0].ends_when, EndsWhen::NamespaceUsesLess { bound: Bound::Workers, by: 1 });
    let refusal = Refusal::OverQuota { namespace: "team".to_owned(), bound: Bound::Workers, limit: 3 };
    assert_eq!(yard.try_submit("never", of("team", 4, 4)), Err(refusal));
    yard.audit();
}

#[test]
fn running_and_queued_jobs_are_bounded_too() {
    let bounds = Quota { max_running: Some(1), max_queued: Some(1), ..Quota::default() };
    let mut yard = Yard::new(4, quota("team", bounds));
    yard.submit("a", of("team", 1, 1));
    yard.submit("b", of("team", 1, 1));
    assert_eq!(yard.reason("b"), Reason::Quota { bound: Bound::Running, used: 1, limit: 1 });
    let refusal = Refusal::OverQuota { namespace: "team".to_owned(), bound: Bound::Queued, limit: 1 };
    assert_eq!(yard.try_submit("c", of("team", 1, 1)), Err(refusal));
    yard.finish("a");
    assert_eq!(yard.size("b"), 1);
}

#[test]
fn a_paused_job_keeps_its_place_among_the_queued_ones_and_can_always_be_resumed() {
    let mut yard = Yard::new(1, quota("team", Quota { max_queued: Some(1), ..Quota::default() }));
    yard.submit("elsewhere", ask(1, 1));
    yard.submit("first", of("team", 1, 1));
    let job = JobId::from("first");
    yard.perform(&Command::Pause { job: job.clone(), reason: String::new() }).unwrap();
    let refusal = Refusal::OverQuota { namespace: "team".to_owned(), bound: Bound::Queued, limit: 1 };
    assert_eq!(yard.try_submit("second", of("team", 1, 1)), Err(refusal), "a pause is no way around the bound");
    yard.perform(&Command::Resume { job }).unwrap();
    yard.finish("elsewhere");
    yard.pass(1);
    assert_eq!(yard.size("first"), 1);
    yard.submit("second", of("team", 1, 1));
    yard.audit();
}

#[test]
fn who_has_used_less_for_its_weight_comes_first() {
    let mut yard = Yard::new(1, quota("heavy", Quota { weight: 100, ..Quota::default() }));
    yard.submit("hog", of("light", 1, 1));
    yard.pass(60);
    yard.finish("hog");
    yard.submit("running", of("heavy", 1, 1));
    yard.pass(60);
    yard.submit("light-again", of("light", 1, 1));
    yard.submit("heavy-again", of("heavy", 1, 1));
    let order: Vec<String> = yard.plan().waits.iter().map(|wait| wait.job.to_string()).collect();
    assert_eq!(order, ["heavy-again", "light-again"], "equal use, but a hundred times the weight");
    yard.audit();
}

#[test]
fn failures_are_tried_again_by_class_with_growing_waits_and_then_end_the_job() {
    let mut yard = Yard::new(1, Policy::default());
    let retry = Retry { infrastructure: 2, ..Retry::default() };
    yard.submit("job", with(Scheduling { retry, ..Scheduling::default() }));
    yard.fail("job", "storage");
    assert_eq!(yard.reason("job"), Reason::Backoff { class: FailureClass::Infrastructure, attempt: 1 });
    yard.pass(9);
    assert_eq!(yard.size("job"), 0);
    yard.pass(2);
    assert_eq!(yard.size("job"), 1);
    assert_eq!(yard.job("job").group().unwrap().step.0, 0, "state that led to a failure is not gone on from");
    yard.fail("job", "storage");
    yard.pass(19);
    assert_eq!(yard.size("job"), 0);
    yard.pass(2);
    yard.fail("job", "storage");
    assert!(is_failed(&yard, "job", "storage"));
    yard.submit("other", with(Scheduling { retry, ..Scheduling::default() }));
    yard.fail("other", "bad_samples");
    assert!(is_failed(&yard, "other", "bad_samples"), "the data has no tries");
    yard.audit();
}

#[test]
fn a_job_starts_after_those_it_names_have_succeeded() {
    let mut yard = Yard::new(2, Policy::default());
    yard.submit("pretrain", ask(1, 1));
    let after = |job: &str, condition| vec![Dependency { job: JobId::from(job), condition }];
    let evaluate = Scheduling { after: after("pretrain", Condition::Succeeded), ..Scheduling::default() };
    yard.submit("evaluate", with(evaluate));
    let condition = Condition::Succeeded;
    assert_eq!(yard.reason("evaluate"), Reason::Dependency { job: JobId::from("pretrain"), condition });
    yard.finish("pretrain");
    assert_eq!(yard.size("evaluate"), 1);
    let unknown = Scheduling { after: after("nobody", Condition::Ended), ..Scheduling::default() };
    assert_eq!(yard.try_submit("x", with(unknown)), Err(Refusal::UnknownDependency(JobId::from("nobody"))));
    yard.audit();
}

#[test]
fn a_job_whose_dependency_fails_ends_or_waits_for_it_to_be_requeued() {
    let mut yard = Yard::new(2, Policy::default());
    yard.submit("pretrain", ask(1, 1));
    let after = vec![Dependency { job: JobId::from("pretrain"), condition: Condition::Succeeded }];
    yard.submit("strict", with(Scheduling { after: after.clone(), ..Scheduling::default() }));
    yard.submit("patient", with(Scheduling { after, on_unmet: OnUnmet::Wait, ..Scheduling::default() }));
    yard.fail("pretrain", "data");
    assert!(is_failed(&yard, "strict", "dependency"));
    assert_eq!(yard.size("patient"), 0);
    yard.perform(&Command::Requeue { job: JobId::from("pretrain"), reason: "repaired".to_owned() }).unwrap();
    yard.pass(1);
    yard.finish("pretrain");
    assert_eq!(yard.size("patient"), 1);
    let again = Command::Requeue { job: JobId::from("pretrain"), reason: String::new() };
    assert_eq!(yard.perform(&again), Err(Refusal::NotRequeueable(JobId::from("pretrain"))), "it has succeeded");
    yard.audit();
}

#[test]
fn a_time_limit_counts_time_with_workers_and_ends_with_a_checkpoint() {
    let mut yard = Yard::new(1, Policy::default());
    let time_limit = Some(Duration::from_secs(30));
    yard.submit("job", with(Scheduling { time_limit, ..Scheduling::default() }));
    yard.pass(20);
    yard.perform(&Command::Pause { job: JobId::from("job"), reason: "test".to_owned() }).unwrap();
    yard.pass(60);
    yard.perform(&Command::Resume { job: JobId::from("job") }).unwrap();
    yard.pass(5);
    assert_eq!(yard.size("job"), 1, "a pause does not count");
    yard.pass(10);
    assert!(is_failed(&yard, "job", "time_limit"));
    assert!(yard.log.iter().any(|record| matches!(record.change, Change::StopRequested { .. })), "asked to save first");
    yard.audit();
}

#[test]
fn a_job_that_does_not_start_in_time_ends() {
    let mut yard = Yard::new(1, Policy::default());
    yard.submit("running", ask(1, 1));
    let queue_deadline = Some(Duration::from_secs(30));
    yard.submit("late", with(Scheduling { queue_deadline, ..Scheduling::default() }));
    yard.pass(29);
    assert!(!yard.job("late").has_ended());
    yard.pass(2);
    assert!(is_failed(&yard, "late", "queue_deadline"));
}

#[test]
fn logs_from_before_there_was_a_scheduler_are_read() {
    let submitted = r#"{"at":1,"job":"a","change":"submitted","submission":{"name":"a","namespace":"default","priority":3,
        "min_workers":1,"max_workers":2,"lanes":4,"keep":1,"total_steps":9,"spec_json":"","spec_digest":"","data_digest":"",
        "folder":"","idempotency_key":null}}"#;
    let formed = r#"{"at":2,"job":"a","change":"group_formed","generation":1,"members":[{"worker":"w","incarnation":"1",
        "store_address":"w:1","step":0,"has_state":false}],"lead":0,"step":0}"#;
    let records: Vec<Record> = [submitted, formed].map(|text| serde_json::from_str(text).unwrap()).to_vec();
    let core = cappa_core::Core::recover(crate::yard::TIMINGS, cappa_core::Time(3), &records);
    let job = core.state().job(&JobId::from("a")).unwrap();
    assert_eq!((job.priority, job.is_loan, &job.submission.scheduling), (3, false, &Scheduling::default()));
}
