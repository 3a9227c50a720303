//! The coordinator's program: parse, build, wait for a signal, drain.

use std::process::ExitCode;

use cappa_coordinator::{Args, Config, Coordinator};
use cappa_shared::telemetry::{LogFormat, Telemetry};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(task) = &args.task {
        return match cappa_coordinator::maintain(&args.store, task).await {
            Ok(done) => {
                eprintln!("{done}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {:#}", anyhow::Error::from(error));
                ExitCode::FAILURE
            }
        };
    }
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("error: {errors}");
            return ExitCode::from(2);
        }
    };
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let _telemetry = Telemetry::from_env("cappa-coordinator", config.listen.to_string(), LogFormat::Text).init(None)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut coordinator = Coordinator::start(config).await?;
    tokio::select! {
        ended = coordinator.failed() => return Ok(ended?),
        _ = interrupt.recv() => tracing::info!("interrupted"),
        _ = terminate.recv() => tracing::info!("terminated"),
    }
    Ok(coordinator.shut_down().await?)
}
