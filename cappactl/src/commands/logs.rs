//! `cappactl logs`.

use cappa_proto::LogsRequest;
use clap::Args;

use super::connect;
use super::events::clock;
use crate::cli::Global;
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output::{self, Format};
use crate::views::LogLine;

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
        let mut lines = client.jobs.clone().logs(request).await.map_err(|status| client.failure(&status))?.into_inner();
        while let Some(line) = lines.message().await.map_err(|status| client.failure(&status))? {
            print(global.output, &line.into())?;
        }
        anyhow::Ok(Exit::Ok)
    };
    tokio::select! {
        ended = copy => ended,
        () = interrupted() => Ok(Exit::Interrupted),
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
