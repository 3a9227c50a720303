//! `cappactl submit`.

use cappa_proto::{SubmitRequest, SubmitResponse};
use cappa_shared::ids::Namespace;
use clap::{Args, ValueEnum};

use super::connect;
use super::validate::SpecView;
use crate::cli::Global;
use crate::client::{Client, is_away, mistakes};
use crate::exit::{Exit, Failure};
use crate::follow::{Followed, Show, follow};
use crate::output::{self, Format};
use crate::spec::{Origin, Source};
use crate::views::Job;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Wait for the job's end; its exit code is the job's.
    #[arg(long)]
    wait: bool,
    /// Wait as --wait does, with live progress.
    #[arg(long, conflicts_with = "wait")]
    follow: bool,
    /// Check everything and print the spec as it would run: here, or also what the coordinator can see.
    #[arg(long, value_enum, value_name = "WHERE", num_args = 0..=1, default_missing_value = "client",
          require_equals = true, conflicts_with_all = ["wait", "follow"])]
    dry_run: Option<DryRun>,
    /// Repeating a submission with the same key gives the same job; another spec is refused.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Whose quota the job counts against [default: the spec's, else default].
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<Namespace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// Without a coordinator.
    Client,
    /// Data and stores too.
    Server,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let (spec, origin) = arguments.source.load_placed()?;
    if arguments.dry_run == Some(DryRun::Client) {
        output::print(global.output, &SpecView::of(&spec))?;
        return Ok(Exit::Ok);
    }
    let client = connect(global)?;
    let request = SubmitRequest {
        spec: spec.to_json(),
        dry_run: arguments.dry_run.is_some(),
        idempotency_key: arguments.idempotency_key.clone().unwrap_or_default(),
        namespace: arguments.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    if arguments.dry_run.is_some() {
        let response = send(&client, request, &origin).await?;
        output::print(global.output, &SpecView::of_json(&response.spec_json)?)?;
        return Ok(Exit::Ok);
    }
    let job = submit(&client, request, &origin).await?;
    let show = match (arguments.follow, arguments.wait) {
        (true, _) => Show::Progress,
        (_, true) => Show::Quiet,
        _ => {
            eprintln!("submitted; `cappactl events -w {}` shows what happens", job.id);
            return print(global.output, &job).map(|()| Exit::Ok);
        }
    };
    eprintln!("submitted {}", job.id);
    let Followed { exit, job } = Box::pin(follow(&client, &job.id, show)).await?;
    if exit == Exit::Interrupted {
        let id = &job.id;
        eprintln!("interrupted: job {id} goes on; `cappactl wait {id}` awaits it, `cappactl cancel {id}` ends it");
    }
    print(global.output, &job)?;
    Ok(exit)
}

/// Queues a job; gives it as the coordinator knows it. Without a key of the caller's it gets one, so that it can be
/// sent again when the answer was lost.
pub(crate) async fn submit(client: &Client, mut request: SubmitRequest, origin: &Origin) -> Result<Job, Failure> {
    if request.idempotency_key.is_empty() {
        request.idempotency_key = uuid::Uuid::new_v4().to_string();
    }
    let response = send(client, request, origin).await?;
    let job = response.job.ok_or_else(|| Failure::new(Exit::Failed, "the coordinator's answer has no job"))?;
    Ok(job.into())
}

/// Sends a submission, and once more where the connection broke.
async fn send(client: &Client, request: SubmitRequest, origin: &Origin) -> Result<SubmitResponse, Failure> {
    let mut reply = client.jobs.clone().submit(request.clone()).await;
    if reply.as_ref().is_err_and(is_away) {
        reply = client.jobs.clone().submit(request).await;
    }
    let refused = |status| {
        let mistakes = mistakes(&status);
        let failure = client.failure(&status);
        if mistakes.is_empty() {
            return failure;
        }
        failure.details(mistakes.iter().map(|(field, description)| origin.line(field, description)).collect())
    };
    Ok(reply.map_err(refused)?.into_inner())
}

/// The job's id for people and scripts, the whole job as data.
fn print(format: Format, job: &Job) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Name => Ok(output::line(&job.id)?),
        Format::Json | Format::Yaml => output::print(format, job),
    }
}
