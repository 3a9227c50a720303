//! `cappactl workers`.

use cappa_proto::{ListWorkersRequest, WorkerRequest};
use clap::{Args, Subcommand};
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
    /// Keep a worker out of groups until it is released; a group that has it goes on with it.
    Cordon(One),
    /// Put a worker into groups again that is cordoned, or quarantined before its cool-down is over.
    Release(One),
    /// Have a worker's process end: its group checkpoints and forms again without it.
    Drain(One),
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The worker's id.
    worker: String,
    /// Why; whoever looks at the worker or its job sees it.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl One {
    fn request(&self) -> WorkerRequest {
        WorkerRequest { worker_id: self.worker.clone(), reason: self.reason.clone().unwrap_or_default() }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Workers(Vec<Worker>);

pub(crate) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let mut jobs = client.jobs.clone();
    let reply = match command {
        Command::Ls => jobs.list_workers(ListWorkersRequest {}).await,
        Command::Cordon(one) => jobs.cordon_worker(one.request()).await,
        Command::Release(one) => jobs.release_worker(one.request()).await,
        Command::Drain(one) => jobs.drain_worker(one.request()).await,
    };
    let reply = reply.map_err(|status| client.failure(&status))?.into_inner();
    output::print(global.output, &Workers(reply.workers.into_iter().map(Worker::from).collect()))?;
    Ok(Exit::Ok)
}

/// Why a worker gets no place in a group, and for how long.
fn note(worker: &Worker, now: Timestamp) -> String {
    let note = worker.note.clone().unwrap_or_default();
    match worker.quarantined_until {
        Some(until) => format!("{note}; quarantined for another {}", units::age(now, until)),
        None => note,
    }
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
                note(worker, now),
            ]
        });
        output::columns(
            &["WORKER", "HOST", "DEVICE", "STATE", "JOB", ">RANK", ">STEP", ">HEARD", "VERSION", "NOTE"],
            rows,
        )
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|worker| worker.id.clone()).collect()
    }
}
