//! `cappactl logs`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use cappa_proto::{GetRequest, LogsRequest};
use clap::Args;
use tonic::Status;

use super::connect;
use super::events::clock;
use crate::cli::Global;
use crate::client::{Client, is_away};
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output::{self, Format};
use crate::views::{Job, LogLine};
use crate::watch::{FIRST_PAUSE, Patience};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The job's id.
    job: String,
    /// Go on with what comes.
    #[arg(short, long)]
    follow: bool,
    /// Only the lines of this rank.
    #[arg(long)]
    rank: Option<u32>,
    /// Begin with so many of the newest lines [default: all that are kept].
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let request = LogsRequest {
        job_id: arguments.job.clone(),
        follow: arguments.follow,
        rank: arguments.rank,
        tail: arguments.tail.unwrap_or(0),
    };
    let copy = async {
        let mut tail = Tail { client: &client, seen: HashMap::new() };
        let mut patience = Patience::default();
        loop {
            match tail.copy(&request, global.output, &mut patience).await? {
                Ok(()) if !arguments.follow || has_ended(&client, &arguments.job).await? => return Ok(Exit::Ok),
                Ok(()) => tokio::time::sleep(FIRST_PAUSE).await,
                Err(status) if arguments.follow => {
                    if patience.lost(&client, &status).await? {
                        eprintln!("{} does not answer; trying again", client.address);
                    }
                }
                Err(status) => return Err(client.failure(&status).into()),
            }
        }
    };
    tokio::select! {
        ended = copy => ended,
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

/// Whether a stream ended with its job, and not with its coordinator. One that is away is tried again.
async fn has_ended(client: &Client, job: &str) -> anyhow::Result<bool> {
    match client.jobs.clone().get(GetRequest { job_id: job.to_owned() }).await {
        Ok(job) => Ok(Job::from(job.into_inner()).state.end().is_some()),
        Err(status) if is_away(&status) => Ok(false),
        Err(status) => Err(client.failure(&status).into()),
    }
}

/// What was shown already: after a break the coordinator repeats the lines that it keeps.
struct Tail<'a> {
    client: &'a Client,
    /// How often each line was shown.
    seen: HashMap<u64, usize>,
}

impl Tail<'_> {
    /// Prints the lines of one stream that were not shown before, to the stream's end.
    async fn copy(
        &mut self,
        request: &LogsRequest,
        format: Format,
        patience: &mut Patience,
    ) -> anyhow::Result<Result<(), Status>> {
        let mut lines = match self.client.jobs.clone().logs(request.clone()).await {
            Ok(lines) => lines.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut shown = self.seen.clone();
        loop {
            let line = match lines.message().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            patience.restore();
            let mut hasher = DefaultHasher::new();
            (line.unix_ms, &line.worker_id, &line.level, &line.message).hash(&mut hasher);
            let key = hasher.finish();
            match shown.get_mut(&key) {
                Some(left) if *left > 0 => *left -= 1,
                _ => {
                    if request.follow {
                        *self.seen.entry(key).or_default() += 1;
                    }
                    print(format, &line.into())?;
                }
            }
        }
    }
}

fn print(format: Format, line: &LogLine) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => {
            let (time, rank, level) = (clock(line.time), line.rank, &line.level);
            format!("{time}  {rank:>3}  {level:<5}  {}", line.message)
        }
        Format::Json => serde_json::to_string(line)?,
        Format::Yaml => format!("---\n{}", serde_yaml_ng::to_string(line)?.trim_end()),
        Format::Name => line.message.clone(),
    };
    output::line(&text)?;
    Ok(())
}
