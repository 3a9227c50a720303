//! `cappa-worker`: a member of training groups. It keeps a session with the coordinator, trains when
//! told to, and has no state of its own that a restart would lose: what matters is in the job's folder.

mod batches;
mod caption;
mod checkpoint;
mod cli;
mod context;
#[cfg(test)]
mod documented;
mod embed;
mod evaluate;
mod export;
mod import;
mod interrupt;
mod metrics;
mod notice;
mod replay;
mod run;
mod session;
mod train;
mod trained;

use clap::Parser as _;

fn main() {
    // Before any thread and any use of torch.
    cappa_collective::init();
    cappa_collective::ops::keep_freed_memory();
    let outcome = match cli::Cli::parse().command {
        cli::Command::Run(args) => run::run(*args),
        cli::Command::Caption(args) => caption::caption(&args),
        cli::Command::Export(args) => export::export(&args),
        cli::Command::Import(args) => import::import(&args),
        cli::Command::Embed(args) => embed::embed(&args),
        cli::Command::Replay(args) => replay::replay(&args),
    };
    let code = match outcome {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    };
    // Stdout is flushed with every line. Threads of groups that were given up may still be in libtorch.
    cappa_collective::exit(code)
}
