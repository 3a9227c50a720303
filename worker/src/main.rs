//! `cappa-worker`: a member of training groups. It keeps a session with the coordinator, trains when
//! told to, and has no state of its own that a restart would lose: what matters is in the job's folder.

mod batches;
mod caption;
mod checkpoint;
mod cli;
mod context;
mod evaluate;
mod interrupt;
mod metrics;
mod run;
mod session;
mod train;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Before any thread and any use of torch.
    cappa_collective::init();
    cappa_collective::ops::keep_freed_memory();
    let outcome = match cli::Cli::parse().command {
        cli::Command::Run(args) => run::run(args),
        cli::Command::Caption(args) => caption::caption(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
