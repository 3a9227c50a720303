//! What lies in the store is whole, is checked, and belongs to nobody's program.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cappa_proto::{ChangeRequest, GetRequest, JobState};
use cappa_test_stores::{Fault, Rule, S3Server};
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};

/// Reads a checkpoint as its users do, with `safetensors` alone; prints tensors and parameters.
const LOAD: &str = r#"
import json, pathlib, sys
import safetensors.numpy
manifest = pathlib.Path(sys.argv[1])
contents = json.loads(manifest.read_text())["contents"]
tensors = {}
for part in contents["parts"]:
    tensors |= safetensors.numpy.load_file(manifest.parent / str(contents["generation"]) / part["name"])
kernel = tensors["params/encoder/embedding/kernel"]
assert kernel.dtype == "float32" and kernel.shape == (8, 8, 3, 64), (kernel.dtype, kernel.shape)
assert abs(kernel).max() > 0
print(len(contents["parts"]), sum(t.size for n, t in tensors.items() if n.startswith("params/")))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_loads_in_python_with_safetensors_alone() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options::default())?;
    cluster.wait_idle(2).await?;
    let job = cluster.submit(&JobSpec { steps: 10, workers: (2, 2), ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&job).await?;
    let request = GetRequest { job_id: job };
    let newest = cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints.remove(0);
    assert_eq!(newest.step, 10);
    let manifest = newest.manifest.strip_prefix("file://").context("a local store")?;
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/site");
    let output = Command::new("python3").args(["-c", LOAD, manifest]).env("PYTHONPATH", &site).output()?;
    assert!(output.status.success(), "run `make python` first? {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout)?;
    let (parts, parameters) = printed.trim().split_once(' ').context("two numbers")?;
    assert_eq!(parts, "2", "each rank wrote its share");
    assert!(parameters.parse::<u64>()? > 100_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_costs_the_checkpoint_and_not_the_run() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let spec = JobSpec { steps: 400, checkpoint_every: 20, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    // A file where the folder should be: every write of a part fails.
    let blocked = cluster.store_folder().join("jobs").join(&job).join("checkpoints");
    std::fs::create_dir_all(blocked.parent().context("a folder")?)?;
    std::fs::write(&blocked, "")?;
    let job_then = cluster.wait_step(&job, 100).await?;
    assert_eq!(job_then.last_checkpoint_step, 0);
    let events = cluster.events(&job).await?;
    let failed = events.iter().find(|event| event.kind == "checkpoint_failed").context("it says so")?;
    assert!(failed.message.contains("step 20"), "{}", failed.message);
    std::fs::remove_file(&blocked)?;
    let done = cluster.wait_state(&job, JobState::Succeeded).await?;
    assert_eq!(
        (done.step, done.last_checkpoint_step),
        (400, 400),
        "once the store works, checkpoints do: {:#?} {}",
        cluster.events(&job).await?,
        cluster.logs()
    );
    Ok(())
}

/// Longer than the attempts at any other checkpoint take.
const AWAY: Duration = Duration::from_secs(8);

/// A cluster whose store is a bucket, so that it can be away.
fn cluster_in_a_bucket(workers: usize) -> Result<(Cluster, S3Server)> {
    let server = S3Server::start(&["jobs"]);
    let env = server.environment().map(|(name, value)| (name.to_owned(), value)).to_vec();
    let store = Some("s3://jobs/state".to_owned());
    Ok((Cluster::start(Options { workers, store, env, ..Options::default() })?, server))
}

/// Checkpoints can't be written. The log goes on: its files are elsewhere.
fn go_away(server: &S3Server) {
    server.faults().add(Rule::new(Fault::Refuse).on("/checkpoints/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_the_last_step_is_waited_for_and_the_job_ends_with_its_checkpoint() -> Result<()> {
    const STEPS: u64 = 20;
    let corpus = Corpus::new(200)?;
    let (cluster, server) = cluster_in_a_bucket(2)?;
    cluster.wait_idle(2).await?;
    go_away(&server);
    let spec = JobSpec { steps: STEPS, workers: (2, 2), ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    let waits = |job: &cappa_proto::Job| job.message.contains("its store does not answer");
    cluster.wait(&job, "the wait for the store", waits).await?;
    tokio::time::sleep(AWAY).await;
    let then = cluster.job(&job).await?;
    assert_eq!((then.state(), then.step, then.last_checkpoint_step), (JobState::Running, STEPS, 0), "{then:?}");
    server.faults().clear();
    let done = cluster.wait_state(&job, JobState::Succeeded).await?;
    let met = (done.step, done.last_checkpoint_step, done.generation, done.recoveries);
    assert_eq!(met, (STEPS, STEPS, 1, 0), "{:#?} {}", cluster.events(&job).await?, cluster.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_worker_that_is_told_to_end_while_the_store_is_away_saves_what_it_has_done() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let (mut cluster, server) = cluster_in_a_bucket(1)?;
    let job = cluster.submit(&JobSpec { steps: 100_000, workers: (1, 1), ..JobSpec::default() }, &corpus).await?;
    cluster.wait_step(&job, 10).await?;
    go_away(&server);
    cluster.signal_worker(0, libc::SIGTERM)?;
    tokio::time::sleep(AWAY).await;
    server.faults().clear();
    assert_eq!(cluster.wait_worker(0, Duration::from_secs(60))?, Some(0), "{}", cluster.logs());
    let left = cluster.wait_state(&job, JobState::Queued).await?;
    assert!(left.step >= 10 && left.last_checkpoint_step == left.step, "{left:?} {}", cluster.logs());
    Ok(())
}

/// Mounts a file system of so many MiB on a folder, or gives it another size; the caller is root of a namespace.
fn disk(folder: &Path, options: &str) -> Result<()> {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(folder).status()?;
    anyhow::ensure!(status.success(), "no disk could be mounted on {}", folder.display());
    Ok(())
}

#[test]
fn a_full_disk_costs_the_checkpoint_and_not_the_run() -> Result<()> {
    let own_mounts = ["--user", "--map-root-user", "--mount"];
    let probe = Command::new("unshare").args(own_mounts).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: this machine lets nobody but root mount a small disk: {probe:?}");
        return Ok(());
    }
    let inside = Command::new("unshare")
        .args(own_mounts)
        .arg(std::env::current_exe()?)
        .args(["--exact", "on_a_disk_of_one_mebibyte", "--ignored", "--nocapture"])
        .output()?;
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stderr));
    assert!(String::from_utf8_lossy(&inside.stdout).contains("1 passed"), "the test inside ran");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs inside the test above, where a disk can be mounted"]
async fn on_a_disk_of_one_mebibyte() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 0, ..Options::default() })?;
    let jobs = cluster.store_folder().join("jobs");
    std::fs::create_dir_all(&jobs)?;
    disk(&jobs, "size=1m")?;
    let outcome = fill_and_relieve(cluster, &corpus, &jobs).await;
    let unmounted = Command::new("umount").arg("--lazy").arg(&jobs).status()?;
    assert!(unmounted.success());
    outcome
}

async fn fill_and_relieve(mut cluster: Cluster, corpus: &Corpus, jobs: &Path) -> Result<()> {
    cluster.start_worker(0)?;
    let spec = JobSpec { steps: 240, checkpoint_every: 20, ..JobSpec::default() };
    let job = cluster.submit(&spec, corpus).await?;
    let then = cluster.wait_step(&job, 100).await?;
    assert_eq!((then.last_checkpoint_step, then.generation), (0, 1), "training goes on in its group");
    let events = cluster.events(&job).await?;
    let failed = events.iter().find(|event| event.kind == "checkpoint_failed").context("it says so")?;
    assert!(failed.message.contains("No space left on device"), "{}", failed.message);
    disk(jobs, "remount,size=64m")?;
    let done = cluster.wait_state(&job, JobState::Succeeded).await?;
    assert_eq!((done.step, done.last_checkpoint_step), (240, 240), "{}", cluster.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_captions_pictures_from_the_command_line() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let job = cluster.submit(&JobSpec { steps: 60, ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&job).await?;
    let tar = std::fs::read(corpus.path("shards/heldout-000000.tar"))?;
    let start = tar.windows(3).position(|bytes| bytes == [0xff, 0xd8, 0xff]).context("a JPEG")?;
    let picture = corpus.path("picture.jpg");
    std::fs::write(&picture, &tar[start..])?; // what follows the picture's end means nothing
    let (coordinator, picture) = (cluster.url(), picture.display().to_string());
    let arguments = ["--coordinator", &coordinator, "-o", "json", "caption", &job, "--images", &picture];
    let printed = cappa_tests::corpus::cappactl(&arguments)?;
    let line: serde_json::Value = serde_json::from_str(printed.trim())?;
    assert_eq!(line["image"], picture.as_str());
    let caption = line["caption"].as_str().context("a caption")?;
    assert!(!caption.is_empty(), "after 60 steps it says something: {printed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_passed_over_for_the_one_before_it() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    // So many steps that it is met before it is over.
    let spec = JobSpec { steps: 300, checkpoint_every: 10, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    cluster.wait(&job, "two checkpoints", |job| job.last_checkpoint_step >= 20).await?;
    cluster.kill_worker(0);
    let request = GetRequest { job_id: job.clone() };
    let committed = cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints;
    let newest = &committed[0];
    let folder =
        Path::new(newest.manifest.strip_prefix("file://").context("a local store")?).parent().context("a folder")?;
    for part in parts(folder)? {
        let mut bytes = std::fs::read(&part)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&part, bytes)?;
    }
    cluster.start_worker(1)?;
    let curve = cluster.finish(&job).await?;
    assert_eq!(curve.0.len(), 300);
    assert!(cluster.logs().contains("can't be restored"), "{}", cluster.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_while_a_group_restores_is_waited_for_and_costs_no_checkpoint() -> Result<()> {
    const BUCKET: &str = "data";
    const WAITS: &str = "has waited";
    let corpus = Corpus::new(200)?;
    let server = S3Server::start(&[BUCKET]);
    let env = server.environment().map(|(name, value)| (name.to_owned(), value)).to_vec();
    let store = Some(format!("s3://{BUCKET}/state"));
    let mut cluster = Cluster::start(Options { workers: 2, store, env, ..Options::default() })?;
    cluster.wait_idle(2).await?;
    let spec = JobSpec { steps: 200, checkpoint_every: 10, workers: (2, 2), ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    cluster.wait(&job, "two checkpoints", |job| job.last_checkpoint_step >= 20).await?;
    (0..2).for_each(|worker| cluster.kill_worker(worker));
    server.faults().add(Rule::new(Fault::NO_BUCKET).gets().on("part-00001"));
    (2..4).try_for_each(|worker| cluster.start_worker(worker))?;
    let is_waiting = |job: &cappa_proto::Job| job.message.contains(WAITS) && job.message.contains("part-00001");
    cluster.wait(&job, "the wait", is_waiting).await?;

    let change = ChangeRequest { job_id: job.clone(), reason: "test".into() };
    cluster.jobs().await?.pause(change.clone()).await?;
    cluster.wait_state(&job, JobState::Paused).await?;
    cluster.jobs().await?.resume(change).await?;
    let then = cluster.wait(&job, "the wait again", is_waiting).await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let now = cluster.job(&job).await?;
    assert!(is_waiting(&now) && now.generation == then.generation, "{now:?}\n{}", cluster.logs());
    server.faults().clear();
    let curve = cluster.finish(&job).await?;
    assert_eq!(curve.0.len(), 200);
    assert!(!cluster.logs().contains("can't be restored"), "{}", cluster.logs());
    let newest = format!("checkpoints/{:012}/MANIFEST.json", then.last_checkpoint_step);
    let is_restore = |line: &str| line.contains("restored") && line.contains(&newest);
    assert!(cluster.logs().lines().any(is_restore), "{newest}: {}", cluster.logs());
    Ok(())
}

fn parts(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for attempt in std::fs::read_dir(folder)? {
        let attempt = attempt?.path();
        if attempt.is_dir() {
            found.extend(
                std::fs::read_dir(attempt)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?,
            );
        }
    }
    anyhow::ensure!(!found.is_empty(), "there are parts to damage");
    Ok(found)
}
