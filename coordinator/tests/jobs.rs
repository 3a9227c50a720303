//! The life of a job, over real gRPC, with scripted workers.

mod support;

use std::time::Duration;

use cappa_proto::coordinator_message::Message;
use cappa_proto::{
    ChangeRequest, CurveRequest, GetRequest, JobState, ListRequest, Outcome, SubmitRequest, WatchRequest,
    job_update::Update,
};
use support::{FakeWorker, Fixture, Pair};
use tonic_types::StatusExt;

#[tokio::test]
async fn a_submitted_job_gets_its_workers_and_succeeds() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;

    let (form_a, form_b) = (a.form().await, b.form().await);
    assert_eq!((form_a.generation, form_a.rank, form_b.rank), (1, 0, 1));
    assert_eq!(form_a.members, form_b.members);
    assert_eq!((form_a.total_steps, form_a.metrics_after), (100, 0));
    assert!(form_a.restore.is_empty() && form_a.members.iter().all(|member| !member.has_state));
    running.until_state(&id, JobState::Running).await;

    a.progress(&form_a, 1..=50).await;
    a.progress(&form_a, 40..=100).await;
    a.complete(&form_a).await;
    b.complete(&form_b).await;
    let job = running.until_state(&id, JobState::Succeeded).await;
    assert_eq!((job.step, job.recoveries), (100, 0));
    a.release().await;
    b.release().await;

    let curve =
        running.jobs.clone().curve(CurveRequest { job_id: id.clone(), from_step: 0 }).await.unwrap().into_inner();
    let steps: Vec<u64> = curve.points.iter().map(|point| point.step).collect();
    assert_eq!(steps, (1..=100).collect::<Vec<_>>());
    let wall = (job.ended_unix_ms - job.submitted_unix_ms) as f64 / 1000.0;
    let accounted: f64 = job.time.iter().map(|bucket| bucket.seconds).sum();
    assert!((wall - accounted).abs() < 0.01, "{wall} s of wall time, {accounted} s accounted for");
}

#[tokio::test]
async fn a_checkpoint_is_committed_when_all_ranks_have_written_and_old_ones_go() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    running.until_state(&id, JobState::Running).await;
    for step in [10, 20, 30] {
        a.parts(&form_a, step).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let committed = running.job(&id).await.last_checkpoint_step;
        assert_eq!(committed, step - 10, "the parts of one rank of two are no checkpoint");
        b.parts(&form_b, step).await;
        for worker in [&mut a, &mut b] {
            match worker.next().await {
                Message::Committed(committed) => assert_eq!((committed.step, committed.generation), (step, 1)),
                other => panic!("{other:?} instead of the acknowledgement"),
            }
        }
        running.until(&id, "the commit", |job| job.last_checkpoint_step == step).await;
    }
    assert_eq!(running.metric("cappa_checkpoint_commit_duration_seconds_count").await, 3.0);
    let took = running.metric("cappa_checkpoint_commit_duration_seconds_sum").await;
    assert!(took >= 0.3, "the second rank's parts came 0.2 s after the first's each time, but all took {took} s");
    let request = GetRequest { job_id: id.clone() };
    let kept = running.jobs.clone().checkpoints(request).await.unwrap().into_inner().checkpoints;
    let kept = kept.iter().filter(|checkpoint| !checkpoint.retired);
    let steps: Vec<u64> = kept.map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, [30, 20], "two are kept");
    let folder = cappa_shared::storage::open(&running.job(&id).await.folder).unwrap();
    let manifest = cappa_shared::checkpoint::load(&folder, cappa_shared::ids::Step(30)).await.unwrap();
    assert_eq!((manifest.contents().parts.len(), manifest.total_bytes()), (2, 200));
    let gone = async {
        while cappa_shared::checkpoint::load(&folder, cappa_shared::ids::Step(10)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, gone).await.expect("the oldest checkpoint's manifest is deleted");
}

#[tokio::test]
async fn a_paused_job_checkpoints_and_resumes_from_there() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let mut a = FakeWorker::connect(&running.address, "worker-a").await;
    let id = running.submit(&fixture.spec("demo", "1")).await;
    let form = a.form().await;
    running.until_state(&id, JobState::Running).await;
    let change = ChangeRequest { job_id: id.clone(), reason: "maintenance".into() };
    let job = running.jobs.clone().pause(change.clone()).await.unwrap().into_inner();
    assert_eq!(job.state(), JobState::Pausing);
    assert!(matches!(a.next().await, Message::Stop(_)));
    a.parts(&form, 15).await;
    assert!(matches!(a.next().await, Message::Committed(_)));
    a.complete_as(&form, 15, Outcome::Stopped).await;
    running.until_state(&id, JobState::Paused).await;
    a.release().await;
    running.jobs.clone().resume(change).await.unwrap();
    let form = a.form().await;
    assert_eq!((form.generation, form.restore.len()), (2, 1));
    assert!(!form.members[0].has_state);
    assert!(form.restore[0].contains("15/MANIFEST.json"), "{:?}", form.restore);
    running.until(&id, "the next group", |job| job.generation == 2).await;
    assert_eq!(running.job_metric("cappa_steps_lost_total", &id).await, 0.0);
}

#[tokio::test]
async fn a_bad_spec_is_refused_with_every_mistake() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let submit = |spec: String| {
        let mut jobs = running.jobs.clone();
        async move { jobs.submit(SubmitRequest { spec, ..SubmitRequest::default() }).await }
    };
    let good = fixture.spec("demo", "2");
    let corpus = fixture.folder.path().join("corpus");

    let spec = good.replace("train.json", "absent.json").replace("batch_size: 32", "batch_size: 0\ncolour: red");
    let status = submit(spec).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_SPEC");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let paths: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    for path in ["batch_size", "colour", "data.train"] {
        assert!(paths.contains(&path), "{path} is missing from {paths:?}");
    }

    std::fs::remove_file(corpus.join("shard-0.tar")).unwrap();
    std::fs::write(corpus.join("shard-1.tar"), "short").unwrap();
    std::fs::write(corpus.join("tokenizer.json"), r#"{"model":{"vocab":{"a":9999}}}"#).unwrap();
    let status = submit(good.clone()).await.unwrap_err();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let text = violations.iter().map(|v| format!("{}: {}\n", v.field, v.description)).collect::<String>();
    for part in
        ["data.train: shard shard-0.tar", "data.train: shard shard-1.tar has 5 bytes", "data.tokenizer: has 10000"]
    {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
    assert!(running.jobs.clone().list(cappa_proto::ListRequest::default()).await.unwrap().into_inner().jobs.is_empty());
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_job() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let request =
        SubmitRequest { spec: fixture.spec("demo", "1"), idempotency_key: "once".into(), ..SubmitRequest::default() };
    let id = |answer: cappa_proto::SubmitResponse| answer.job.unwrap().id;
    let first = id(running.jobs.clone().submit(request.clone()).await.unwrap().into_inner());
    let again = id(running.jobs.clone().submit(request.clone()).await.unwrap().into_inner());
    let elsewhere = SubmitRequest { namespace: "team".into(), ..request.clone() };
    let other = id(running.jobs.clone().submit(elsewhere).await.unwrap().into_inner());
    let dry = SubmitRequest { dry_run: true, ..request };
    let dry = running.jobs.clone().submit(dry).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(dry.job.unwrap().id.is_empty() && dry.spec_json.contains("cappa.dev/v1"));
}

#[tokio::test]
async fn a_key_used_for_another_spec_is_refused_and_gives_the_job_of_its_own_also_without_its_data() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let submit = |spec: &str, key: &str| {
        let request = SubmitRequest { spec: spec.into(), idempotency_key: key.into(), ..SubmitRequest::default() };
        let mut jobs = running.jobs.clone();
        async move { jobs.submit(request).await.map(|answer| answer.into_inner().job.unwrap().id) }
    };
    let (spec, other) = (fixture.spec("demo", "1"), fixture.spec("demo", "2"));
    let first = submit(&spec, "once").await.unwrap();
    let refused = submit(&other, "once").await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ALREADY_EXISTS");
    for part in ["`once`", first.as_str(), "use another key, or the same spec"] {
        assert!(refused.message().contains(part), "{part} is missing from {}", refused.message());
    }
    assert_ne!(submit(&other, "twice").await.unwrap(), first);

    let together = tokio::join!(submit(&spec, "thrice"), submit(&other, "thrice"));
    let codes = [together.0.err(), together.1.err()].map(|refused| refused.map(|status| status.code()));
    assert!(
        [[Some(tonic::Code::AlreadyExists), None], [None, Some(tonic::Code::AlreadyExists)]].contains(&codes),
        "{codes:?}"
    );

    std::fs::remove_dir_all(fixture.folder.path().join("corpus")).unwrap();
    assert_eq!(submit(&spec, "once").await.unwrap(), first);
    let refused = submit("name: demo", "once").await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "INVALID_SPEC");
}

#[tokio::test]
async fn a_waiting_job_says_why_and_a_watcher_sees_its_end() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let id = running.submit(&fixture.spec("demo", "{min: 2, max: 3}")).await;
    let job = running.job(&id).await;
    assert_eq!((job.state(), job.message.as_str()), (JobState::Queued, "needs 2 workers; only 0 are connected"));
    let request = WatchRequest { job_id: id.clone(), after_event: 0 };
    let mut updates = running.jobs.clone().watch(request).await.unwrap().into_inner();
    running.cancel(&id).await;
    let (mut kinds, mut state) = (Vec::new(), JobState::Unspecified);
    while let Some(update) = updates.message().await.unwrap() {
        match update.update.unwrap() {
            Update::Event(event) => kinds.push(event.kind),
            Update::Job(job) => state = job.state(),
        }
    }
    assert_eq!(kinds, ["submitted", "cancelled"]);
    assert_eq!(state, JobState::Cancelled);
}

#[tokio::test]
async fn a_job_says_which_rank_waits_for_which_store() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    a.form().await;
    b.form().await;
    running.until_state(&id, JobState::Running).await;
    b.wait_for(Some("s3://shards/train-7.tar"));
    let job = running.until(&id, "the wait", |job| !job.message.is_empty()).await;
    let told = "rank 1 (worker-b) has waited 12 s for s3://shards/train-7.tar: its store does not answer";
    assert_eq!((job.state(), job.message.as_str()), (JobState::Running, told));
    b.wait_for(None);
    running.until(&id, "the end of the wait", |job| job.message.is_empty()).await;
}

#[tokio::test]
async fn metrics_and_pages_are_served() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let mut a = FakeWorker::connect(&running.address, "worker-a").await;
    let id = running.submit(&fixture.spec("demo", "1")).await;
    let form = a.form().await;
    running.until_state(&id, JobState::Running).await;
    a.progress(&form, 1..=7).await;
    running.until(&id, "step 7", |job| job.step == 7).await;
    let metrics = running.http("/metrics").await;
    for line in [
        format!("cappa_job_steps_total{{job=\"{id}\",namespace=\"default\"}} 7"),
        format!("cappa_job_time_seconds_total{{job=\"{id}\",namespace=\"default\",bucket=\"queue\"}}"),
        "cappa_workers{state=\"training\"} 1".to_owned(),
        "cappa_jobs{state=\"failed\"} 0".to_owned(),
        "cappa_rpc_duration_seconds_bucket".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} is missing from\n{metrics}");
    }
    assert_eq!(metrics.matches("# EOF").count(), 1);
    for path in ["/healthz", "/readyz", "/", "/api/jobs", &format!("/api/jobs/{id}")] {
        assert!(running.http(path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(running.http("/api/jobs/nonsense").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn pages_of_the_list_have_every_job_once_while_jobs_are_added() {
    let fixture = Fixture::new();
    let running = Box::pin(fixture.start()).await;
    let mut submitted = Vec::new();
    for n in 0..5 {
        submitted.push(running.submit(&fixture.spec(&format!("job-{n}"), "2")).await);
        // Those that are submitted within a millisecond come by id.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    submitted.reverse();
    for states in [vec![], vec![JobState::Queued.into()]] {
        let (mut listed, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListRequest { page_size: 2, page_token, states: states.clone(), ..ListRequest::default() };
            let page = running.jobs.clone().list(request).await.unwrap().into_inner();
            listed.extend(page.jobs.into_iter().map(|job| job.id));
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
            running.submit(&fixture.spec("later", "2")).await;
        }
        let known: Vec<_> = listed.iter().filter(|id| submitted.contains(id)).cloned().collect();
        assert_eq!(known, submitted, "{states:?}");
        let mut distinct = listed.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), listed.len(), "{states:?}: {listed:?}");
    }
    let request = ListRequest { page_token: "2".into(), ..ListRequest::default() };
    let refused = running.jobs.clone().list(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    running.coordinator.shut_down().await.unwrap();
}
