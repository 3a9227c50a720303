//! `chaos`: breaks jobs on a cluster of real processes until the time is over, and prints what became of them.
//!
//! With `--hosts` every process gets a network namespace of its own (needs root, iproute2 and nftables); without, the
//! faults that need one are left out. Ends with code 1 if something was lost.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use cappa_tests::chaos::{self, Fault, Network, Settings};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
struct Args {
    /// No round begins after so many minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Decides the order of the faults, their moments and their victims.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Updates of each job. From about step 130 on this job's training
    /// amplifies rounding so much that two and three workers differ by a percent without any fault
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// Only faults whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Give every process a host of its own.
    #[arg(long)]
    hosts: bool,
    /// Write the table as JSON here.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Prefix of the namespaces: set by this program for itself.
    #[arg(long, hide = true)]
    inside: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.hosts && args.inside.is_none() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        std::process::exit(Network::run_inside(&arguments)?);
    }
    std::process::exit(tokio::runtime::Runtime::new()?.block_on(soak(&args))?);
}

async fn soak(args: &Args) -> Result<i32> {
    let is_meant = |fault: &Fault| (args.hosts || !fault.needs_hosts()) && fault.name().contains(&args.only);
    let faults: Vec<Fault> = Fault::all().into_iter().filter(is_meant).collect();
    let settings = Settings {
        seed: args.seed,
        faults,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        rounds: usize::MAX,
        steps: args.steps,
        take_over: Duration::from_secs(5),
        recovery: Duration::from_secs(3),
        hosts: args.inside.clone(),
    };
    let mut asked = signal(SignalKind::terminate())?;
    let report = tokio::select! {
        report = chaos::run(&settings) => report?,
        // The cluster ends with the soak.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = asked.recv() => bail!("asked to end"),
    };
    println!("\n{report}");
    if let Some(out) = &args.out {
        let command: Vec<_> = std::env::args().skip(1).take_while(|argument| argument != "--inside").collect();
        let document = json!({
            "machine": { "processor": processor()?, "cores": std::thread::available_parallelism()?.get() },
            "version": env!("CARGO_PKG_VERSION"),
            "command": format!("chaos {}", command.join(" ")),
            "report": report.to_json(),
        });
        std::fs::write(out, format!("{document:#}\n"))?;
    }
    let failures = report.failures();
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("{}; rounds that failed: {}", report.losses(), failures.len());
    Ok(i32::from(!failures.is_empty() || !report.losses().is_none()))
}

fn processor() -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()))
}
