//! Queue, quotas, priorities and pre-emption over real gRPC, with scripted workers.

mod support;

use std::time::Duration;

use cappa_proto::{
    ChangeRequest, JobState, QueueRequest, QueueResponse, SetPriorityRequest, SubmitRequest, WatchRequest, job_update,
};
use support::{FakeWorker, Fixture, Running};
use tonic::Code;
use tonic_types::StatusExt;

const POLICY: &str = "namespaces:\n  small: {max_workers: 1, max_queued: 1}\npriority_classes: {low: -5, high: 10}\n";

async fn queue(running: &Running) -> QueueResponse {
    running.jobs.clone().queue(QueueRequest::default()).await.expect("the queue is told").into_inner()
}

/// The kinds of the job's events so far, up to the one that is waited for.
async fn events_until(running: &Running, job: &str, last: &str) -> Vec<String> {
    let request = WatchRequest { job_id: job.to_owned(), after_event: 0 };
    let mut updates = running.jobs.clone().watch(request).await.expect("the job is known").into_inner();
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != last) {
        let update = tokio::time::timeout(support::PATIENCE, updates.message()).await;
        let update =
            update.unwrap_or_else(|_| panic!("waited in vain for {last} after {kinds:?}")).expect("the stream goes on");
        if let Some(job_update::Update::Event(event)) = update.and_then(|update| update.update) {
            kinds.push(event.kind);
        }
    }
    kinds
}

#[tokio::test]
async fn the_queue_says_why_each_job_waits_and_what_would_end_that() {
    let fixture = Fixture::new();
    let running = fixture.start_with(POLICY).await;
    let _worker = FakeWorker::connect(&running.address, "worker-a").await;
    let large = running.submit(&fixture.spec("large", "3")).await;
    let after = format!("{}after: [{{job: {large}}}]\npriority: high\n", fixture.spec("evaluate", "1"));
    let evaluate = running.submit(&after).await;
    // What a plan says is shared for a moment.
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    let found = loop {
        let found = queue(&running).await;
        if found.jobs.len() == 2 || tokio::time::Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let rows: Vec<_> = found.jobs.iter().map(|job| (job.job_id.as_str(), job.reason.as_str(), job.priority)).collect();
    assert_eq!(rows, [(evaluate.as_str(), "dependency", 10), (large.as_str(), "too_few_connected", 0)]);
    assert_eq!(found.jobs[0].jobs, std::slice::from_ref(&large));
    assert_eq!(found.jobs[0].ends_when, format!("{large} succeeds"));
    assert_eq!((found.jobs[1].ends_when.as_str(), found.free_workers), ("2 more connect", 1));
    assert_eq!(running.job(&large).await.message, found.jobs[1].explanation, "the same words everywhere");
    running.cancel(&large).await;
    let job = running.until_state(&evaluate, JobState::Failed).await;
    assert_eq!(job.error_code, "DEPENDENCY_FAILED");
}

#[tokio::test]
async fn a_namespace_over_its_quota_is_told_which_bound_it_has_reached() {
    let fixture = Fixture::new();
    let running = fixture.start_with(POLICY).await;
    let submit = |workers: &str| {
        let (mut jobs, spec) = (running.jobs.clone(), fixture.spec("demo", workers));
        let request = SubmitRequest { spec, namespace: "small".to_owned(), ..SubmitRequest::default() };
        async move { jobs.submit(request).await }
    };
    let refused = submit("2").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "OVER_QUOTA");
    assert!(refused.message().contains("1 workers at most"), "{}", refused.message());
    submit("1").await.unwrap();
    assert!(submit("1").await.unwrap_err().message().contains("1 queued jobs at most"));
    let small = queue(&running).await.namespaces.into_iter().find(|of| of.namespace == "small").unwrap();
    assert_eq!((small.queued, small.max_workers, small.max_running), (1, Some(1), None));
}

#[tokio::test]
async fn a_more_important_job_gets_the_workers_and_the_victim_goes_on_later() {
    let fixture = Fixture::new();
    let running = fixture.start_with(POLICY).await;
    let mut worker = FakeWorker::connect(&running.address, "worker-a").await;
    let humble = running.submit(&fixture.spec("humble", "1")).await;
    let form = worker.form().await;
    running.until_state(&humble, JobState::Running).await;
    worker.step_to(&form, 7);
    let urgent = running.submit(&format!("{}priority: high\n", fixture.spec("urgent", "1"))).await;
    let stop = worker.stop(&form).await;
    assert!(stop.reason.contains(&urgent), "{}", stop.reason);
    let form = worker.form().await;
    assert_eq!(form.job_id, urgent);
    running.until_state(&humble, JobState::Queued).await;
    let kinds = events_until(&running, &humble, "preempted").await;
    assert_eq!(
        kinds,
        ["submitted", "group_formed", "group_running", "stop_requested", "checkpoint_committed", "preempted"]
    );
    worker.complete(&form).await;
    running.until_state(&urgent, JobState::Succeeded).await;
    running.until_state(&humble, JobState::Forming).await;
}

#[tokio::test]
async fn a_job_that_is_to_end_when_pre_empted_does_and_can_be_requeued() {
    let fixture = Fixture::new();
    let running = fixture.start_with(POLICY).await;
    let mut worker = FakeWorker::connect(&running.address, "worker-a").await;
    let humble = running.submit(&format!("{}on_preemption: cancel\n", fixture.spec("humble", "1"))).await;
    let form = worker.form().await;
    running.until_state(&humble, JobState::Running).await;
    let urgent = running.submit(&fixture.spec("urgent", "1")).await;
    let raise = SetPriorityRequest { job_id: urgent.clone(), priority: "high".to_owned() };
    assert_eq!(running.jobs.clone().set_priority(raise).await.unwrap().into_inner().priority, 10);
    worker.stop(&form).await;
    let job = running.until_state(&humble, JobState::Preempted).await;
    assert_eq!((job.error_code.as_str(), job.message), ("PREEMPTED", format!("gave its workers to {urgent}")));
    let again = ChangeRequest { job_id: humble.clone(), reason: String::new() };
    let job = running.jobs.clone().requeue(again.clone()).await.unwrap().into_inner();
    assert_eq!(job.state(), JobState::Queued);
    let refused = running.jobs.clone().requeue(again).await.unwrap_err();
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "WRONG_STATE");
}

#[tokio::test]
async fn mistakes_about_scheduling_are_told_with_their_place() {
    let fixture = Fixture::new();
    let running = fixture.start_with(POLICY).await;
    for (line, path, hint) in [
        ("priority: urgent", "priority", "high (10), low (-5)"),
        ("after: [{job: nobody-abcde}]", "after", "there is no job `nobody-abcde`"),
        ("time_limit: soon", "time_limit", "write a number and a unit"),
    ] {
        let spec = format!("{}{line}\n", fixture.spec("demo", "1"));
        let request = SubmitRequest { spec, ..SubmitRequest::default() };
        let refused = running.jobs.clone().submit(request).await.unwrap_err();
        let details = refused.get_error_details();
        let mistake = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(mistake.field, path);
        assert!(mistake.description.contains(hint), "{}", mistake.description);
    }
}
