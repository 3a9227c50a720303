//! Lost workers, restarted coordinators, over real gRPC, with scripted workers.

mod support;

use std::time::Duration;

use cappa_proto::coordinator_message::Message;
use cappa_proto::worker_message::Message as Say;
use cappa_proto::{Failure, Goodbye, Heartbeat, JobState, Left};
use support::{FakeWorker, Fixture, Pair};

#[tokio::test]
async fn survivors_of_a_lost_worker_form_again_under_the_one_with_the_highest_step() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let mut a = FakeWorker::connect(&running.address, "worker-a").await;
    let mut b = FakeWorker::connect(&running.address, "worker-b").await;
    let mut c = FakeWorker::connect(&running.address, "worker-c").await;
    let id = running.submit(&fixture.spec("demo", "3")).await;
    let (form_a, _, form_c) = (a.form().await, b.form().await, c.form().await);
    running.until_state(&id, JobState::Running).await;
    a.step_to(&form_a, 41);
    c.step_to(&form_c, 42);
    drop(b);
    a.abort().await;
    c.abort().await;
    let (form_a, form_c) = (a.form().await, c.form().await);
    assert_eq!((form_a.generation, form_a.rank, form_c.rank, form_a.lead), (2, 0, 1, 1));
    let held: Vec<_> = form_a.members.iter().map(|peer| (peer.worker_id.as_str(), peer.step, peer.has_state)).collect();
    assert_eq!(held, [("worker-a", 41, true), ("worker-c", 42, true)]);
    let job = running.until_state(&id, JobState::Running).await;
    assert_eq!((job.recoveries, job.generation), (1, 2));
    assert_eq!(running.job_metric("cappa_steps_lost_total", &id).await, 0.0);
    assert_eq!(running.metric("cappa_recovery_duration_seconds_count{phase=\"detect\"}").await, 1.0);

    // A worker that comes later joins without state.
    let mut d = FakeWorker::connect(&running.address, "worker-b").await;
    a.step_to(&form_a, 50);
    c.step_to(&form_c, 50);
    a.abort().await;
    c.abort().await;
    let form = d.form().await;
    let held: Vec<_> = form.members.iter().map(|peer| (peer.worker_id.as_str(), peer.has_state)).collect();
    assert_eq!(held, [("worker-a", true), ("worker-c", true), ("worker-b", false)]);
    assert_eq!(running.job(&id).await.recoveries, 1, "growth is no recovery");
}

#[tokio::test]
async fn a_worker_that_hangs_is_lost_once_it_was_silent_for_the_detection_time() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    let (_, _) = (a.form().await, b.form().await);
    running.until_state(&id, JobState::Running).await;
    b.hang();
    let started = tokio::time::Instant::now();
    let abort = a.abort().await;
    let took = started.elapsed();
    // Five times as long, but less than any other time-out.
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(abort.reason.contains("worker-b was silent"), "{}", abort.reason);
    let form = a.form().await;
    assert_eq!(form.members.len(), 1);
    let silence = running.metric("cappa_recovery_duration_seconds_sum{phase=\"detect\"}").await;
    assert!((1.0..6.0).contains(&silence), "noticed after {silence} s of silence");
    assert_eq!(running.metric("cappa_recovery_duration_seconds_count{phase=\"detect\"}").await, 1.0);
}

#[tokio::test]
async fn a_process_that_wakes_after_another_took_its_place_is_told_to_end() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let mut old = FakeWorker::connect(&running.address, "worker-a").await;
    old.hang();
    // Refused as long as the other may live.
    let mut new = loop {
        let mut new = FakeWorker::connect(&running.address, "worker-a").await;
        match new.hears(Duration::from_millis(200)).await {
            Some(Message::Refused(refused)) => assert_eq!(refused.code, "ALREADY_EXISTS"),
            told => {
                assert_eq!(told, None);
                break new;
            }
        }
    };
    match old.next().await {
        Message::Refused(refused) => {
            assert_eq!(refused.code, "FENCED");
            assert!(refused.reason.contains("another process became worker worker-a"), "{}", refused.reason);
        }
        other => panic!("{other:?} instead of the refusal"),
    }
    old.ended().await;
    let id = running.submit(&fixture.spec("demo", "1")).await;
    new.form().await;
    running.until_state(&id, JobState::Running).await;
}

#[tokio::test]
async fn steps_that_only_a_lost_worker_had_made_are_counted_and_remembered() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    running.until_state(&id, JobState::Running).await;
    assert_eq!(running.job_metric("cappa_steps_lost_total", &id).await, 0.0);
    a.step_to(&form_a, 42);
    b.hang();
    let (job_id, generation) = (form_b.job_id, form_b.generation);
    b.say(Say::Heartbeat(Heartbeat { job_id, generation, step: 45, pace: 0, waiting: None })).await;
    a.abort().await;
    assert_eq!(a.form().await.members[0].step, 42);
    running.until(&id, "the next group", |job| job.generation == 2).await;
    assert_eq!(running.job_metric("cappa_steps_lost_total", &id).await, 3.0);
    running.coordinator.shut_down().await.unwrap();

    let running = fixture.start().await;
    assert_eq!(running.job_metric("cappa_steps_lost_total", &id).await, 3.0);
}

#[tokio::test]
async fn a_restarted_coordinator_forgets_nothing_and_disturbs_nobody() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    running.until_state(&id, JobState::Running).await;
    a.progress(&form_a, 1..=20).await;
    running.until(&id, "step 20", |job| job.step == 20).await;
    running.coordinator.shut_down().await.unwrap();

    let running = fixture.start().await;
    a.step_to(&form_a, 30);
    b.step_to(&form_b, 30);
    let job = running.job(&id).await;
    assert_eq!((job.state(), job.generation, job.step), (JobState::Running, 1, 20));
    let mut a = a.reconnect(&running.address).await;
    assert_eq!(a.welcome.metrics_after, 20, "the curve is remembered");
    // The other one takes longer than the detection time to come back.
    assert_eq!(a.hears(Duration::from_millis(1500)).await, None);
    let mut b = b.reconnect(&running.address).await;
    assert_eq!(b.hears(Duration::from_millis(300)).await, None);
    let job = running.job(&id).await;
    assert_eq!((job.state(), job.generation, job.recoveries), (JobState::Running, 1, 0));
    a.complete(&form_a).await;
    b.complete(&form_b).await;
    running.until_state(&id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_permanent_failure_fails_the_job_with_the_first_failing_rank() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    let left = |form: &cappa_proto::Form, code: &str, message: &str, permanent| {
        let failure = Failure { code: code.into(), message: message.into(), permanent };
        let (job_id, generation) = (form.job_id.clone(), form.generation);
        Say::Left(Left { job_id, generation, step: 1, has_state: true, failure: Some(failure) })
    };
    // The fallout arrives before its cause.
    a.say(left(&form_a, "collective", "connection closed by peer", false)).await;
    b.say(left(&form_b, "data", "shard-0.tar is truncated", true)).await;
    let job = running.until_state(&id, JobState::Failed).await;
    assert_eq!(job.message, "rank 1 (worker-b): shard-0.tar is truncated");
    assert_eq!(job.error_code, "DATA_UNREADABLE");
    a.release().await;
}

#[tokio::test]
async fn a_second_live_process_of_a_worker_id_is_refused() {
    let fixture = Fixture::new();
    let running = fixture.start_patient().await;
    let first = FakeWorker::connect(&running.address, "worker-a").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut second = FakeWorker::connect(&running.address, "worker-a").await;
    match second.next().await {
        Message::Refused(refused) => assert_eq!(refused.code, "ALREADY_EXISTS"),
        other => panic!("{other:?} instead of a refusal"),
    }
    drop(first);
}

#[tokio::test]
async fn a_worker_that_says_goodbye_leaves_its_group_to_the_others() {
    let fixture = Fixture::new();
    let Pair { running, mut a, mut b, job: id } = fixture.pair("2").await;
    let (form_a, form_b) = (a.form().await, b.form().await);
    running.until_state(&id, JobState::Running).await;
    b.say(Say::Goodbye(Goodbye { reason: "node drain".into() })).await;
    assert_eq!(a.hears(Duration::from_millis(300)).await, None, "the group still has to save its state");
    for (worker, form) in [(&a, &form_a), (&b, &form_b)] {
        worker.parts(form, 12).await;
        worker.left(form, 12).await;
    }
    // The acknowledgement of the checkpoint may come before or after the order to form.
    let form = loop {
        match a.next().await {
            Message::Form(form) => break form,
            Message::Committed(_) => {}
            other => panic!("{other:?} instead of the order to form"),
        }
    };
    assert_eq!((form.generation, form.members.len(), form.members[0].step), (2, 1, 12));
    let job = running.until(&id, "the commit", |job| job.last_checkpoint_step == 12).await;
    assert_eq!(job.recoveries, 0, "nothing was lost");
    assert_eq!(running.job_metric("cappa_steps_lost_total", &id).await, 0.0);
}
