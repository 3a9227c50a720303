//! `cappactl cancel`, `pause`, `resume` and `requeue`.

use cappa_proto::ChangeRequest;
use clap::Args;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::views::Job;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The job's id.
    job: String,
    /// Why; it is kept in the job's history.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What is asked of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Cancel,
    Pause,
    Resume,
    Requeue,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments, change: Change) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let reason = arguments.reason.clone().unwrap_or_default();
    let request = ChangeRequest { job_id: arguments.job.clone(), reason };
    let mut jobs = client.jobs.clone();
    let reply = match change {
        Change::Cancel => jobs.cancel(request).await,
        Change::Pause => jobs.pause(request).await,
        Change::Resume => jobs.resume(request).await,
        Change::Requeue => jobs.requeue(request).await,
    };
    let job = Job::from(reply.map_err(|status| client.failure(&status))?.into_inner());
    match global.output {
        Format::Table => output::line(&format!("job {} is {}", job.id, job.state.name()))?,
        format => output::print(format, &job)?,
    }
    Ok(Exit::Ok)
}
