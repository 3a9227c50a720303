//! The report of a job: what it was, how it went and what its model can do, as one HTML file that
//! needs nothing else, and as a JSON of the same.
//!
//! | file | what it holds |
//! |---|---|
//! | `gather` | where the numbers come from |
//! | `html` | the page |
//! | `curves` | which curves are drawn |
//! | `plot` | axes and lines as SVG |

mod curves;
mod gather;
pub(crate) mod html;
pub(crate) mod plot;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cappa_shared::evaluation::{Accuracy, CaptionScores, Finding, Outcome, Recall, Results, Shots};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::output;
use crate::units;
use crate::views::{Job, Point};

pub(crate) use gather::gather;

/// The version of [`Report`] that this program writes.
const VERSION: u32 = 1;

/// Everything that a report shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`VERSION`].
    version: u32,
    generated: Timestamp,
    /// Versions of what made it, by part.
    versions: Vec<(String, String)>,
    pub(crate) job: Job,
    /// One point a step.
    curve: Vec<Point>,
    /// One entry an evaluated step, the latest last.
    pub(crate) results: Vec<Results>,
}

/// Where a report was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Files {
    pub(crate) html: PathBuf,
    pub(crate) json: PathBuf,
}

impl Report {
    /// What was measured of the final model.
    pub(crate) fn final_results(&self) -> Option<&Results> {
        self.results.last()
    }

    /// The accuracies of the final model as a table for a terminal.
    pub(crate) fn accuracies(&self) -> String {
        let rows = |outcome: &Outcome| {
            let samples = units::grouped(outcome.samples);
            let row = move |Measured { name, accuracy, .. }| {
                let shares = [Some(accuracy.accuracy), accuracy.blind_accuracy, Some(accuracy.chance)];
                let shares = shares.map(|share| share.map_or_else(|| "–".to_owned(), units::percent));
                [name].into_iter().chain(shares).chain([samples.clone()]).collect()
            };
            measured(outcome).into_iter().map(row)
        };
        let outcomes = || self.final_results().into_iter().flat_map(|results| &results.evaluations);
        let table =
            output::columns(&["EVALUATION", ">ACCURACY", ">BLIND", ">CHANCE", ">SAMPLES"], outcomes().flat_map(rows));
        outcomes().filter_map(said).fold(table, |table, line| format!("{table}\n{line}"))
    }

    /// Writes `report.html` and `report.json` into a folder.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<Files> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let files = Files { html: dir.join("report.html"), json: dir.join("report.json") };
        fs::write(&files.html, html::page(self)).with_context(|| format!("cannot write {}", files.html.display()))?;
        fs::write(&files.json, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", files.json.display()))?;
        Ok(files)
    }
}

/// An accuracy of an evaluation.
struct Measured {
    name: String,
    task: &'static str,
    accuracy: Accuracy,
}

/// The accuracies of an evaluation; captions have none.
fn measured(outcome: &Outcome) -> Vec<Measured> {
    let one = |task, accuracy| vec![Measured { name: outcome.name.clone(), task, accuracy }];
    match &outcome.finding {
        Finding::Classify(accuracy) => one("zero-shot classification", *accuracy),
        Finding::Choose(accuracy) => one("right or false caption", *accuracy),
        Finding::Fewshot { shots } => {
            let of = |shots: &Shots| Measured {
                name: format!("{}, {} a class", outcome.name, shots.shots),
                task: "few-shot classification",
                accuracy: shots.mean,
            };
            shots.iter().map(of).collect()
        }
        Finding::Accuracy { top_1, top_5 } => {
            let of = |which, accuracy| Measured {
                name: format!("{}, {which}", outcome.name),
                task: "classification",
                accuracy,
            };
            vec![of("top 1", *top_1), of("top 5", *top_5)]
        }
        // A question has no list of answers to guess from.
        Finding::Answer(answers) => one(
            "questions",
            Accuracy {
                accuracy: answers.vqa_accuracy,
                blind_accuracy: Some(answers.blind_vqa_accuracy),
                chance: 0.0,
                labels: 0,
            },
        ),
        Finding::Caption { .. } | Finding::Perplexity(_) | Finding::Retrieval(_) => Vec::new(),
    }
}

/// What an evaluation found that is no accuracy, in a line.
fn said(outcome: &Outcome) -> Option<String> {
    let name = &outcome.name;
    let recall = |Recall { at_1, at_5, at_10 }: Recall| [at_1, at_5, at_10].map(units::percent).join(" / ");
    match &outcome.finding {
        Finding::Perplexity(found) => Some(format!(
            "{name}: perplexity {:.2} ({:.3} nats a token, the blind decoder {:.3})",
            found.perplexity, found.nll, found.blind_nll
        )),
        Finding::Retrieval(found) => Some(format!(
            "{name}: recall at 1 / 5 / 10 of texts for images {}, of images for texts {}",
            recall(found.image_to_text),
            recall(found.text_to_image)
        )),
        Finding::Caption { scores: Some(CaptionScores { bleu_4, cider_d }), .. } => {
            Some(format!("{name}: CIDEr-D {cider_d:.3}, BLEU-4 {bleu_4:.3}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
