//! What becomes of an update whose loss is a spike: it is told, audited and replayed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use cappa_proto::{CurveRequest, JobState, StepMetrics, Update};
use cappa_tests::corpus::{cappactl, cappactl_ended};
use cappa_tests::jobs::{Curve, JobSpec};
use cappa_tests::{Cluster, Corpus, Options};
use safetensors::SafeTensors;
use serde_json::Value;

const STEPS: u64 = 120;
const EVERY: u64 = 8;

/// The document of a job that learns so fast that its losses soon go up and down.
fn document(corpus: &Corpus, workers: u32, more: &str) -> String {
    let (workers, more) = ((workers, workers), more.to_owned());
    let spec = JobSpec { steps: STEPS, checkpoint_every: EVERY, workers, more, ..JobSpec::default() };
    let document = spec.document(corpus).replace("learning_rate: 1e-3", "learning_rate: 1e-2");
    document.replace("name: cosine", "name: constant").replace("keep: 2", "keep: 40")
}

async fn points(cluster: &Cluster, job: &str) -> Result<BTreeMap<u64, StepMetrics>> {
    let request = CurveRequest { job_id: job.to_owned(), from_step: 0 };
    let points = cluster.jobs().await?.curve(request).await?.into_inner().points;
    Ok(points.into_iter().map(|point| (point.step, point)).collect())
}

/// The step whose loss stands out most beside the mean of those before it, as the workers keep that mean, and a factor that it alone
/// of them exceeds.
fn highest(curve: &Curve) -> (u64, f64) {
    let (mut mean, mut best) = (0.0, (0, 0.0));
    for (count, (&step, &loss)) in curve.0.iter().enumerate() {
        // Long after a checkpoint, so that there is something to be taken back.
        if count >= 20 && step % EVERY > 3 && loss / mean > best.1 {
            best = (step, loss / mean);
        }
        let weight = f64::max(0.05, 1.0 / (count as f64 + 1.0));
        mean += weight * (loss - mean);
    }
    best
}

/// The parameters of a step's checkpoint, by name.
fn parameters(folder: &Path, step: u64) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut parameters = BTreeMap::new();
    for part in std::fs::read_dir(folder.join(format!("checkpoints/{step:012}/1")))? {
        let bytes = std::fs::read(part?.path())?;
        for (name, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
            if name.starts_with("params/") {
                parameters.insert(name, tensor.data().to_vec());
            }
        }
    }
    Ok(parameters)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spike_goes_back_to_the_last_checkpoint_on_all_workers_and_is_told_audited_and_replayed() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() })?;
    cluster.wait_idle(2).await?;
    let job = cluster.submit_document(&document(&corpus, 2, "")).await?;
    let plain = cluster.finish(&job).await?;
    let (_, ratio) = highest(&plain);
    let factor = ratio * 0.999;
    assert!(factor > 1.0, "the losses of this job are too smooth for the test: {plain:?}");

    let more = format!("on_bad_loss: {{ action: rewind, spike: {factor}, most: 60 }}");
    let job = cluster.submit_document(&document(&corpus, 2, &more)).await?;
    let curve = cluster.finish(&job).await?;
    let points = points(&cluster, &job).await?;
    assert!(points.keys().copied().eq(1..=STEPS), "every step has a point");
    let rewound: Vec<u64> = points.values().filter(|p| p.update() == Update::Rewound).map(|p| p.step).collect();
    let first = *rewound.first().context("the spike that the plain run had")?;
    assert!((1..=first).all(|step| curve.0[&step] == plain.0[&step]), "the same run up to there");
    let to = (first - 1) / EVERY * EVERY;

    let folder = cluster.store_folder().join("jobs").join(&job);
    let (before, after) = (parameters(&folder, to)?, parameters(&folder, first)?);
    assert!(before.len() > 20 && before == after, "the state of step {to} is that after step {first}");
    let events = cluster.events(&job).await?;
    let told: Vec<_> = events.iter().filter(|event| event.kind == "rewound").collect();
    assert_eq!(told.len(), rewound.len(), "{told:?}");
    let expected =
        format!("step {first}: back to the checkpoint of step {to}, the samples of steps {} to {first}", to + 1);
    assert!(told[0].message.starts_with(&expected), "{}", told[0].message);

    let coordinator = cluster.url();
    let audit = cappactl(&["--coordinator", &coordinator, "audit", &job, "-o", "json"])?;
    let audit: Value = serde_json::from_str(&audit)?;
    assert_eq!(audit["proven"], true, "{audit}");
    let recorded: Vec<_> = audit["rewinds"].as_array().context("rewinds")?.iter().map(|r| r["step"].as_u64()).collect();
    assert_eq!(recorded, rewound.iter().copied().map(Some).collect::<Vec<_>>());

    for step in [first, first + 2] {
        let step = step.to_string();
        let replay = ["--coordinator", &coordinator, "replay", &job, "--run", "--step", &step, "-o", "json"];
        let found: Value = serde_json::from_str(&cappactl(&replay)?)?;
        assert_eq!(found["run"]["agrees"], true, "{found}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_rewinds_too_often_fails_and_says_why_and_a_skipped_update_has_its_point_and_event() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() })?;
    cluster.wait_idle(2).await?;
    let spiky = |action: &str, most: u32| format!("on_bad_loss: {{ action: {action}, spike: 1.0001, most: {most} }}");
    let job = cluster.submit_document(&document(&corpus, 2, &spiky("rewind", 1))).await?;
    let failed = cluster.wait_state(&job, JobState::Failed).await?;
    assert_eq!(failed.error_code, "NUMERIC_DIVERGENCE", "{failed:?}");
    assert!(failed.message.contains("after 1 rewinds, which are as many as on_bad_loss.most allows"), "{failed:?}");

    let job = cluster.submit_document(&document(&corpus, 2, &spiky("skip", 100))).await?;
    cluster.wait_state(&job, JobState::Succeeded).await?;
    let points = points(&cluster, &job).await?;
    assert!(points.keys().copied().eq(1..=STEPS), "every step has a point");
    let skipped: Vec<u64> = points.values().filter(|p| p.update() == Update::Skipped).map(|p| p.step).collect();
    assert!(!skipped.is_empty(), "{points:?}");
    let told = cluster.events(&job).await?.into_iter().filter(|event| event.kind == "update_skipped");
    let told: Vec<String> = told.map(|event| event.message).collect();
    assert_eq!(told.len(), skipped.len(), "{told:?}");
    assert!(told[0].starts_with(&format!("step {}: the update was not made, its loss is", skipped[0])), "{told:?}");
    let audit = cappactl_ended(&["--coordinator", &cluster.url(), "audit", &job], &[])?;
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
    Ok(())
}
