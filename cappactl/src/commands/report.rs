//! `cappactl report`.

use std::path::PathBuf;

use clap::Args;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output;
use crate::report;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The job's id.
    job: String,
    /// The folder for `report.html` and `report.json`.
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let report = report::gather(&connect(global)?, &arguments.job).await?;
    let files = report.write(&arguments.to)?;
    output::line(&files.html.display().to_string())?;
    output::line(&files.json.display().to_string())?;
    Ok(Exit::Ok)
}
