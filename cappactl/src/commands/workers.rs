//! `cappactl workers`.

use cappa_proto::ListWorkersRequest;
use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;
use crate::views::Worker;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the workers and what they do.
    Ls,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Workers(Vec<Worker>);

pub(crate) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let Command::Ls = command;
    let client = connect(global)?;
    let reply = client.jobs.clone().list_workers(ListWorkersRequest {}).await;
    let reply = reply.map_err(|status| client.failure(&status))?.into_inner();
    output::print(global.output, &Workers(reply.workers.into_iter().map(Worker::from).collect()))?;
    Ok(Exit::Ok)
}

impl Present for Workers {
    fn table(&self) -> String {
        let now = Timestamp::now();
        let dash = || "–".to_owned();
        let rows = self.0.iter().map(|worker| {
            vec![
                worker.id.clone(),
                worker.host.clone(),
                worker.device.clone(),
                worker.state.clone(),
                worker.job.clone().unwrap_or_else(dash),
                worker.rank.map_or_else(dash, |rank| rank.to_string()),
                worker.step.to_string(),
                worker.last_heard.map_or_else(dash, |then| units::age(then, now)),
                worker.version.clone(),
            ]
        });
        output::columns(&["WORKER", "HOST", "DEVICE", "STATE", "JOB", ">RANK", ">STEP", ">HEARD", "VERSION"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|worker| worker.id.clone()).collect()
    }
}
