//! `cappactl`: the command line of CapPa. Each command is a module of [`commands`] with its
//! arguments and one `run`; data goes to stdout, everything else to stderr.

mod address;
mod cli;
mod client;
mod commands;
mod corpus;
mod exit;
mod follow;
mod interrupt;
mod local;
mod output;
mod progress;
mod report;
mod router;
mod spec;
mod study;
mod units;
mod views;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let exit = commands::run(cli).unwrap_or_else(|error| exit::report(&error));
    ExitCode::from(exit.number())
}
