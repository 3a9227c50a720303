//! Jobs that name shards, over real gRPC: indexed first, and from then on as if they had named the manifest.

#![allow(clippy::unwrap_used, reason = "code of tests")]

mod support;

use std::time::{Duration, Instant};

use cappa_coordinator::{Config, Coordinator};
use cappa_proto::{ChangeRequest, JobState, SubmitRequest, WatchRequest, job_update::Update};
use cappa_shared::manifest::DataManifest;
use cappa_shared::spec::JobSpec;
use cappa_shared::storage::{self, AllowList};
use support::shards::{self, Web};
use support::{FakeWorker, Fixture, PATIENCE, Running};
use tonic_types::StatusExt;

/// The fixture's spec over other data, for two epochs.
fn spec(fixture: &Fixture, train: &str) -> String {
    let corpus = fixture.folder.path().join("corpus");
    let manifest = format!("{}/train.json", corpus.display());
    fixture.spec("demo", "1").replace(&manifest, &format!("'{train}'")).replace("steps: 100", "epochs: 2")
}

async fn kinds(running: &Running, id: &str) -> Vec<(String, String)> {
    let request = WatchRequest { job_id: id.to_owned(), after_event: 0 };
    let mut updates = running.jobs.clone().watch(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    // Events come before the first view of the job.
    while let Some(Update::Event(event)) = updates.message().await.unwrap().and_then(|update| update.update) {
        events.push((event.kind, event.message));
    }
    events
}

/// Waits until the journal of the job's index holds so many shards, which are safe from then on.
async fn until_journaled(folder: &str, shards: usize) {
    let folder = storage::open(folder).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut held = 0;
        for segment in folder.list("data/train-0.manifest.json.journal").await.unwrap() {
            let segment = folder.get(&format!("data/train-0.manifest.json.journal/{}", segment.path)).await.unwrap();
            held += DataManifest::from_json(&segment).unwrap().shards().len();
        }
        if held == shards {
            return;
        }
        assert!(Instant::now() < deadline, "the journal holds {held} shards of {shards}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_job_that_names_shards_is_indexed_and_goes_on_as_if_it_had_named_the_manifest() {
    let fixture = Fixture::new();
    let folder = shards::write(&fixture.folder.path().join("shards"), 64);
    let running = fixture.start().await;
    let mut worker = FakeWorker::connect(&running.address, "worker-a").await;
    let pattern = format!("{}/train-{{000000..000001}}.tar", folder.display());
    let other = format!("{}/train-{{000002..000003}}.tar", folder.display());
    let id = running.submit(&spec(&fixture, &pattern)).await;
    let form = worker.form().await;

    let told: JobSpec = serde_json::from_str(&form.spec_json).unwrap();
    let source = &told.data.train.only().unwrap().source;
    assert!(source.contains(&format!("/jobs/{id}/data/train-0-")) && source.ends_with(".manifest.json"), "{source}");
    let manifest = DataManifest::from_json(&storage::open(source).unwrap().get("").await.unwrap()).unwrap();
    assert_eq!((manifest.shards().len(), manifest.total_samples(), form.total_steps), (2, 32, 2));
    let job = running.job(&id).await;
    assert_eq!((job.total_steps, job.spec_json.as_str()), (2, form.spec_json.as_str()));
    let events = kinds(&running, &id).await;
    let (kind, message) = &events[1];
    assert_eq!((events[0].0.as_str(), kind.as_str()), ("submitted", "indexed"));
    for part in ["32 samples in 2 shards", pattern.as_str(), source.as_str(), manifest.digest()] {
        assert!(message.contains(part), "{part} is missing from {message}");
    }
    let startup = job.time.iter().find(|bucket| bucket.bucket == "startup").unwrap();
    assert!(startup.seconds > 0.0, "{:?}", job.time);
    // The job does not wait for the end of the journal.
    let begun = Instant::now();
    let journal =
        || async { storage::open(&job.folder).unwrap().list("data/train-0.manifest.json.journal").await.unwrap() };
    while !journal().await.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "something is left of the journal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Several sources, of which one has its manifest already; and a filter, which the index applies.
    running.cancel(&id).await;
    worker.abort().await;
    let mixture = format!("[{{source: '{source}', weight: 2}}, {{source: '{other}', weight: 1}}]");
    let text = spec(&fixture, "X").replace("'X'", &mixture).replace("epochs: 2", "steps: 7");
    let id = running.submit(&text).await;
    let job = running.until(&id, "the queue", |job| job.state() != JobState::Indexing).await;
    let told: JobSpec = serde_json::from_str(&job.spec_json).unwrap();
    let sources: Vec<_> = told.data.train.iter().map(|source| (source.source.clone(), source.weight)).collect();
    assert_eq!(sources[0], (source.clone(), 2.0));
    assert!(sources[1].0.contains("/data/train-1-") && sources[1].1 == 1.0, "{sources:?}");
    assert_eq!(job.total_steps, 7);
}

#[tokio::test]
async fn an_index_is_seen_paused_and_resumed_and_outlives_the_coordinator() {
    let fixture = Fixture::new();
    let folder = shards::write(&fixture.folder.path().join("shards"), 64);
    let web = Web::serve(&folder).await;
    web.stall("train-000003.tar");
    let running = fixture.start().await;
    let id = running.submit(&spec(&fixture, &web.url("train-{000000..000003}.tar"))).await;
    let three = |job: &cappa_proto::Job| job.index.is_some_and(|index| index.shards == 3);
    let job = running.until(&id, "three shards", three).await;
    assert_eq!((job.state(), job.message.as_str()), (JobState::Indexing, "3 of 4 shards, 48 samples"));
    assert_eq!(job.index.unwrap().of_shards, 4);
    until_journaled(&job.folder, 3).await;

    let change = ChangeRequest { job_id: id.clone(), reason: "test".into() };
    let job = running.jobs.clone().pause(change.clone()).await.unwrap().into_inner();
    assert_eq!((job.state(), job.index), (JobState::Paused, None));
    let job = running.jobs.clone().resume(change).await.unwrap().into_inner();
    assert_eq!(job.state(), JobState::Indexing);
    running.until(&id, "three shards again", three).await;

    let Running { coordinator, .. } = running;
    coordinator.shut_down().await.unwrap();
    let running = fixture.start().await;
    running.until(&id, "three shards after the restart", three).await;
    web.go_on();
    let job = running.until(&id, "the queue", |job| job.state() == JobState::Queued).await;
    assert_eq!(job.total_steps, 4, "64 samples twice, 32 a step");
    let reads: Vec<usize> = (0..3).map(|shard| web.reads(&format!("train-00000{shard}.tar"))).collect();
    assert_eq!(reads, [1, 1, 1], "none of them was read again");
}

#[tokio::test]
async fn the_key_of_a_job_that_names_shards_is_good_for_those_shards_after_the_index_too() {
    let fixture = Fixture::new();
    let folder = shards::write(&fixture.folder.path().join("shards"), 64);
    let running = fixture.start().await;
    let submit = |shards: &str| {
        let pattern = format!("{}/train-{shards}.tar", folder.display());
        let request = SubmitRequest {
            spec: spec(&fixture, &pattern),
            idempotency_key: "once".into(),
            ..SubmitRequest::default()
        };
        let mut jobs = running.jobs.clone();
        async move { jobs.submit(request).await.map(|answer| answer.into_inner().job.unwrap().id) }
    };
    let id = submit("{000000..000001}").await.unwrap();
    running.until(&id, "the queue", |job| job.state() == JobState::Queued).await;
    assert_eq!(submit("{000000..000001}").await.unwrap(), id);
    let refused = submit("{000002..000003}").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused}");
    let Running { coordinator, .. } = running;
    coordinator.shut_down().await.unwrap();

    let running = fixture.start().await;
    let spec = spec(&fixture, &format!("{}/train-{{000000..000001}}.tar", folder.display()));
    let request = SubmitRequest { spec, idempotency_key: "once".into(), ..SubmitRequest::default() };
    assert_eq!(running.jobs.clone().submit(request).await.unwrap().into_inner().job.unwrap().id, id);
}

#[tokio::test]
async fn a_store_that_does_not_answer_delays_the_index_and_says_so() {
    let fixture = Fixture::new();
    let folder = shards::write(&fixture.folder.path().join("shards"), 64);
    let web = Web::serve(&folder).await;
    web.be_away(true);
    let running = fixture.start().await;
    let id = running.submit(&spec(&fixture, &web.url("train-{000000..000003}.tar"))).await;
    let job = running.until(&id, "the trouble", |job| job.message.contains("tried again")).await;
    assert_eq!(job.state(), JobState::Indexing);
    assert!(job.message.contains(&web.address.unwrap().to_string()), "{}", job.message);
    web.be_away(false);
    running.until(&id, "the queue", |job| job.state() == JobState::Queued).await;
}

#[tokio::test]
async fn shards_that_cannot_be_indexed_end_the_job_with_the_reason() {
    let fixture = Fixture::new();
    let folder = shards::write(&fixture.folder.path().join("shards"), 64);
    std::fs::write(folder.join("broken-0.tar"), "this is no tar file".repeat(100)).unwrap();
    let running = fixture.start().await;
    let at = |name: &str| format!("{}/{name}", folder.display());
    for (pattern, code, reason) in [
        (at("none-*.tar"), "INVALID_SPEC", "no shard matches"),
        (at("train-000000.tar"), "INVALID_SPEC", "data.train has 16 samples for 32 lanes"),
        (at("train-{000003..000004}.tar"), "DATA_UNREADABLE", "train-000004.tar"),
        (at("broken-*.tar"), "DATA_UNREADABLE", "no samples that can be used"),
    ] {
        let id = running.submit(&spec(&fixture, &pattern)).await;
        let job = running.until_state(&id, JobState::Failed).await;
        assert_eq!(job.error_code, code, "{pattern}: {}", job.message);
        assert!(job.message.contains(reason), "{pattern}: {}", job.message);
    }
}

#[tokio::test]
async fn a_pattern_that_is_malformed_or_outside_the_allowed_stores_is_refused() {
    let fixture = Fixture::new();
    let at = fixture.folder.path().display().to_string();
    let allowed = AllowList::new([format!("{at}/corpus").as_str()]).unwrap();
    let coordinator = Coordinator::start(Config { allowed, ..fixture.config() }).await.unwrap();
    let address = format!("http://{}", coordinator.grpc_address());
    let mut jobs = cappa_proto::jobs_client::JobsClient::connect(address).await.unwrap();
    for (pattern, reason) in [
        (format!("{at}/shards/train-*.tar"), "not below any allowed storage prefix"),
        (format!("{at}/{{corpus,shards}}/t-{{0..9}}.tar"), "not below any allowed storage prefix"),
        (format!("{at}/corpus/train-{{0..}}.tar"), "has a brace that is neither"),
    ] {
        let request = SubmitRequest { spec: spec(&fixture, &pattern), ..SubmitRequest::default() };
        let status = jobs.submit(request).await.unwrap_err();
        let violations = status.get_details_bad_request().unwrap().field_violations;
        let found = violations.iter().find(|violation| violation.field == "data.train").unwrap();
        assert!(found.description.contains(reason), "{pattern}: {}", found.description);
    }
    coordinator.shut_down().await.unwrap();
}
