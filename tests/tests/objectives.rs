//! Two-tower objectives are the same run on any number of workers, and networks start from each other's parts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cappa_proto::{ChangeRequest, GetRequest, JobState};
use cappa_tests::jobs::{Curve, JobSpec};
use cappa_tests::{Cluster, Corpus, Options};
use safetensors::SafeTensors;
use tonic_types::StatusExt as _;

const STEPS: u64 = 30;
/// fp32 sums in another order.
const TOLERANCE: f64 = 1e-4;

/// Eight lanes, which three workers can't share evenly.
fn contrastive(objective: &str, workers: (u32, u32)) -> JobSpec {
    JobSpec { objective: objective.to_owned(), steps: STEPS, lanes: 8, workers, ..JobSpec::default() }
}

async fn curve(corpus: &Corpus, objective: &str, workers: usize, steps: u64) -> Result<Curve> {
    let cluster = Cluster::start(Options { workers, ..Options::default() })?;
    cluster.wait_idle(workers).await?;
    let spec = JobSpec { steps, ..contrastive(objective, (workers as u32, workers as u32)) };
    let job = cluster.submit(&spec, corpus).await?;
    cluster.finish(&job).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_are_contrasted_across_workers_so_that_the_curve_does_not_depend_on_their_number() -> Result<()> {
    let corpus = Corpus::new(400)?;
    for objective in ["clip", "siglip"] {
        let one = curve(&corpus, objective, 1, STEPS).await?;
        assert!(one.0[&STEPS] < one.0[&1] - 0.1, "{objective} learns: {} to {}", one.0[&1], one.0[&STEPS]);
        for workers in [2, 3] {
            curve(&corpus, objective, workers, STEPS).await?.assert_same(&one, STEPS, TOLERANCE);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contrastive_job_continues_its_curve_from_a_checkpoint_and_after_a_loss() -> Result<()> {
    /// So many that it is met before it is over.
    const STEPS: u64 = 100;
    let corpus = Corpus::new(400)?;
    let expected = curve(&corpus, "siglip", 1, STEPS).await?;
    let mut cluster = Cluster::start(Options { workers: 3, ..Options::default() })?;
    cluster.wait_idle(3).await?;
    let job = cluster.submit(&JobSpec { steps: STEPS, ..contrastive("siglip", (1, 3)) }, &corpus).await?;
    cluster.wait_step(&job, 5).await?;
    cluster.kill_worker(1);
    cluster.wait_step(&job, 10).await?;
    let change = ChangeRequest { job_id: job.clone(), reason: "test".into() };
    cluster.jobs().await?.pause(change.clone()).await?;
    let paused = cluster.wait_state(&job, JobState::Paused).await?;
    assert!(paused.step < STEPS && paused.last_checkpoint_step == paused.step, "{paused:?}");
    // Nobody who held the state in memory is left.
    cluster.kill_worker(0);
    cluster.kill_worker(2);
    cluster.start_worker(3)?;
    cluster.wait_idle(1).await?;
    cluster.jobs().await?.resume(change).await?;
    cluster.finish(&job).await?.assert_same(&expected, STEPS, TOLERANCE);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn micro_batches_give_the_update_of_the_whole_batch() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() })?;
    cluster.wait_idle(2).await?;
    for objective in ["{ type: cappa, parallel_fraction: 0.5, masking_ratio: 0.6, label_smoothing: 0.1 }", "clip"] {
        let mut curves = Vec::new();
        for more in ["", "micro_batch_size: 5\nema_decay: 0.9"] {
            let spec = JobSpec { steps: 10, more: more.to_owned(), ..contrastive(objective, (2, 2)) };
            let job = cluster.submit(&spec, &corpus).await?;
            curves.push(cluster.finish(&job).await?);
        }
        curves[1].assert_same(&curves[0], 10, TOLERANCE);
    }
    Ok(())
}

/// The newest checkpoint's manifest: its URL, and its parameters by name.
async fn newest(cluster: &Cluster, job: &str) -> Result<(String, BTreeMap<String, Vec<u8>>)> {
    let request = GetRequest { job_id: job.to_owned() };
    let url = cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints.remove(0).manifest;
    let manifest = PathBuf::from(url.strip_prefix("file://").context("a local store")?);
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest)?)?;
    let contents = &document["contents"];
    let mut params = BTreeMap::new();
    for part in contents["parts"].as_array().context("parts")? {
        let name = part["name"].as_str().context("a name")?;
        let file = manifest.with_file_name(contents["generation"].to_string()).join(name);
        let bytes = std::fs::read(file)?;
        for (name, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
            if let Some(name) = name.strip_prefix("params/") {
                params.insert(name.to_owned(), tensor.data().to_vec());
            }
        }
    }
    Ok((url, params))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_tower_is_tuned_to_a_captioners_frozen_encoder() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options::default())?;
    cluster.wait_idle(2).await?;
    let captioner = cluster.submit(&JobSpec { steps: 5, ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&captioner).await?;
    let (from, encoder) = newest(&cluster, &captioner).await?;

    let [heldout, train] = ["heldout.json", "train.json"].map(|name| corpus.path(name).display().to_string());
    let more = format!(
        "init: {{ from: '{from}', parts: [encoder] }}\nfreeze: [encoder]\n\
         evaluate:\n\
         - {{ name: kinds, data: '{heldout}', task: {{ type: classify, label: class }} }}\n\
         - {{ name: few, data: '{train}', task: {{ type: fewshot, label: class, train: '{train}' }} }}\n\
         - {{ name: prompts, data: '{heldout}', task: {{ type: classify, label: class, template: ['{{}}', '{{}}'] }} }}"
    );
    let tuned = cluster.submit(&JobSpec { steps: 5, more, ..contrastive("siglip", (2, 2)) }, &corpus).await?;
    cluster.finish(&tuned).await?;
    let (_, towers) = newest(&cluster, &tuned).await?;
    let of_encoder: Vec<_> = encoder.iter().filter_map(|(n, t)| Some((n.strip_prefix("encoder/")?, t))).collect();
    assert!(of_encoder.len() > 20, "{}", of_encoder.len());
    for (name, value) in of_encoder {
        assert_eq!(towers.get(&format!("img/{name}")), Some(value), "{name} is the captioner's, to the bit");
    }
    // Labels are told apart by their texts' similarity.
    let results = cluster.store_folder().join("jobs").join(&tuned).join("evaluations/000000000005/results.json");
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(results)?)?;
    assert_eq!(results["evaluations"][0]["name"], "kinds", "{results}");
    assert!(results["evaluations"][0]["samples"].as_u64().context("a count")? > 0, "{results}");
    let accuracy = |place: usize| &results["evaluations"][place]["accuracy"];
    assert!(accuracy(0).is_number() && accuracy(0) == accuracy(2), "two prompts that say the same: {results}");
    // Examples that are tested on themselves are told apart by far more than chance.
    let shots = results["evaluations"][1]["shots"].as_array().context("three numbers of shots")?;
    let numbers: Vec<_> = shots.iter().filter_map(|shots| shots["shots"].as_u64()).collect();
    assert_eq!(numbers, [1, 5, 10], "{results}");
    let mean = |of: &serde_json::Value, what: &str| of["mean"][what].as_f64().context("a share");
    assert!(mean(&shots[2], "accuracy")? > 4.0 * mean(&shots[2], "chance")?, "{results}");
    assert_eq!(shots[2]["draws"].as_array().map(Vec::len), Some(3), "{results}");
    Ok(())
}

/// A job that tells kinds of scenes apart, from the captioner's encoder.
fn classification(from: &str, more: &str, workers: u32) -> JobSpec {
    let data = ", label: { field: kind, classes: [single, pair, word] }".to_owned();
    let more = format!("init: {{ from: '{from}', parts: [encoder] }}\n{more}");
    JobSpec { data, more, ..contrastive("{ type: classify, label_smoothing: 0.1 }", (workers, workers)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_learns_on_a_captioners_encoder_the_same_on_any_number_of_workers_and_is_measured() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let cluster = Cluster::start(Options { workers: 3, ..Options::default() })?;
    cluster.wait_idle(3).await?;
    let captioner = cluster.submit(&JobSpec { steps: 5, ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&captioner).await?;
    let (from, encoder) = newest(&cluster, &captioner).await?;
    let heldout = corpus.path("heldout.json").display().to_string();
    let evaluate = format!("evaluate: [{{ name: kinds, data: '{heldout}', task: accuracy }}]");
    let mut curves = Vec::new();
    for workers in [1, 2, 3] {
        let job = cluster.submit(&classification(&from, &evaluate, workers), &corpus).await?;
        curves.push(cluster.finish(&job).await?);
        let results = cluster.store_folder().join("jobs").join(&job).join("evaluations/000000000030/results.json");
        let results: serde_json::Value = serde_json::from_slice(&std::fs::read(results)?)?;
        let kinds = &results["evaluations"][0];
        assert_eq!(
            (kinds["samples"].as_u64(), kinds["top_5"]["accuracy"].as_f64()),
            (Some(100), Some(1.0)),
            "{results}"
        );
        let accuracy = kinds["top_1"]["accuracy"].as_f64().context("a share")?;
        assert!(accuracy >= kinds["top_1"]["blind_accuracy"].as_f64().context("a share")?, "{results}");
    }
    // As if it knew nothing at first.
    let one = curves.remove(0);
    assert!((one.0[&1] - 3f64.ln()).abs() < 1e-4, "{}", one.0[&1]);
    assert!(one.0[&STEPS] < one.0[&1] - 0.03, "it learns: {} to {}", one.0[&1], one.0[&STEPS]);
    for curve in &curves {
        curve.assert_same(&one, STEPS, TOLERANCE);
    }

    let probe = cluster.submit(&classification(&from, "freeze: [encoder]", 2), &corpus).await?;
    cluster.finish(&probe).await?;
    let (_, probe) = newest(&cluster, &probe).await?;
    let kept = encoder.iter().filter_map(|(name, value)| Some((name.strip_prefix("encoder/")?, value)));
    for (name, value) in kept {
        assert_eq!(probe.get(&format!("img/{name}")), Some(value), "{name} is the captioner's, to the bit");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_are_not_in_the_job_end_it_before_the_first_update() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let data = ", label: { field: kind, classes: [single, pair] }".to_owned();
    let job = cluster.submit(&JobSpec { data, ..contrastive("classify", (1, 1)) }, &corpus).await?;
    let failed = cluster.wait_state(&job, JobState::Failed).await?;
    assert_eq!(failed.step, 0, "{failed:?}");
    let said = "the class `word` is not one of data.label.classes";
    assert!(failed.message.contains(said), "{}", failed.message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_network_is_refused_on_submission() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let first = cluster.submit(&JobSpec { steps: 5, workers: (1, 1), ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&first).await?;
    let (from, _) = newest(&cluster, &first).await?;
    let model = "{ preset: tiny, width: 32, layers: 2, mlp: 128 }".to_owned();
    let spec = JobSpec { model, workers: (1, 1), more: format!("init: '{from}'"), ..JobSpec::default() };
    assert_refused(&cluster, &spec, &corpus, "its model.width is 64, the job's 32").await?;
    // A text tower is none of a captioner's parts.
    let more = format!("init: {{ from: '{from}', parts: [text] }}");
    let spec = JobSpec { more, ..contrastive("siglip", (1, 1)) };
    assert_refused(&cluster, &spec, &corpus, "it has no part `text`").await
}

/// The job is refused for what it starts from.
async fn assert_refused(cluster: &Cluster, spec: &JobSpec, corpus: &Corpus, why: &str) -> Result<()> {
    let refused = cluster.submit(spec, corpus).await.expect_err(why);
    let status = refused.downcast_ref::<tonic::Status>().context("a refusal")?;
    let places = status.get_details_bad_request().context("the places")?.field_violations;
    assert!(places.iter().any(|place| place.field == "init" && place.description.contains(why)), "{places:?}");
    Ok(())
}
