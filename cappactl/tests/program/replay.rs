//! `cappactl replay` on a job's folder, without a coordinator.

use std::path::Path;

use cappa_shared::spec::{JobSpec, SpecBase};
use serde_json::Value;

use crate::support::cappactl;

/// A corpus of 40 samples, and the folder of a job over it.
fn job_over_a_corpus(dir: &Path) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    let shards = at("shards");
    let sizes = ["--samples", "40", "--heldout", "8", "--samples-per-shard", "8", "--seed", "3"];
    for arguments in [
        [&["data", "synth", "--out", &shards], sizes.as_slice()].concat(),
        vec!["data", "index", &at("shards/train-*.tar"), "--out", &at("train.json")],
        vec!["tokenizer", "train", &at("train.json"), "--out", &at("tokenizer.json")],
    ] {
        let ended = cappactl(&arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?} {ended:?}");
    }
    let document = format!(
        "apiVersion: cappa.dev/v1
name: demo
objective: {{ type: cappa, parallel_fraction: 0.5 }}
model: {{ preset: tiny }}
data: {{ train: {}, tokenizer: {}, lanes: 4, seed: 7, shuffle_window: 2 }}
batch_size: 8
optimizer: {{ name: adamw, learning_rate: 1e-3 }}
schedule: {{ name: cosine, warmup_steps: 2 }}
duration: {{ steps: 7 }}
workers: {{ min: 1, max: 2 }}
checkpoint: {{ every: 5, keep: 2 }}
",
        at("train.json"),
        at("tokenizer.json")
    );
    let spec = JobSpec::parse(&document, &SpecBase::none()).unwrap();
    let job = dir.join("jobs/demo-k7f3q");
    std::fs::create_dir_all(job.join("curve")).unwrap();
    std::fs::write(dir.join("spec.json"), spec.to_json()).unwrap();
    let line = r#"{"step": 6, "loss": 3.25, "learning_rate": 0.001}"#;
    std::fs::write(job.join("curve/000000000006-000000000006.jsonl"), line).unwrap();
    job.display().to_string()
}

#[test]
fn a_step_is_made_again_from_the_jobs_folder() {
    let dir = tempfile::tempdir().unwrap();
    let job = job_over_a_corpus(dir.path());
    let spec = dir.path().join("spec.json").display().to_string();
    let from_folder = ["replay", "--store", &job, "--spec", &spec, "--step"];
    let replay = |step: &str, more: &[&str]| cappactl(&[from_folder.as_slice(), &[step], more].concat());

    let table = replay("6", &[]);
    assert_eq!(table.code, Some(0), "{table:?}");
    // 40 samples, eight a step: epoch 0 ends with step 5.
    insta::assert_snapshot!(table.stdout.replace(&job, "FOLDER"));

    let json: Value = serde_json::from_str(&replay("6", &["-o", "json"]).stdout).unwrap();
    assert_eq!(json["recorded_loss"], 3.25);
    let slots = json["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 8);
    assert!(table.stdout.contains(json["sha256"].as_str().unwrap()), "the same digest again");
    for slot in slots {
        assert_eq!((&slot["epoch"], slot["pixels_sha256"].as_str().unwrap().len()), (&1.into(), 64));
        assert!(slot["tokens"].as_array().unwrap().iter().any(|token| *token != 0), "{slot}");
        let sample = &slot["sample"];
        assert!(sample["shard"].as_u64().unwrap() < 5 && sample["index"].as_u64().unwrap() < 8, "{slot}");
    }
    let other: Value = serde_json::from_str(&replay("5", &["-o", "json"]).stdout).unwrap();
    assert_ne!(other["sha256"], json["sha256"]);
    assert_eq!(other["recorded_loss"], Value::Null);

    let beyond = replay("8", &[]);
    assert_eq!(beyond.code, Some(2), "{beyond:?}");
    assert!(beyond.stderr.contains("the job has 7 steps"), "{beyond:?}");
    let without = cappactl(&["replay", "--store", &job, "--step", "6"]);
    assert_eq!(without.code, Some(2), "{without:?}");
    assert!(without.stderr.contains("--spec FILE"), "{without:?}");
}
