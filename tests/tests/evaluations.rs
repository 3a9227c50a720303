//! What is measured of a network, whether the job trained it or not, on however many workers.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cappa_proto::{GetRequest, JobState};
use cappa_tests::corpus::cappactl;
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use serde_json::Value;
use tonic_types::StatusExt as _;

/// The same sums in another order.
const TOLERANCE: f64 = 1e-4;

/// The newest checkpoint's manifest.
async fn newest(cluster: &Cluster, job: &str) -> Result<String> {
    let request = GetRequest { job_id: job.to_owned() };
    Ok(cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints.remove(0).manifest)
}

/// What a job's evaluations found after a step, by their names.
fn results(cluster: &Cluster, job: &str, step: u64) -> Result<Value> {
    let file = format!("evaluations/{step:012}/results.json");
    let file: PathBuf = cluster.store_folder().join("jobs").join(job).join(file);
    Ok(serde_json::from_slice(&std::fs::read(&file).with_context(|| file.display().to_string())?)?)
}

fn number(results: &Value, name: &str, key: &str) -> Result<f64> {
    let evaluations = results["evaluations"].as_array().context("a list")?;
    let evaluation = evaluations.iter().find(|evaluation| evaluation["name"] == name).context("an evaluation")?;
    let value = key.split('.').fold(evaluation, |at, key| &at[key]);
    value.as_f64().with_context(|| format!("{name}.{key} of {evaluation}"))
}

/// A document of `kind: evaluate`.
fn evaluate(from: &str, objective: &str, corpus: &Corpus, workers: u32, list: &str) -> String {
    format!(
        "apiVersion: cappa.dev/v1
kind: evaluate
name: measured
from: '{from}'
objective: {objective}
model: {{ preset: tiny, width: 64, layers: 2, mlp: 128 }}
data: {{ tokenizer: {} }}
workers: {workers}
evaluate:
{list}
",
        corpus.path("tokenizer.json").display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_evaluated_without_training_and_alike_on_any_number_of_workers() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let heldout = corpus.path("heldout.json").display().to_string();
    let list = format!(
        "- {{ name: kinds, data: '{heldout}', task: {{ type: classify, label: class }} }}
- {{ name: prompts, data: '{heldout}', task: {{ type: classify, label: class, template: ['{{}}', '{{}}'] }} }}
- {{ name: swaps, data: '{heldout}', task: {{ type: choose, negative: negatives.attribute }} }}
- {{ name: order, data: '{heldout}', task: {{ type: choose, shuffle: true }} }}
- {{ name: likely, data: '{heldout}', task: perplexity }}
- {{ name: greedy, data: '{heldout}', limit: 10, task: caption }}
- {{ name: beams, data: '{heldout}', limit: 10, task: {{ type: caption, beams: 3 }} }}
- {{ name: asked, data: '{heldout}', limit: 20, task: {{ type: answer, question: class, answer: class }} }}"
    );
    let cluster = Cluster::start(Options::default())?;
    cluster.wait_idle(2).await?;
    let spec = JobSpec { steps: 20, workers: (2, 2), more: format!("evaluate:\n{list}"), ..JobSpec::default() };
    let trained = cluster.submit(&spec, &corpus).await?;
    cluster.finish(&trained).await?;
    let by_trainer = results(&cluster, &trained, 20)?;
    let from = newest(&cluster, &trained).await?;

    let objective = "{ type: cappa, parallel_fraction: 0.5 }";
    // By its manifest, or as the newest checkpoint of the job.
    for (workers, from) in [(1, &from), (2, &trained)] {
        let job = cluster.submit_document(&evaluate(from, objective, &corpus, workers, &list)).await?;
        let ended = cluster.wait_state(&job, JobState::Succeeded).await?;
        assert_eq!(ended.step, 0, "no update is made: {ended:?}");
        let found = results(&cluster, &job, 0)?;
        assert_eq!(found["from"], Value::from(from.clone()));
        for (name, key) in [
            ("kinds", "accuracy"),
            ("kinds", "blind_accuracy"),
            ("swaps", "accuracy"),
            ("order", "accuracy"),
            ("order", "blind_accuracy"),
            ("likely", "nll"),
            ("likely", "blind_nll"),
            ("greedy", "scores.cider_d"),
            ("beams", "scores.cider_d"),
            ("asked", "vqa_accuracy"),
        ] {
            let [once, again] = [&by_trainer, &found].map(|results| number(results, name, key));
            let (once, again) = (once?, again?);
            assert!((once - again).abs() <= TOLERANCE * once.abs().max(1.0), "{name}.{key}: {once} and {again}");
        }
    }
    // The mean over prompts that say the same is what each says.
    for key in ["accuracy", "blind_accuracy", "labels"] {
        assert_eq!(number(&by_trainer, "prompts", key)?, number(&by_trainer, "kinds", key)?, "{key}");
    }
    // What was learned is seen: a caption's own words are likelier in their order, and than by an untrained network.
    assert!(number(&by_trainer, "order", "accuracy")? > 0.7, "{by_trainer}");
    assert!(number(&by_trainer, "likely", "nll")? < 512f64.ln() - 0.5, "{by_trainer}");
    let dir = corpus.path("report").display().to_string();
    cappactl(&["--coordinator", &cluster.url(), "report", &trained, "--to", &dir])?;
    let page = std::fs::read_to_string(corpus.path("report/report.html"))?;
    assert!(page.contains("likely: perplexity") && page.contains("beams: CIDEr-D"), "the report has no lines of them");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_captions_find_each_other_alike_on_any_number_of_workers() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let heldout = corpus.path("heldout.json").display().to_string();
    let cluster = Cluster::start(Options { workers: 3, ..Options::default() })?;
    cluster.wait_idle(3).await?;
    let list = format!(
        "- {{ name: pairs, data: '{heldout}', task: retrieval }}
- {{ name: swaps, data: '{heldout}', task: {{ type: choose, negative: negatives.attribute }} }}"
    );
    let spec = JobSpec {
        objective: "siglip".to_owned(),
        steps: 60,
        workers: (3, 3),
        more: format!("evaluate:\n{list}"),
        ..JobSpec::default()
    };
    let trained = cluster.submit(&spec, &corpus).await?;
    cluster.finish(&trained).await?;
    let three = results(&cluster, &trained, 60)?;
    let from = newest(&cluster, &trained).await?;
    let job = cluster.submit_document(&evaluate(&from, "siglip", &corpus, 1, &list)).await?;
    cluster.wait_state(&job, JobState::Succeeded).await?;
    let one = results(&cluster, &job, 0)?;
    for key in ["image_to_text.at_1", "image_to_text.at_5", "text_to_image.at_1", "text_to_image.at_10"] {
        let [three, one] = [&three, &one].map(|results| number(results, "pairs", key));
        assert_eq!(three?, one?, "{key}");
    }
    let recall = |key: &str| number(&one, "pairs", &format!("image_to_text.{key}"));
    assert!(recall("at_1")? <= recall("at_5")? && recall("at_5")? <= recall("at_10")?, "{one}");
    assert!(recall("at_10")? > 0.0, "{one}");
    assert_eq!(one["evaluations"][1]["blind_accuracy"], Value::Null, "two towers have no blind decoder: {one}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_is_trained_on_a_frozen_encoder_and_captions_with_it() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let heldout = corpus.path("heldout.json").display().to_string();
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    cluster.wait_idle(1).await?;
    let objective = "siglip".to_owned();
    let encoder =
        cluster.submit(&JobSpec { objective, steps: 5, workers: (1, 1), ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&encoder).await?;
    let from = newest(&cluster, &encoder).await?;
    let more = format!(
        "init: {{ from: '{from}', parts: [encoder] }}\nfreeze: [encoder]\n\
         evaluate: [{{ name: captions, data: '{heldout}', limit: 10, task: {{ type: caption, beams: 2 }} }}]"
    );
    let objective = "cap".to_owned();
    let decoder = JobSpec { objective, steps: 30, workers: (1, 1), more, ..JobSpec::default() };
    let decoder = cluster.submit(&decoder, &corpus).await?;
    let curve = cluster.finish(&decoder).await?;
    assert!(curve.0[&30] < 0.8 * curve.0[&1], "the decoder learns: {curve:?}");
    let found = results(&cluster, &decoder, 30)?;
    assert_eq!(found["evaluations"][0]["samples"], 10, "{found}");
    let (before, after) = (tensors(&cluster, &encoder)?, tensors(&cluster, &decoder)?);
    let of_encoder: Vec<_> = before.iter().filter_map(|(n, t)| Some((n.strip_prefix("params/img/")?, t))).collect();
    let kept = of_encoder.iter().filter(|(name, value)| after.get(&format!("params/encoder/{name}")) == Some(value));
    assert!(kept.count() > 20, "the encoder is the tower's, to the bit");
    Ok(())
}

/// Every tensor of a job's checkpoints by name; the job has one checkpoint.
fn tensors(cluster: &Cluster, job: &str) -> Result<std::collections::BTreeMap<String, Vec<u8>>> {
    let mut tensors = std::collections::BTreeMap::new();
    let mut folders = vec![cluster.store_folder().join("jobs").join(job).join("checkpoints")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "safetensors") {
                let bytes = std::fs::read(path)?;
                let file = safetensors::SafeTensors::deserialize(&bytes)?;
                tensors.extend(file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())));
            }
        }
    }
    Ok(tensors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_without_the_fields_of_its_task_is_refused_before_any_training() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let heldout = corpus.path("heldout.json").display().to_string();
    let cluster = Cluster::start(Options { workers: 0, ..Options::default() })?;
    let more =
        format!("evaluate: [{{ name: a, data: '{heldout}', task: {{ type: choose, negative: negatives.swop }} }}]");
    let refused = cluster.submit(&JobSpec { more, ..JobSpec::default() }, &corpus).await.expect_err("a wrong field");
    let status = refused.downcast_ref::<tonic::Status>().context("a refusal")?;
    let places = status.get_details_bad_request().context("the places")?.field_violations;
    let [place] = &places[..] else { anyhow::bail!("{places:?}") };
    assert_eq!(place.field, "evaluate[0].data");
    assert!(place.description.contains("has the field `negatives.swop`; they have: "), "{place:?}");
    assert!(place.description.contains("captions, class"), "{place:?}");
    Ok(())
}
