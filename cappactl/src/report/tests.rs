//! What a report looks like, from an example run.

use cappa_proto as wire;
use cappa_shared::evaluation::{Accuracy, CaptionScores, Captioned, Finding, Outcome, RESULTS_VERSION, Results, Shots};
use jiff::Timestamp;

use super::{Report, VERSION, html};
use crate::views::{Job, Point};

/// A grey pixel as PNG in base64.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==";

fn job(steps: u64) -> Job {
    let bucket = |bucket: &str, seconds| wire::TimeBucket { bucket: bucket.into(), seconds };
    wire::Job {
        id: "demo-k7f3q".into(),
        name: "demo".into(),
        namespace: "default".into(),
        state: wire::JobState::Succeeded.into(),
        message: "all steps and evaluations <done>".into(),
        step: steps,
        total_steps: steps,
        generation: 2,
        members: vec![wire::Member { worker_id: "worker-0".into(), rank: 0, pace: 0 }],
        submitted_unix_ms: 1_700_000_000_000,
        started_unix_ms: 1_700_000_001_000,
        ended_unix_ms: 1_700_000_240_000,
        time: [("productive", 182.0), ("queue", 0.4), ("startup", 3.1), ("data_wait", 1.2), ("checkpoint", 0.9)]
            .into_iter()
            .chain([("recovery", 4.6), ("evaluation", 47.8), ("paused", 0.0)])
            .map(|(name, seconds)| bucket(name, seconds))
            .collect(),
        last_checkpoint_step: steps,
        folder: "file:///somewhere/store/jobs/demo-k7f3q".into(),
        spec_json: r#"{"name": "demo", "batch_size": 64, "data": {"train": "file:///corpus/<train>.json"}}"#.into(),
        recoveries: 1,
        ..Default::default()
    }
    .into()
}

fn point(step: u64, steps: u64) -> Point {
    let share = step as f64 / steps as f64;
    let wobble = (step as f64 * 1.7).sin() * (step as f64 * 0.37).cos();
    wire::StepMetrics {
        step,
        loss: 0.6 + 5.5 * (-6.0 * share).exp() + 0.15 * wobble,
        learning_rate: 1e-3 * (share * 10.0).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
        grad_norm: 1.0 + 0.5 * wobble,
        examples: 64,
        seconds: 0.15 + 0.02 * wobble,
        world_size: 2,
        ..Default::default()
    }
    .into()
}

fn outcome(name: &str, samples: u64, finding: Finding) -> Outcome {
    Outcome { name: name.into(), samples, finding }
}

fn accuracy(accuracy: f64, blind_accuracy: f64, labels: u64) -> Accuracy {
    Accuracy { accuracy, blind_accuracy: Some(blind_accuracy), chance: 1.0 / labels as f64, labels }
}

fn captioned(key: &str, caption: &str, reference: &str) -> Captioned {
    Captioned {
        key: key.into(),
        image_png: PIXEL.into(),
        caption: caption.into(),
        blind_caption: "a small red circle".into(),
        reference: reference.into(),
        references: Vec::new(),
    }
}

fn shots(shots: u32, share: f64) -> Shots {
    Shots { shots, mean: accuracy(share, 0.25, 4), draws: vec![share - 0.01, share, share + 0.01] }
}

fn example(steps: u64) -> Report {
    let examples = vec![
        captioned("heldout-000000-0007", "a large blue ring", "a large blue ring"),
        captioned("heldout-000000-0008", "a green star above a red cross", "a red star above a green cross"),
        captioned("\"><script>alert(1)</script>", "the word <MOON>", "the word moon in green"),
    ];
    let evaluations = vec![
        outcome("objects", 480, Finding::Classify(accuracy(0.912, 0.021, 48))),
        outcome("words", 180, Finding::Classify(accuracy(0.75, 0.0625, 16))),
        outcome("attribute-swaps", 470, Finding::Choose(accuracy(0.662, 0.5, 2))),
        outcome("few", 470, Finding::Fewshot { shots: vec![shots(1, 0.31), shots(5, 0.62)] }),
        outcome(
            "captions",
            3,
            Finding::Caption { examples, scores: Some(CaptionScores { bleu_4: 0.41, cider_d: 2.5 }) },
        ),
    ];
    Report {
        version: VERSION,
        generated: Timestamp::from_second(1_700_000_300).unwrap(),
        versions: vec![("cappactl".into(), "0.1.0".into()), ("worker-0".into(), "0.1.0 on cpu".into())],
        job: job(steps),
        curve: (1..=steps).map(|step| point(step, steps)).collect(),
        results: vec![Results {
            version: RESULTS_VERSION,
            job: "demo-k7f3q".into(),
            from: None,
            step: steps,
            seconds: 47.8,
            evaluations,
        }],
    }
}

/// The page without the style, which is a file of its own.
fn body(page: &str) -> &str {
    &page[page.find("<body>").unwrap()..]
}

#[test]
fn the_page_shows_numbers_curves_pictures_and_times() {
    insta::assert_snapshot!(body(&html::page(&example(12))));
}

#[test]
fn the_page_needs_nothing_else_and_runs_nothing() {
    let page = html::page(&example(2_000));
    for foreign in ["<script", "http://", "https://", "<link", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn a_job_that_has_done_nothing_yet_has_a_page() {
    let mut report = example(4);
    report.curve.clear();
    report.results.clear();
    report.job.time.clear();
    assert!(!body(&html::page(&report)).contains("NaN"));
}

#[test]
fn the_data_beside_the_page_is_the_same() {
    let (dir, report) = (tempfile::tempdir().unwrap(), example(4));
    let files = report.write(dir.path()).unwrap();
    let read: Report = serde_json::from_slice(&std::fs::read(&files.json).unwrap()).unwrap();
    assert_eq!((read.job, read.results), (report.job.clone(), report.results.clone()));
    assert_eq!(read.curve.len(), report.curve.len());
    assert_eq!(std::fs::read_to_string(&files.html).unwrap(), html::page(&report));
}

#[test]
fn accuracies_are_a_table_for_the_terminal() {
    insta::assert_snapshot!(example(4).accuracies());
}
