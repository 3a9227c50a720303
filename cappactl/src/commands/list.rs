//! `cappactl list`.

use cappa_proto::ListRequest;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;
use crate::views::{Job, State};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only the jobs of this namespace.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only jobs in one of these states.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Jobs(Vec<Job>);

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let states = arguments.state.iter().map(|state| state.to_wire().into()).collect();
    let namespace = arguments.namespace.clone().unwrap_or_default();
    let mut request = ListRequest { namespace, states, page_size: 0, page_token: String::new() };
    let mut jobs = Vec::new();
    loop {
        let page =
            client.jobs.clone().list(request.clone()).await.map_err(|status| client.failure(&status))?.into_inner();
        jobs.extend(page.jobs.into_iter().map(Job::from));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    output::print(global.output, &Jobs(jobs))?;
    Ok(Exit::Ok)
}

impl Present for Jobs {
    fn table(&self) -> String {
        let now = Timestamp::now();
        let rows = self.0.iter().map(|job| {
            vec![
                job.id.clone(),
                job.namespace.clone(),
                job.state.name().to_owned(),
                format!("{}/{}", job.step, job.total_steps),
                job.latest.map_or_else(|| "–".into(), |point| format!("{:.4}", point.loss)),
                job.members.len().to_string(),
                job.submitted.map_or_else(|| "–".into(), |then| units::age(then, now)),
                job.message.clone(),
            ]
        });
        output::columns(&["JOB", "NAMESPACE", "STATE", ">STEP", ">LOSS", ">WORKERS", ">AGE", "MESSAGE"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|job| job.id.clone()).collect()
    }
}
