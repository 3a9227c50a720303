//! `cappactl priority`.

use cappa_proto::SetPriorityRequest;
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
    /// A number, or one of the coordinator's classes; higher runs first.
    #[arg(allow_hyphen_values = true)]
    priority: String,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let request = SetPriorityRequest { job_id: arguments.job.clone(), priority: arguments.priority.clone() };
    let reply = client.jobs.clone().set_priority(request).await;
    let job = Job::from(reply.map_err(|status| client.failure(&status))?.into_inner());
    match global.output {
        Format::Table => output::line(&format!("job {} has priority {}", job.id, job.priority))?,
        format => output::print(format, &job)?,
    }
    Ok(Exit::Ok)
}
