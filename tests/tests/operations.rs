//! What operators do to a run, and what clouds do: pins and rollbacks, notices of pre-emption, drained workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cappa_proto::JobState;
use cappa_tests::corpus::cappactl;
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_back_to_a_pinned_checkpoint_and_comes_to_the_same_end() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let cluster = Cluster::start(Options::default())?;
    cluster.wait_idle(2).await?;
    let url = cluster.url();
    let checkpoints = |arguments: &[&str]| cappactl(&[&["checkpoints", "--coordinator", &url], arguments].concat());
    let steps = 120;
    let more = "verify_replicas: 7".to_owned();
    let spec = JobSpec { steps, checkpoint_every: 10, workers: (2, 2), more, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    // The newest goes when two more are there, which may be while it is asked for.
    let begun = Instant::now();
    let pinned = loop {
        let newest = cluster.wait(&job, "a checkpoint", |job| job.last_checkpoint_step > 0).await?.last_checkpoint_step;
        match checkpoints(&["pin", &job, "--step", &newest.to_string(), "--reason", "before the change"]) {
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
            Ok(_) => break newest,
        }
    };
    cluster.wait(&job, "two more checkpoints", |job| job.last_checkpoint_step >= pinned + 20).await?;
    checkpoints(&["rollback", &job, "--step", &pinned.to_string(), "--reason", "test"])?;
    let curve = cluster.finish(&job).await?;

    let events = cluster.events(&job).await?;
    let back = events.iter().find(|event| event.kind == "rolled_back").context("it says so")?;
    assert!(
        back.message.starts_with(&format!("to step {pinned}")) && back.message.ends_with(": test"),
        "{}",
        back.message
    );
    assert!(!events.iter().any(|event| event.kind == "group_failed"), "the replicas stay equal: {events:?}");
    let table = checkpoints(&["ls", &job])?;
    assert!(table.contains("pinned: before the change"), "{table}");
    cappactl(&["audit", "--coordinator", &url, &job]).context("every sample of the run that counts was used once")?;
    checkpoints(&["verify", &job])?;

    let undisturbed = cluster.submit(&spec, &corpus).await?;
    cluster.finish(&undisturbed).await?.assert_same(&curve, steps, 1e-4);

    let folder = cluster.job(&job).await?.folder;
    let folder = std::path::Path::new(folder.strip_prefix("file://").context("a local store")?);
    let generation = cluster.job(&job).await?.generation;
    let part = folder.join(format!("checkpoints/{steps:012}/{generation}/part-00001-of-00002.safetensors"));
    let mut bytes = std::fs::read(&part)?;
    bytes[100] ^= 1;
    std::fs::write(&part, bytes)?;
    let ended = cappa_tests::corpus::cappactl_ended(&["checkpoints", "--coordinator", &url, "verify", &job], &[])?;
    let text = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{text}");
    let named: Vec<_> = text.lines().filter(|line| line.contains("is damaged")).collect();
    assert!(named.len() == 1 && named[0].contains("part-00001-of-00002"), "{text}");
    Ok(())
}

/// A metadata service that answers FALSE until it is told otherwise, to whoever asks as Google wants it.
async fn metadata(taken: Arc<AtomicBool>) -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/computeMetadata/v1/instance/preempted", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
            let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let is_meant = request.contains("metadata-flavor: google");
            let (status, body) = match (is_meant, taken.load(Ordering::Relaxed)) {
                (false, _) => ("403 Forbidden", "TRUE"),
                (true, true) => ("200 OK", "TRUE"),
                (true, false) => ("200 OK", "FALSE"),
            };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok(url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_of_preemption_hands_the_place_back_after_a_checkpoint_and_is_no_failure() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let notice = cluster.folder().join("preempted");
    let taken = Arc::new(AtomicBool::new(false));
    let url = metadata(taken.clone()).await?;
    cluster.start_worker_with(1, &["--preemption-file", &notice.display().to_string()])?;
    cluster.start_worker_with(2, &["--preemption-url", &url])?;
    cluster.start_worker(3)?;
    cluster.wait_idle(4).await?;
    let spec = JobSpec { steps: 100_000, workers: (1, 4), ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    cluster.wait_step(&job, 5).await?;

    std::fs::write(&notice, "")?;
    assert_eq!(cluster.wait_worker(1, PATIENCE)?, Some(0), "{}", cluster.logs());
    let first = cluster.job(&job).await?.last_checkpoint_step;
    assert!(first >= 5, "its group checkpointed first");
    let at = cluster.job(&job).await?.step;
    cluster.wait_step(&job, at + 5).await?;
    taken.store(true, Ordering::Relaxed);
    assert_eq!(cluster.wait_worker(2, PATIENCE)?, Some(0), "{}", cluster.logs());
    assert!(cluster.job(&job).await?.last_checkpoint_step > first);
    let at = cluster.job(&job).await?.step;
    cluster.wait_step(&job, at + 5).await?;
    cappactl(&["workers", "--coordinator", &cluster.url(), "drain", "worker-3", "--reason", "maintenance"])?;
    assert_eq!(cluster.wait_worker(3, PATIENCE)?, Some(0), "{}", cluster.logs());

    let at = cluster.job(&job).await?.step;
    let then = cluster.wait_step(&job, at + 5).await?;
    assert_eq!((then.state(), then.recoveries), (JobState::Running, 0), "{then:?}");
    assert_eq!(then.members.len(), 1);
    let events = cluster.events(&job).await?;
    let leaves = events.iter().filter(|event| event.kind == "worker_leaves").map(|event| event.message.as_str());
    let leaves: Vec<_> = leaves.collect();
    for (reason, leave) in ["preempted appeared", "pre-emption notice of http", "maintenance"].iter().zip(&leaves) {
        assert!(leave.contains(reason), "{leaves:?}");
    }
    assert_eq!(leaves.len(), 3, "{leaves:?}");
    assert!(!events.iter().any(|event| event.kind == "worker_lost"), "{events:?}");
    Ok(())
}
