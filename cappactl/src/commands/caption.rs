//! `cappactl caption`: hands over to the worker's program, which has the model.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;

use crate::exit::Exit;
use crate::local;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// What `cappa-worker caption` takes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let program = local::binary("cappa-worker")?;
    let error = Command::new(&program).arg("caption").args(&arguments.rest).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
