//! `cappactl replay --run`: the updates up to a step made again by the worker's program, beside what the job logged.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use cappa_shared::checkpoint::{self, manifest_path};
use cappa_shared::ids::Step;
use cappa_shared::spec::{JobSpec, Precision};
use cappa_shared::storage::Location;
use serde::Serialize;

use super::replay::Point;
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output;
use crate::progress::Meter;

/// How far apart, relative to the larger, losses may be that ranks summed in another order, or another machine computed.
const TOLERANCE_FP32: f64 = 1e-4;
const TOLERANCE_BF16: f64 = 1e-2;

/// Updates made again, and whether they are those of the job.
#[derive(Debug, Serialize)]
pub(super) struct Rerun {
    /// Completed updates of the state that it began from.
    from: u64,
    /// Largest relative difference of two losses that agree.
    tolerance: f64,
    /// Whether every loss that the job logged agrees, that of the step among them.
    pub(super) agrees: bool,
    /// Every update from there to the step.
    updates: Vec<Update>,
}

#[derive(Debug, Serialize)]
struct Update {
    step: u64,
    loss: f64,
    /// Of the run, as the job's curve has it.
    recorded_loss: Option<f64>,
    /// Relative to the larger of the two.
    difference: Option<f64>,
}

/// What is made again.
pub(super) struct Request<'a> {
    /// The job's folder, and its URL.
    pub(super) at: &'a Location,
    pub(super) folder: &'a str,
    pub(super) spec: &'a JobSpec,
    /// The spec as it ran.
    pub(super) document: &'a [u8],
    /// The last update, counted from 1.
    pub(super) step: u64,
    /// Folder for downloaded shards.
    pub(super) cache: &'a Path,
    /// Instead of the precision's own.
    pub(super) tolerance: Option<f64>,
}

impl Request<'_> {
    /// The committed manifests from which the step can be reached, the nearest first.
    async fn manifests(&self) -> anyhow::Result<Vec<String>> {
        let before = checkpoint::committed(self.at).await?.into_iter().filter(|&at| at < Step(self.step));
        Ok(before.map(manifest_path).collect())
    }

    fn tolerance(&self) -> f64 {
        self.tolerance.unwrap_or(match self.spec.precision {
            Precision::Fp32 => TOLERANCE_FP32,
            Precision::Bf16 => TOLERANCE_BF16,
        })
    }

    /// Makes the updates again; `recorded` gives what the job logged of a range of steps.
    pub(super) async fn run(
        &self,
        recorded: impl AsyncFnOnce(std::ops::RangeInclusive<u64>) -> anyhow::Result<BTreeMap<u64, f64>>,
    ) -> anyhow::Result<Rerun> {
        let scratch = tempfile::tempdir()?;
        let spec = scratch.path().join("spec.json");
        std::fs::write(&spec, self.document)?;
        let command = self.command(local::binary("cappa-worker")?, &spec, &self.manifests().await?);
        let step = self.step;
        let points = tokio::task::spawn_blocking(move || updates(command, step)).await??;
        let first = points.first().context("the worker made no update")?.step;
        let recorded = recorded(first..=step).await?;
        Ok(Rerun::new(&points, &recorded, self.tolerance()))
    }

    fn command(&self, program: PathBuf, spec: &Path, manifests: &[String]) -> Command {
        let mut command = Command::new(program);
        command.args(["replay", "--folder", self.folder, "--step", &self.step.to_string()]);
        command.arg("--spec").arg(spec).arg("--cache").arg(self.cache);
        command.args(manifests.iter().flat_map(|manifest| ["--manifest", manifest]));
        command
    }
}

/// Runs the worker's program and takes in a line for every update.
fn updates(mut command: Command, last: u64) -> anyhow::Result<Vec<Point>> {
    let program = command.get_program().to_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut points: Vec<Point> = Vec::new();
    let mut meter = None;
    for line in BufReader::new(child.stdout.take().expect("it was piped")).lines() {
        let point: Point = serde_json::from_str(&line?).context("the worker's program is of another version")?;
        let before = points.first().unwrap_or(&point).step - 1;
        let meter = meter.get_or_insert_with(|| Meter::new("computing again", last - before));
        meter.set(point.step - before, &format!("updates after step {before}"));
        points.push(point);
    }
    drop(meter);
    let status = child.wait()?;
    if !status.success() || points.last().is_none_or(|point| point.step != last) {
        let message = format!("the worker's program ended with {status} before step {last}; it says why above");
        return Err(Failure::new(Exit::Failed, message).into());
    }
    Ok(points)
}

impl Rerun {
    fn new(points: &[Point], recorded: &BTreeMap<u64, f64>, tolerance: f64) -> Self {
        let update = |point: &Point| {
            let recorded_loss = recorded.get(&point.step).copied();
            let difference = recorded_loss.map(|then| relative_difference(then, point.loss));
            Update { step: point.step, loss: point.loss, recorded_loss, difference }
        };
        let updates: Vec<Update> = points.iter().map(update).collect();
        let is_recorded = updates.last().is_some_and(|update| update.recorded_loss.is_some());
        let is_close = updates.iter().filter_map(|update| update.difference).all(|difference| difference <= tolerance);
        let from = points.first().map_or(0, |point| point.step - 1);
        Self { from, tolerance, agrees: is_recorded && is_close, updates }
    }

    /// What people read of it.
    pub(super) fn table(&self) -> String {
        let Self { from, tolerance, agrees, updates } = self;
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let rows = updates.iter().map(|update| {
            vec![
                update.step.to_string(),
                format!("{:.6}", update.loss),
                or_none(update.recorded_loss.map(|loss| format!("{loss:.6}"))),
                or_none(update.difference.map(|difference| format!("{difference:.1e}"))),
            ]
        });
        let begin = if *from == 0 { "from the seed".to_owned() } else { format!("from the checkpoint of step {from}") };
        let verdict = match (agrees, updates.last().is_some_and(|update| update.recorded_loss.is_some())) {
            (true, _) => format!("the losses agree within {tolerance:.0e}"),
            (false, true) => format!("the losses DIFFER by more than {tolerance:.0e}"),
            (false, false) => "the job logged no loss of the step, so there is nothing to compare with".to_owned(),
        };
        let columns = output::columns(&[">STEP", ">LOSS NOW", ">LOSS THEN", ">DIFFERENCE"], rows);
        format!("computed again {begin}: {verdict}\n\n{columns}")
    }
}

/// How far apart two numbers are, relative to the larger.
fn relative_difference(a: f64, b: f64) -> f64 {
    let larger = a.abs().max(b.abs());
    if larger > 0.0 { (a - b).abs() / larger } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rerun(losses: &[f64], recorded: &[(u64, f64)]) -> Rerun {
        let points: Vec<Point> = (41..).zip(losses).map(|(step, &loss)| Point { step, loss }).collect();
        Rerun::new(&points, &recorded.iter().copied().collect(), 1e-4)
    }

    #[test]
    fn losses_agree_within_the_tolerance_and_only_where_the_step_was_logged() {
        let same = rerun(&[3.0, 2.0], &[(41, 3.0), (42, 2.0001)]);
        assert!(same.agrees && same.from == 40, "{same:?}");
        assert!(
            same.table().starts_with("computed again from the checkpoint of step 40: the losses agree within 1e-4")
        );
        assert!(!rerun(&[3.0, 2.0], &[(41, 3.0), (42, 2.001)]).agrees);
        let earlier = rerun(&[3.1, 2.0], &[(41, 3.0), (42, 2.0)]);
        assert!(!earlier.agrees && earlier.table().contains("DIFFER"), "{earlier:?}");
        assert!(rerun(&[f64::NAN, 2.0], &[(41, f64::NAN), (42, 2.0)]).agrees, "neither is a number");
        assert!(!rerun(&[f64::NAN, 2.0], &[(41, 3.0), (42, 2.0)]).agrees);
        let unlogged = rerun(&[3.0, 2.0], &[(41, 3.0)]);
        assert!(!unlogged.agrees && unlogged.table().contains("nothing to compare with"), "{unlogged:?}");
    }
}
