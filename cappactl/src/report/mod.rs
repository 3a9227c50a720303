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
mod html;
mod plot;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cappa_shared::evaluation::{Finding, Outcome, Results};
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
        let row = |outcome: &Outcome| {
            let (Finding::Classify(accuracy) | Finding::Choose(accuracy)) = &outcome.finding else { return None };
            let shares = [accuracy.accuracy, accuracy.blind_accuracy, accuracy.chance].map(units::percent);
            Some([outcome.name.clone()].into_iter().chain(shares).chain([units::grouped(outcome.samples)]).collect())
        };
        let rows = self.final_results().into_iter().flat_map(|results| &results.evaluations).filter_map(row);
        output::columns(&["EVALUATION", ">ACCURACY", ">BLIND", ">CHANCE", ">SAMPLES"], rows)
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

#[cfg(test)]
mod tests;
