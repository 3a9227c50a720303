//! Jobs that name shards: indexed first, then as if they had named the manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use cappa_core::{
    Bound, Change, Command, Ending, FailureClass, Indexed, IndexedSource, JobId, Phase, Policy, Quota, Refusal, Retry,
    Scheduling, Step, Submission, Work,
};

use crate::yard::{Yard, ask};

fn of_shards(min: u32, max: u32) -> Submission {
    Submission { needs_index: true, total_steps: Step(0), spec_json: "shards".to_owned(), ..ask(min, max) }
}

fn indexed() -> Indexed {
    Indexed {
        spec_json: "manifest".to_owned(),
        spec_digest: "of the spec".to_owned(),
        data_digest: "of the data".to_owned(),
        total_steps: Step(70),
        sources: vec![IndexedSource {
            source: "/data/*.tar".to_owned(),
            manifest: "/jobs/a/data/train-0.manifest.json".to_owned(),
            digest: "of the manifest".to_owned(),
            shards: 3,
            samples: 99,
            problems: Vec::new(),
        }],
    }
}

fn done(job: &str) -> Command {
    Command::Indexed { job: JobId::from(job), indexed: indexed() }
}

fn failed(job: &str, code: &str) -> Command {
    Command::IndexFailed { job: JobId::from(job), code: code.to_owned(), message: "broken".to_owned() }
}

fn index_of(job: &str) -> Work {
    Work::Index { job: JobId::from(job) }
}

fn is_wanted(yard: &Yard, job: &str) -> bool {
    yard.core.outstanding(yard.now).any(|work| work == index_of(job))
}

#[test]
fn a_job_that_names_shards_holds_no_workers_until_it_is_indexed() {
    let mut yard = Yard::new(2, Policy::default());
    yard.submit("a", of_shards(2, 2));
    yard.submit("b", ask(2, 2));
    yard.pass(70);
    assert_eq!((&yard.job("a").phase, yard.sizes(["a", "b"])), (&Phase::Indexing, [0, 2]));
    assert!(is_wanted(&yard, "a") && yard.plan().waits.is_empty(), "it is in nobody's way");
    yard.finish("b");
    yard.perform(&done("a")).unwrap();
    yard.obey();
    assert!(!is_wanted(&yard, "a"));
    let job = yard.job("a");
    assert_eq!((job.group().map(|group| group.members.len()), job.submission.total_steps), (Some(2), Step(70)));
    assert_eq!((job.submission.spec_json.as_str(), job.submission.data_digest.as_str()), ("manifest", "of the data"));
    assert_eq!(yard.perform(&done("a")), Err(Refusal::NotOutstanding), "an index that comes twice changes nothing");
    yard.audit();
}

#[test]
fn a_job_is_paused_resumed_and_cancelled_while_it_is_indexed() {
    let mut yard = Yard::new(1, Policy::default());
    yard.submit("a", of_shards(1, 1));
    let (job, reason) = (JobId::from("a"), "test".to_owned());
    yard.perform(&Command::Pause { job: job.clone(), reason: reason.clone() }).unwrap();
    assert!(!is_wanted(&yard, "a"), "the index is given up");
    assert_eq!(yard.perform(&done("a")), Err(Refusal::NotOutstanding), "and comes too late if it was made");
    yard.perform(&Command::Resume { job: job.clone() }).unwrap();
    assert!(is_wanted(&yard, "a"), "a job without an index is not queued");
    assert_eq!(yard.perform(&Command::Resume { job: job.clone() }), Err(Refusal::NotPaused(job.clone())));
    yard.perform(&Command::Cancel { job: job.clone(), reason: reason.clone() }).unwrap();
    assert!(!is_wanted(&yard, "a"));
    yard.perform(&Command::Requeue { job, reason }).unwrap();
    assert!(is_wanted(&yard, "a"), "it is indexed when it is tried again");
    yard.perform(&done("a")).unwrap();
    yard.obey();
    assert_eq!(yard.size("a"), 1);
    yard.audit();
}

#[test]
fn a_failed_index_is_tried_again_as_the_job_allows_and_ends_it_otherwise() {
    let retry = Retry { data: 1, backoff: Duration::from_secs(10), ..Retry::default() };
    let mut yard = Yard::new(1, Policy::default());
    yard.submit("a", Submission { scheduling: Scheduling { retry, ..Scheduling::default() }, ..of_shards(1, 1) });
    yard.perform(&failed("a", "data")).unwrap();
    let class = |change: &Change| match change {
        Change::Retried { class, .. } => Some(*class),
        _ => None,
    };
    assert_eq!(yard.log.last().and_then(|record| class(&record.change)), Some(FailureClass::Data));
    assert!(!is_wanted(&yard, "a"), "not at once");
    yard.pass(10);
    assert!(is_wanted(&yard, "a"));
    yard.perform(&failed("a", "data")).unwrap();
    let ending = Ending::Failed { code: "data".to_owned(), message: "broken".to_owned() };
    assert_eq!(yard.job("a").phase, Phase::Ended(ending));

    yard.submit("b", of_shards(1, 1));
    yard.perform(&failed("b", "spec")).unwrap();
    assert!(yard.job("b").has_ended());
    assert_eq!(FailureClass::of("spec"), FailureClass::User);
    yard.audit();
}

#[test]
fn jobs_that_are_indexed_count_as_queued_and_keep_their_deadline() {
    let bound = Quota { max_queued: Some(1), ..Quota::default() };
    let namespaces = BTreeMap::from([("default".to_owned(), bound)]);
    let mut yard = Yard::new(1, Policy { namespaces, ..Policy::default() });
    let scheduling = Scheduling { queue_deadline: Some(Duration::from_secs(30)), ..Scheduling::default() };
    yard.submit("a", Submission { scheduling, ..of_shards(1, 1) });
    let refusal = Refusal::OverQuota { namespace: "default".to_owned(), bound: Bound::Queued, limit: 1 };
    assert_eq!(yard.try_submit("b", of_shards(1, 1)), Err(refusal));
    yard.pass(31);
    let code = match &yard.job("a").phase {
        Phase::Ended(Ending::Failed { code, .. }) => code.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code, "queue_deadline");
    yard.audit();
}
