//! Bad input is refused with every reason at once, or named and passed over; nothing is lost by it.

use anyhow::{Context as _, Result};
use cappa_proto::{JobState, SubmitRequest};
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_spec_is_refused_with_every_mistake_and_its_place() -> Result<()> {
    let corpus = Corpus::new(200)?;
    std::fs::remove_file(corpus.path("shards/train-000001.tar"))?;
    let cluster = Cluster::start(Options { workers: 0, ..Options::default() })?;
    let good = JobSpec::default().document(&corpus);
    let bad = good
        .replace("batch_size: 24", "batch_size: 25")
        .replace("steps: 50", "steps: many")
        .replace("schedule: {", "scheduel: {")
        .replace("learning_rate: 1e-3", "learning_rate: -1");
    let places = refused(&cluster, &bad).await?;
    for place in ["batch_size", "duration.steps", "scheduel", "optimizer.learning_rate"] {
        assert!(places.iter().any(|(path, _)| path == place), "{place} in {places:?}");
    }
    let (_, unknown) = places.iter().find(|(path, _)| path == "scheduel").context("the unknown key")?;
    assert!(unknown.contains("schedule"), "did you mean: {unknown}");

    // What only the stores can tell, all of it at once too.
    let unreachable = "evaluate: [{ name: x, data: 'http://127.0.0.1:9/none.json', task: caption }]";
    let places = refused(&cluster, &format!("{good}{unreachable}\n")).await?;
    let shard = places.iter().find(|(path, _)| path == "data.train").context("the missing shard")?;
    assert!(shard.1.contains("train-000001.tar"), "{places:?}");
    assert!(places.iter().any(|(path, _)| path.starts_with("evaluate[0]")), "{places:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_another_vocabulary_and_classes_that_samples_lack_are_refused_on_submission() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    cluster.wait_idle(1).await?;
    let first = JobSpec { steps: 8, workers: (1, 1), ..JobSpec::default() }; // longer than its warm-up
    let job = cluster.submit(&first, &corpus).await?;
    cluster.finish(&job).await?;
    let request = cappa_proto::GetRequest { job_id: job };
    let newest = cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints.remove(0).manifest;

    // As large, and of other words.
    let file = corpus.path("other.json");
    let mut other: serde_json::Value = serde_json::from_slice(&std::fs::read(corpus.path("tokenizer.json"))?)?;
    let vocabulary = other["model"]["vocab"].as_object_mut().context("a vocabulary")?;
    let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
    (vocabulary["a"], vocabulary["b"]) = (b, a);
    std::fs::write(&file, other.to_string())?;
    let with = |more: &str| JobSpec {
        tokenizer: Some(file.display().to_string()),
        more: format!("init: {more}"),
        ..first.clone()
    };
    let places = refused(&cluster, &with(&newest).document(&corpus)).await?;
    assert_eq!(places.len(), 1, "{places:?}");
    assert!(places[0].0 == "init" && places[0].1.contains("another vocabulary (sha256 "), "{places:?}");
    // The encoder knows no words, and the same words in another file are the same words.
    let encoder = with(&format!("{{ from: '{newest}', parts: [encoder] }}"));
    cluster.submit(&encoder, &corpus).await?;
    let pretty: serde_json::Value = serde_json::from_slice(&std::fs::read(corpus.path("tokenizer.json"))?)?;
    std::fs::write(&file, serde_json::to_vec_pretty(&pretty)?)?;
    cluster.submit(&with(&newest), &corpus).await?;

    let objective = "{ type: classify }".to_owned();
    let data = ", label: { field: klass, classes: 48 }".to_owned();
    let places = refused(&cluster, &JobSpec { objective, data, ..first }.document(&corpus)).await?;
    assert!(places[0].0 == "data.label" && places[0].1.contains("`klass`"), "{places:?}");
    Ok(())
}

async fn refused(cluster: &Cluster, document: &str) -> Result<Vec<(String, String)>> {
    let request = SubmitRequest { spec: document.into(), ..Default::default() };
    let status = cluster.jobs().await?.submit(request).await.err().context("it must be refused")?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().context("the places")?.field_violations;
    Ok(violations.into_iter().map(|violation| (violation.field, violation.description)).collect())
}

/// Overwrites the picture of one sample of a shard with noise, at the same length.
fn spoil_a_picture(shard: &std::path::Path) -> Result<()> {
    let mut tar = std::fs::read(shard)?;
    let start = tar.windows(3).position(|bytes| bytes == [0xff, 0xd8, 0xff]).context("a JPEG")?;
    tar[start..start + 200].fill(0x55);
    Ok(std::fs::write(shard, tar)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_picture_and_a_corrupt_shard_are_quarantined_and_named() -> Result<()> {
    let corpus = Corpus::new(400)?;
    spoil_a_picture(&corpus.path("shards/train-000002.tar"))?;
    corpus.index(&[])?;
    // Changed after it was indexed, so none of its samples is what the manifest promised.
    spoil_a_picture(&corpus.path("shards/train-000005.tar"))?;
    let cluster = Cluster::start(Options::default())?;
    cluster.wait_idle(2).await?;
    // 17 updates of 24 are an epoch of 400 samples and some.
    let tolerant = |fraction| {
        let spec = JobSpec { steps: 17, workers: (2, 2), ..JobSpec::default() };
        let document = spec.document(&corpus).replace("seed: 7", &format!("seed: 7, max_bad_fraction: {fraction}"));
        SubmitRequest { spec: document, ..Default::default() }
    };
    let id = cluster.jobs().await?.submit(tolerant(0.2)).await?.into_inner().job.context("a job")?.id;
    let done = cluster.wait_state(&id, JobState::Succeeded).await?;
    assert_eq!(done.quarantined, 51, "one picture and a shard of 50");
    let request = cappa_proto::GetRequest { job_id: id.clone() };
    let newest = cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints.remove(0);
    let manifest = std::fs::read_to_string(newest.manifest.strip_prefix("file://").context("a local store")?)?;
    let contents: serde_json::Value = serde_json::from_str(&manifest)?;
    let named = contents["contents"]["quarantined"].as_array().context("the manifest names them")?;
    let of_shard =
        |name: &str| named.iter().filter(|sample| sample["shard"].as_str().is_some_and(|s| s.ends_with(name))).count();
    assert_eq!((of_shard("train-000002.tar"), of_shard("train-000005.tar")), (1, 50), "{named:?}");

    // The same data under a stricter job: it fails, and says why and what to do.
    let id = cluster.jobs().await?.submit(tolerant(0.01)).await?.into_inner().job.context("a job")?.id;
    let failed = cluster.wait_state(&id, JobState::Failed).await?;
    assert_eq!(failed.error_code, "TOO_MANY_BAD_SAMPLES", "{failed:?}");
    assert!(failed.message.contains("max_bad_fraction"), "{}", failed.message);
    Ok(())
}
