//! `scale-bench`: what the coordinator bears. See `bench/SCALE.md`.
//!
//! Prints one JSON line per measurement (name, ours, limit, unit) on stdout, and a table on stderr.

use std::time::Duration;

use anyhow::Result;
use cappa_shared::timing::Span;
use cappa_tests::load::{Load, MOST_STREAMS, run};
use clap::Parser;

/// Thousands of simulated workers against one coordinator.
#[derive(Debug, Parser)]
#[command(name = "scale-bench", version)]
struct Args {
    /// Workers, among them spares.
    #[arg(long, default_value_t = Load::default().workers)]
    workers: usize,
    /// Jobs that train, each with an equal share of the workers.
    #[arg(long, default_value_t = Load::default().jobs)]
    jobs: usize,
    /// Workers that no job needs until it has lost one.
    #[arg(long, default_value_t = Load::default().spares)]
    spares: usize,
    /// How long workers are taken away one by one.
    #[arg(long, default_value_t = Span(Load::default().duration), value_name = "DURATION")]
    duration: Span,
    /// How many of them a second.
    #[arg(long, default_value_t = Load::default().losses_per_second)]
    losses_per_second: f64,
    /// How soon a silent worker is declared lost; a heartbeat comes five times as often.
    #[arg(long, default_value_t = Span(Load::default().detection), value_name = "DURATION")]
    detection: Span,
    /// Streams that share a connection, 1 as in a cluster to 200: each connection needs a port and an open file.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::try_from(MOST_STREAMS).unwrap_or(1)))]
    streams_per_connection: u16,
    /// Jobs that are submitted at once at the end.
    #[arg(long, default_value_t = Load::default().submissions)]
    submissions: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let Span(duration): Span = args.duration;
    let Span(detection): Span = args.detection;
    let load = Load {
        workers: args.workers,
        jobs: args.jobs,
        spares: args.spares,
        duration,
        losses_per_second: args.losses_per_second,
        detection,
        step: Duration::from_secs(1),
        streams_per_connection: args.streams_per_connection.into(),
        submissions: args.submissions,
        ..Load::default()
    };
    let report = Box::pin(run(&load)).await?;
    report.json().iter().for_each(|line| println!("{line}"));
    eprint!("{}", report.table());
    Ok(())
}
