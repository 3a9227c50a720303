//! `cappactl checkpoints`.

use anyhow::Context as _;
use cappa_proto::{CheckpointRequest, GetRequest};
use cappa_shared::checkpoint::{self, CheckpointError};
use cappa_shared::ids::Step;
use cappa_shared::storage;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::audit::JobFolder;
use super::connect;
use super::events::clock;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Format, Present};
use crate::units;
use crate::views::{Checkpoint, Job};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List a job's committed checkpoints, the newest first.
    Ls {
        /// The job's id.
        job: String,
    },
    /// Read every part of a job's checkpoints and name those that are damaged.
    Verify(Verify),
    /// Keep a checkpoint whatever retention says.
    Pin(One),
    /// Leave a checkpoint to retention again.
    Unpin(One),
    /// Go back to a checkpoint and give up what came after it, in memory and in the store.
    Rollback(One),
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    job: JobFolder,
    /// Only this step's checkpoint.
    #[arg(long, value_name = "STEP")]
    step: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The job's id.
    job: String,
    /// The checkpoint's step.
    #[arg(long, value_name = "STEP")]
    step: u64,
    /// Why; it is kept in the job's history.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl One {
    fn request(&self) -> CheckpointRequest {
        let reason = self.reason.clone().unwrap_or_default();
        CheckpointRequest { job_id: self.job.clone(), step: self.step, reason }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Checkpoints(Vec<Checkpoint>);

pub(crate) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    if let Command::Verify(arguments) = command {
        return verify(global, arguments).await;
    }
    let client = connect(global)?;
    let mut jobs = client.jobs.clone();
    let reply = match command {
        Command::Ls { job } => jobs.checkpoints(GetRequest { job_id: job.clone() }).await,
        Command::Pin(one) => jobs.pin_checkpoint(one.request()).await,
        Command::Unpin(one) => jobs.unpin_checkpoint(one.request()).await,
        Command::Rollback(one) => {
            let job = jobs.rollback(one.request()).await.map_err(|status| client.failure(&status))?;
            return went_back(global, one.step, &Job::from(job.into_inner()));
        }
        Command::Verify(_) => unreachable!("it asks the store"),
    };
    let reply = reply.map_err(|status| client.failure(&status))?;
    let checkpoints = reply.into_inner().checkpoints.into_iter().map(Checkpoint::from).collect();
    output::print(global.output, &Checkpoints(checkpoints))?;
    Ok(Exit::Ok)
}

fn went_back(global: &Global, step: u64, job: &Job) -> anyhow::Result<Exit> {
    match (global.output, job.state.end()) {
        (Format::Table, None) => {
            output::line(&format!("job {} goes on from step {step}; it is {}", job.id, job.state.name()))?;
        }
        (Format::Table, Some(_)) => {
            let id = &job.id;
            output::line(&format!("job {id} is back at step {step}; `cappactl requeue {id}` goes on from there"))?;
        }
        (format, _) => output::print(format, job)?,
    }
    Ok(Exit::Ok)
}

/// A checkpoint that was read as a whole.
#[derive(Serialize)]
struct Verified {
    step: u64,
    parts: usize,
    bytes: u64,
    intact: bool,
    /// What is wrong, part by part.
    damage: Vec<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct AllVerified(Vec<Verified>);

async fn verify(global: &Global, arguments: &Verify) -> anyhow::Result<Exit> {
    let url = arguments.job.url(global).await?;
    let folder = storage::open(&url)?;
    let mut steps = checkpoint::committed(&folder).await.with_context(|| format!("cannot read {url}"))?;
    if let Some(step) = arguments.step {
        steps.retain(|committed| committed.0 == step);
    }
    let verified = verify_all(&folder, steps).await?;
    if let (Some(step), true) = (arguments.step, verified.is_empty()) {
        anyhow::bail!("no checkpoint of step {step} is committed in {url}");
    }
    let is_damaged = verified.iter().any(|one| !one.intact);
    output::print(global.output, &AllVerified(verified))?;
    Ok(if is_damaged { Exit::Failed } else { Exit::Ok })
}

/// Reads all that are still committed: of a job that goes on, retention takes some meanwhile, which is no damage.
async fn verify_all(folder: &storage::Location, steps: Vec<Step>) -> anyhow::Result<Vec<Verified>> {
    let mut verified = Vec::new();
    for step in steps {
        let outcome = verify_one(folder, step).await;
        let is_intact = outcome.as_ref().is_ok_and(|one| one.intact);
        if is_intact || checkpoint::committed(folder).await?.contains(&step) {
            verified.push(outcome?);
        }
    }
    Ok(verified)
}

async fn verify_one(folder: &storage::Location, step: Step) -> anyhow::Result<Verified> {
    let (parts, bytes, damage) = match checkpoint::load(folder, step).await {
        Ok(manifest) => {
            let damage = checkpoint::examine(folder, &manifest).await?;
            let damage = damage.iter().map(ToString::to_string).collect();
            (manifest.contents().parts.len(), manifest.total_bytes(), damage)
        }
        Err(error @ CheckpointError::Manifest { .. }) => (0, 0, vec![format!("{:#}", anyhow::Error::from(error))]),
        Err(error) => return Err(error.into()),
    };
    Ok(Verified { step: step.0, parts, bytes, intact: damage.is_empty(), damage })
}

impl Present for AllVerified {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|one| {
            let state = if one.intact { "intact" } else { "damaged" };
            vec![one.step.to_string(), one.parts.to_string(), units::bytes(one.bytes), state.to_owned()]
        });
        let table = output::columns(&[">STEP", ">PARTS", ">SIZE", "STATE"], rows);
        let damage = self.0.iter().flat_map(|one| &one.damage).map(|damage| format!("\n{damage}"));
        std::iter::once(table).chain(damage).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().filter(|one| !one.intact).map(|one| one.step.to_string()).collect()
    }
}

impl Present for Checkpoints {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|checkpoint| {
            let (step, bytes) = (checkpoint.step.to_string(), units::bytes(checkpoint.bytes));
            let note = match &checkpoint.pinned {
                _ if checkpoint.retired => "retired".to_owned(),
                Some(reason) => format!("pinned: {reason}"),
                None => String::new(),
            };
            let parts = checkpoint.parts.to_string();
            vec![step, bytes, parts, clock(checkpoint.committed), checkpoint.manifest.clone(), note]
        });
        output::columns(&[">STEP", ">SIZE", ">PARTS", "COMMITTED", "MANIFEST", "NOTE"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|checkpoint| checkpoint.step.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_checkpoint_that_retention_takes_meanwhile_is_no_damage_and_one_that_is_damaged_is() {
        let temp = tempfile::tempdir().unwrap();
        let folder = storage::create(temp.path().to_str().unwrap()).unwrap();
        folder.put(&checkpoint::manifest_path(Step(50)), "no manifest").await.unwrap();
        let verified = verify_all(&folder, vec![Step(100), Step(50)]).await.unwrap();
        let verified: Vec<_> = verified.iter().map(|one| (one.step, one.intact)).collect();
        assert_eq!(verified, [(50, false)]);
    }
}
