//! Commands against a coordinator's service: what they print and how they exit.

use std::collections::HashMap;

use crate::support::{Script, World, event, job, now, serve};
use cappa_proto::JobState::{Cancelled, Failed, Preempted, Running, Succeeded};

const SPEC: &str = r#"
apiVersion: cappa.dev/v1
name: demo
model: tiny
data: { train: train.json, tokenizer: tokenizer.json }
batch_size: 64
duration: { steps: 100 }
"#;

fn spec_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.yaml");
    std::fs::write(&path, text).unwrap();
    (dir, path.to_str().unwrap().to_owned())
}

fn watched(script: Vec<Script>) -> World {
    let watches = HashMap::from([("demo-a".to_owned(), script)]);
    World { jobs: vec![job("demo-a", Running, 1)], watches, ..World::default() }
}

fn whole(updates: Vec<cappa_proto::JobUpdate>) -> Script {
    Script { updates, breaks: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_sends_absolute_paths_and_prints_the_id() {
    let server = serve(watched(vec![])).await;
    let (dir, path) = spec_file(SPEC);
    let ended = server.cappactl(&["submit", "-f", &path, "--set", "data.seed=7"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "demo-a\n"), "{ended:?}");
    let world = server.fake.0.lock().unwrap();
    let spec: serde_json::Value = serde_json::from_str(&world.submitted[0].spec).unwrap();
    let folder = dir.path().canonicalize().unwrap();
    assert_eq!(spec["data"]["train"], format!("file://{}/train.json", folder.display()));
    assert_eq!(spec["data"]["seed"], 7);
    assert!(!world.submitted[0].idempotency_key.is_empty(), "a lost answer may not make two jobs");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_that_the_coordinator_finds_is_shown() {
    let server = serve(watched(vec![])).await;
    let evaluate = "evaluate:\n  - { name: words, data: held-out.json, task: caption }\n";
    let (_dir, path) = spec_file(&(SPEC.replace("train.json", "missing-manifest.json") + evaluate));
    let ended = server.cappactl(&["submit", "-f", &path]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    // With its place in the file, which the coordinator has not seen.
    insta::assert_snapshot!(ended.stderr.replace(&path, "job.yaml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_queues_nothing() {
    let server = serve(watched(vec![])).await;
    let (_dir, path) = spec_file(SPEC);
    let ended = server.cappactl(&["submit", "-f", &path, "--dry-run=server", "-o", "json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &printed["model"]["width"]), (Some(0), &128.into()));
    assert!(server.fake.0.lock().unwrap().submitted.iter().all(|request| request.dry_run));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_a_followed_job_is_how_it_ended() {
    for (state, code) in [(Succeeded, 0), (Failed, 100), (Cancelled, 103), (Preempted, 104)] {
        let updates = vec![event(1, "group_formed"), now(job("demo-a", Running, 50)), now(job("demo-a", state, 100))];
        let server = serve(watched(vec![whole(updates)])).await;
        let (_dir, path) = spec_file(SPEC);
        let ended = server.cappactl(&["submit", "-f", &path, "--follow"]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), "demo-a\n"), "{ended:?}");
        assert!(ended.stderr.contains("loss 2.5000"), "{}", ended.stderr);
        assert!(ended.stderr.contains("group_formed 1"), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_after_the_coordinator_went_away_and_repeats_no_event() {
    let first = Script { updates: vec![event(4, "group_formed"), now(job("demo-a", Running, 10))], breaks: true };
    let second = whole(vec![event(5, "worker_lost"), now(job("demo-a", Succeeded, 100))]);
    let server = serve(watched(vec![first, second])).await;
    let ended = server.cappactl(&["events", "-w", "demo-a", "-o", "name"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "4\n5\n"), "{ended:?}");
    assert!(ended.stderr.contains("does not answer; trying again"), "{}", ended.stderr);
    assert_eq!(server.fake.0.lock().unwrap().watched_after, [0, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_at_a_step_a_time_or_an_end() {
    let updates = || vec![now(job("demo-a", Running, 40)), now(job("demo-a", Failed, 60))];
    for (arguments, code) in [
        (["wait", "demo-a", "--for=step:30"], 0),
        (["wait", "demo-a", "--for=step:80"], 100),
        (["wait", "demo-a", "--for=state:failed"], 0),
        (["wait", "demo-a", "--for=state:paused"], 100),
        (["wait", "demo-a", "--timeout=30s"], 100),
    ] {
        let server = serve(watched(vec![whole(updates())])).await;
        assert_eq!(server.cappactl(&arguments).await.code, Some(code), "{arguments:?}");
    }
    let server = serve(watched(vec![])).await;
    let ended = server.cappactl(&["wait", "demo-a", "--timeout=0.3s"]).await;
    assert_eq!(ended.code, Some(124), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_the_jobs_of_all_pages() {
    let jobs = vec![job("demo-a", Running, 10), job("demo-b", Succeeded, 100), job("demo-c", Failed, 3)];
    let server = serve(World { jobs, ..World::default() }).await;
    let ended = server.cappactl(&["list", "-o", "name"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "demo-a\ndemo-b\ndemo-c\n"));
    let ended = server.cappactl(&["list", "-o", "json"]).await;
    let jobs: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&jobs[1]["state"], &jobs[1]["step"]), (&"succeeded".into(), &100.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_says_everything_about_a_job() {
    let server = serve(watched(vec![])).await;
    let ended = server.cappactl(&["describe", "demo-a"]).await;
    assert_eq!(ended.code, Some(0));
    insta::assert_snapshot!(ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_exit_codes() {
    let server = serve(watched(vec![])).await;
    let (_dir, path) = spec_file(SPEC);
    for (arguments, code) in [
        (vec!["describe", "nobody"], 102),
        (vec!["cancel", "nobody"], 102),
        (vec!["wait", "nobody"], 102),
        (vec!["events", "nobody"], 102),
        (vec!["cancel", "demo-a"], 0),
        (vec!["resume", "demo-a"], 1),
        (vec!["submit", "-f", &path, "-n", "full"], 105),
    ] {
        assert_eq!(server.cappactl(&arguments).await.code, Some(code), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_checkpoints_and_workers_are_data() {
    let server = serve(watched(vec![])).await;
    assert_eq!(server.cappactl(&["logs", "demo-a", "--rank", "1", "-o", "name"]).await.stdout, "rank 1\n");
    assert_eq!(server.cappactl(&["checkpoints", "ls", "demo-a", "-o", "name"]).await.stdout, "50\n");
    assert_eq!(server.cappactl(&["workers", "ls", "-o", "name"]).await.stdout, "worker-0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_go_on_after_the_coordinator_went_away_and_repeat_no_line() {
    let mut world = watched(vec![]);
    // One that was away keeps its lines; one that was restarted has only those since then.
    world.logs = vec![vec!["a", "b"], vec!["a", "b", "b", "c"], vec!["d"]];
    let server = serve(world).await;
    let ended = server.cappactl(&["logs", "-f", "demo-a", "-o", "name"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "a\nb\nb\nc\nd\n"), "{ended:?}");
    assert!(ended.stderr.contains("does not answer; trying again"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_data_for_programs_and_a_table_for_people() {
    let server = serve(watched(vec![])).await;
    let ended = server.cappactl(&["queue", "-o", "json"]).await;
    let queue: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let job = &queue["jobs"][0];
    assert_eq!(
        (&job["job"], &job["reason"], &job["jobs"][0]),
        (&"demo-a".into(), &"dependency".into(), &"pretrain-a".into())
    );
    let ended = server.cappactl(&["queue", "-n", "default"]).await;
    assert!(ended.stdout.contains("waits for job pretrain-a to succeed  pretrain-a succeeds"), "{}", ended.stdout);
    assert_eq!(server.cappactl(&["queue", "-n", "other", "-o", "name"]).await.stdout.trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_and_requeue_say_what_became_of_the_job() {
    let server = serve(watched(vec![])).await;
    let ended = server.cappactl(&["priority", "demo-a", "-5"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "job demo-a has priority -5\n"), "{ended:?}");
    assert_eq!(server.cappactl(&["priority", "demo-a", "urgent"]).await.code, Some(2));
    let ended = server.cappactl(&["requeue", "demo-a", "--reason", "disk is free again"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "job demo-a is queued\n"), "{ended:?}");
    assert_eq!(server.cappactl(&["requeue", "nobody"]).await.code, Some(102));
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_pinned_and_gone_back_to_and_workers_are_drained() {
    let server = serve(watched(vec![])).await;
    let pinned =
        server.cappactl(&["checkpoints", "pin", "demo-a", "--step", "50", "--reason", "the best so far"]).await;
    assert!(pinned.stdout.contains("pinned: the best so far"), "{pinned:?}");
    let back = server.cappactl(&["checkpoints", "rollback", "demo-a", "--step", "50"]).await;
    assert_eq!(back.stdout, "job demo-a goes on from step 50; it is running\n", "{back:?}");
    let missing = server.cappactl(&["checkpoints", "rollback", "demo-a", "--step", "7"]).await;
    assert_eq!(missing.code, Some(102), "{missing:?}");
    assert!(missing.stderr.contains("there are 50"), "{missing:?}");
    let drained = server.cappactl(&["workers", "drain", "worker-3", "--reason", "maintenance"]).await;
    assert!(drained.stdout.contains("leaving") && drained.stdout.contains("maintenance"), "{drained:?}");
    let cordoned = server.cappactl(&["workers", "cordon", "worker-3", "--reason", "new disk"]).await;
    assert!(cordoned.stdout.contains("cordoned") && cordoned.stdout.contains("new disk"), "{cordoned:?}");
    let released = server.cappactl(&["workers", "release", "worker-3"]).await;
    assert_eq!(released.code, Some(1), "{released:?}");
    assert!(released.stderr.contains("is not quarantined"), "{released:?}");
}
