//! Pinned checkpoints and rollbacks, over real gRPC, with scripted workers.

#![allow(clippy::unwrap_used, reason = "code of tests")]

mod support;

use cappa_coordinator::{Task, maintain};
use cappa_proto::coordinator_message::Message;
use cappa_proto::worker_message::Message as Say;
use cappa_proto::{CheckpointInfo, CheckpointRequest, Failure, Form, GetRequest, JobState, Left};
use cappa_shared::checkpoint::{abandoned_path, attempt_folder, chain, committed, history, manifest_path};
use cappa_shared::ids::{Generation, Step};
use support::{FakeWorker, Fixture, Pair, Running};
use tonic_types::StatusExt;

/// Both ranks write their parts of a checkpoint, and it is committed.
async fn checkpoint(running: &Running, job: &str, ranks: [(&mut FakeWorker, &Form); 2], step: u64) {
    for (worker, form) in ranks {
        worker.step_to(form, step);
        worker.parts(form, step).await;
    }
    running.until(job, "the commit", |job| job.last_checkpoint_step == step).await;
}

/// The acknowledgement of a checkpoint.
async fn committed_to(worker: &mut FakeWorker) {
    let told = worker.next().await;
    assert!(matches!(told, Message::Committed(_)), "{told:?} instead of the acknowledgement");
}

fn request(job: &str, step: u64) -> CheckpointRequest {
    CheckpointRequest { job_id: job.to_owned(), step, reason: "looks good".to_owned() }
}

async fn listed(running: &Running, job: &str) -> Vec<CheckpointInfo> {
    let request = GetRequest { job_id: job.to_owned() };
    let mut all = running.jobs.clone().checkpoints(request).await.unwrap().into_inner().checkpoints;
    all.retain(|checkpoint| !checkpoint.retired);
    all
}

#[tokio::test]
async fn a_pinned_checkpoint_stays_over_retention_and_a_restart_of_the_coordinator() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], 10).await;
    let pinned = running.jobs.clone().pin_checkpoint(request(&job, 10)).await.unwrap().into_inner().checkpoints;
    assert_eq!((pinned[0].pinned.as_deref(), pinned[0].parts), (Some("looks good"), 2));
    for step in [20, 30, 40] {
        checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], step).await;
    }
    let status = running.jobs.clone().pin_checkpoint(request(&job, 15)).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "NOT_FOUND");
    assert!(status.message().contains("there are 10, 30, 40"), "{}", status.message());
    running.coordinator.shut_down().await.unwrap();

    let running = fixture.start().await;
    let steps: Vec<_> = listed(&running, &job).await.iter().map(|one| (one.step, one.pinned.is_some())).collect();
    assert_eq!(steps, [(40, false), (30, false), (10, true)], "two are kept besides the pinned one");
    let folder = cappa_shared::storage::open(&running.job(&job).await.folder).unwrap();
    let gone = async {
        while committed(&folder).await.unwrap() != [40, 30, 10].map(Step) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, gone).await.expect("only what retention took is deleted");
    running.jobs.clone().unpin_checkpoint(request(&job, 10)).await.unwrap();
    let steps: Vec<_> = listed(&running, &job).await.iter().map(|one| one.step).collect();
    assert_eq!(steps, [40, 30], "unpinned, it is what retention has too much");
}

#[tokio::test]
async fn a_job_that_goes_back_forms_anew_and_its_manifests_stay_one_chain() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    a.progress(&form_a, 1..=30).await;
    for step in [10, 20, 30] {
        checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], step).await;
        committed_to(&mut a).await;
        committed_to(&mut b).await;
    }
    running.until_state(&job, JobState::Running).await;
    running.until(&job, "the curve", |job| job.latest.is_some_and(|point| point.step == 30)).await;
    running.jobs.clone().rollback(request(&job, 20)).await.unwrap();
    a.abort().await;
    b.abort().await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    assert_eq!((form_a.generation, form_a.discarded), (2, 1));
    assert!(form_a.members.iter().all(|member| !member.has_state), "{form_a:?}");
    assert!(form_a.restore[0].ends_with(&manifest_path(Step(20))), "{:?}", form_a.restore);
    let back = running.until_state(&job, JobState::Running).await;
    assert_eq!((back.latest.unwrap().step, back.recoveries), (20, 0), "the curve is back as well");
    assert_eq!(running.job_metric("cappa_steps_lost_total", &job).await, 0.0);

    checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], 30).await;
    let folder = cappa_shared::storage::open(&running.job(&job).await.folder).unwrap();
    folder.get(&abandoned_path(Step(30), Generation(1))).await.expect("what was given up can still be read");
    let (manifests, mut findings) = history(&folder).await.unwrap();
    let steps: Vec<_> = chain(&manifests, &mut findings).iter().map(|one| one.contents().step.0).collect();
    assert_eq!((steps, findings), (vec![10, 20, 30], Vec::new()));
    let groups = &manifests[2].contents().account.as_ref().unwrap().groups;
    let line: Vec<_> = groups.iter().map(|group| (group.generation.0, group.first.0, group.end.0)).collect();
    assert_eq!(line, [(2, 20, 30)]);
}

#[tokio::test]
async fn a_damaged_checkpoint_is_told_its_steps_are_counted_and_what_is_made_after_it_is_kept() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    for step in [10, 20] {
        checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], step).await;
        committed_to(&mut a).await;
        committed_to(&mut b).await;
    }
    drop((a, b));
    running.until_state(&job, JobState::Queued).await;
    let mut a = FakeWorker::connect(&running.address, "worker-a").await;
    let mut b = FakeWorker::connect(&running.address, "worker-b").await;
    let (told_a, told_b) = (a.next().await, b.next().await);
    let (Message::Form(form), Message::Form(_)) = (&told_a, &told_b) else { panic!("{told_a:?}, {told_b:?}") };
    assert!(form.restore[0].ends_with(&manifest_path(Step(20))), "{:?}", form.restore);
    b.step_to(form, 10);
    let (job_id, generation) = (job.clone(), form.generation);
    let message = "damaged: checkpoints/000000000020/MANIFEST.json".to_owned();
    let failure = Some(Failure { code: "CHECKPOINT_DAMAGED".to_owned(), message, permanent: false });
    a.say(Say::Left(Left { job_id, generation, step: 10, has_state: true, failure })).await;
    b.abort().await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    assert_eq!((form_a.generation, form_a.discarded), (3, 2));
    assert!(form_a.restore[0].ends_with(&manifest_path(Step(10))), "{:?}", form_a.restore);
    assert_eq!(running.job_metric("cappa_steps_lost_total", &job).await, 10.0);
    let page = running.http(&format!("/api/jobs/{job}")).await;
    assert!(page.contains("checkpoint_damaged") && page.contains("damaged: checkpoints/000000000020"), "{page}");
    checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], 20).await;
    let folder = cappa_shared::storage::open(&running.job(&job).await.folder).unwrap();
    folder.get(&abandoned_path(Step(20), Generation(2))).await.expect("what is damaged is out of the way");
    assert_eq!(committed(&folder).await.unwrap(), [20, 10].map(Step));
}

#[tokio::test]
async fn after_a_restore_a_job_goes_on_from_what_was_committed_since_the_backup_in_a_generation_of_its_own() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job } = fixture.pair("{min: 1, max: 2}").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], 10).await;
    committed_to(&mut a).await;
    let store = fixture.folder.path().join("store");
    let store_url = store.to_str().unwrap();
    let backup = fixture.folder.path().join("backup.jsonl");
    maintain(store_url, &Task::Backup { to: backup.clone() }).await.unwrap();

    drop(b);
    a.abort().await;
    let form_a = a.form().await;
    assert_eq!(form_a.generation, 2);
    for step in [20, 30, 40] {
        a.step_to(&form_a, step);
        a.parts(&form_a, step).await;
        running.until(&job, "the commit", |job| job.last_checkpoint_step == step).await;
    }
    let folder = cappa_shared::storage::open(&running.job(&job).await.folder).unwrap();
    let gone = async {
        while committed(&folder).await.unwrap() != [40, 30].map(Step) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, gone).await.expect("two are kept");
    let Running { coordinator, .. } = running;
    coordinator.shut_down().await.unwrap();
    drop(a);
    // Another group had begun to write.
    folder
        .put(&format!("{}/part-00000-of-00001.safetensors", attempt_folder(Step(50), Generation(5))), "x")
        .await
        .unwrap();

    std::fs::rename(store.join("coordinator"), fixture.folder.path().join("lost")).unwrap();
    let told = maintain(store_url, &Task::Restore { from: backup }).await.unwrap();
    assert!(told.ends_with("2 checkpoints were committed since, which their jobs go on from"), "{told}");
    let running = fixture.start().await;
    let steps: Vec<_> = listed(&running, &job).await.iter().map(|one| one.step).collect();
    assert_eq!(steps, [40, 30, 10]);
    let mut a = FakeWorker::connect(&running.address, "worker-a").await;
    let mut b = FakeWorker::connect(&running.address, "worker-b").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    assert_eq!(form_a.generation, 6, "nobody's files are written over");
    assert!(form_a.restore[0].ends_with(&manifest_path(Step(40))), "{:?}", form_a.restore);
    checkpoint(&running, &job, [(&mut a, &form_a), (&mut b, &form_b)], 50).await;
    let (manifests, mut findings) = history(&folder).await.unwrap();
    let steps: Vec<_> = chain(&manifests, &mut findings).iter().map(|one| one.contents().step.0).collect();
    assert_eq!((steps, findings), (vec![10, 20, 30, 40, 50], Vec::new()), "the chain that audits follow is whole");
}
