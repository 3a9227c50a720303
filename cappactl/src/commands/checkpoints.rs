//! `cappactl checkpoints`.

use cappa_proto::GetRequest;
use clap::Subcommand;
use serde::Serialize;

use super::connect;
use super::events::clock;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;
use crate::views::Checkpoint;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List a job's committed checkpoints, the newest first.
    Ls {
        /// The job's id.
        job: String,
    },
}

#[derive(Serialize)]
#[serde(transparent)]
struct Checkpoints(Vec<Checkpoint>);

pub(crate) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let Command::Ls { job } = command;
    let client = connect(global)?;
    let request = GetRequest { job_id: job.clone() };
    let reply = client.jobs.clone().checkpoints(request).await.map_err(|status| client.failure(&status))?;
    let checkpoints = reply.into_inner().checkpoints.into_iter().map(Checkpoint::from).collect();
    output::print(global.output, &Checkpoints(checkpoints))?;
    Ok(Exit::Ok)
}

impl Present for Checkpoints {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|checkpoint| {
            let (step, bytes) = (checkpoint.step.to_string(), units::bytes(checkpoint.bytes));
            vec![step, bytes, clock(checkpoint.committed), checkpoint.manifest.clone()]
        });
        output::columns(&[">STEP", ">SIZE", "COMMITTED", "MANIFEST"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|checkpoint| checkpoint.step.to_string()).collect()
    }
}
