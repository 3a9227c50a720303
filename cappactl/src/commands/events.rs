//! `cappactl events`.

use clap::Args;
use jiff::Timestamp;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output::{self, Format};
use crate::views::{Event, Job};
use crate::watch::{Update, Watcher};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The job's id.
    job: String,
    /// Go on until the job has ended.
    #[arg(short, long)]
    watch: bool,
}

/// Prints one line an event: as JSON lines with `-o json`, as YAML documents with `-o yaml`.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    client.job(&arguments.job).await?;
    let mut watcher = Watcher::new(client.clone(), &arguments.job);
    let follow = async {
        while let Some(update) = watcher.next().await? {
            match update {
                Update::Event(event) => print(global.output, &event)?,
                Update::Away => eprintln!("{} does not answer; trying again", client.address),
                // The coordinator sends the history first, then how the job is now.
                Update::Job(_) if !arguments.watch => break,
                Update::Job(_) => {}
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = follow => ended?,
        () = interrupted() => return Ok(Exit::Interrupted),
    }
    if !arguments.watch {
        return Ok(Exit::Ok);
    }
    Ok(Job::from(client.job(&arguments.job).await?).state.end().unwrap_or(Exit::Ok))
}

fn print(format: Format, event: &Event) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => format!("{}  {:<22}  {}", clock(event.time), event.kind, event.message),
        Format::Json => serde_json::to_string(event)?,
        Format::Yaml => format!("---\n{}", serde_yaml_ng::to_string(event)?.trim_end()),
        Format::Name => event.sequence.to_string(),
    };
    output::line(&text)?;
    Ok(())
}

/// A moment as people read it in a log, in the machine's time zone.
pub(crate) fn clock(moment: Option<Timestamp>) -> String {
    let Some(moment) = moment else { return "–".into() };
    moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
