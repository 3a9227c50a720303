//! `cappactl local`.

use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::local::{self, DEFAULT_DIR, DIR_VARIABLE, Demo, Settings, State};
use crate::output::{self, Present};
use crate::study;
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster: a coordinator and some workers, as processes of this machine; or what has ended of one.
    Up(Up),
    /// Stop the cluster; what it stored stays.
    Down(Folder),
    /// Show what of the cluster runs, and where.
    Status(Folder),
    /// Make a corpus, train on it, evaluate, and write a report; then stop everything.
    Demo(Demo),
    /// Train the paper's systems side by side on a corpus that is made for it, evaluate them, and write a report.
    Study(study::Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    folder: Folder,
    /// How many coordinators to start: one leads, and another when that one ends.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9))]
    coordinators: u32,
    /// How many workers to start.
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,
    /// Threads of each worker [default: the processors divided among the workers].
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Folder of the cluster: its state, logs and store.
    #[arg(long, env = DIR_VARIABLE, default_value = DEFAULT_DIR, value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Up(arguments) => up(global, arguments).await,
        Command::Down(Folder { dir }) => {
            let stopped = local::stop(dir).await?;
            let text = if stopped { "stopped the cluster" } else { "no cluster ran" };
            eprintln!("{text} in {}", dir.display());
            Ok(Exit::Ok)
        }
        Command::Status(Folder { dir }) => {
            let state = State::read(dir)?.ok_or_else(|| no_cluster(dir))?;
            output::print(global.output, &Status::of(&state))?;
            Ok(if state.processes().all(|(_, process)| process.is_alive()) { Exit::Ok } else { Exit::Unavailable })
        }
        Command::Study(arguments) => Box::pin(study::study(global.output, arguments)).await,
        Command::Demo(arguments) => Box::pin(local::demo(global.output, arguments)).await,
    }
}

async fn up(global: &Global, arguments: &Up) -> anyhow::Result<Exit> {
    let processors = available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    let threads = arguments.threads.unwrap_or_else(|| (processors / arguments.workers.max(1)).max(1));
    let Up { folder: Folder { dir }, coordinators, workers, .. } = arguments;
    let settings = Settings { dir: dir.clone(), coordinators: *coordinators, workers: *workers, threads };
    let (coordinators, workers) =
        (units::count(settings.coordinators, "coordinator"), units::count(settings.workers, "worker"));
    eprintln!("starting {coordinators} and {workers} in {}", settings.dir.display());
    let state = local::start(&settings).await?;
    output::print(global.output, &Status::of(&state))?;
    Ok(Exit::Ok)
}

fn no_cluster(dir: &std::path::Path) -> Failure {
    Failure::new(Exit::NotFound, format!("no cluster was started in {}", dir.display()))
        .remedy("start one with `cappactl local up`")
}

/// A cluster as it is shown.
#[derive(Serialize)]
struct Status {
    coordinator: String,
    dashboard: String,
    store: PathBuf,
    processes: Vec<ProcessStatus>,
}

#[derive(Serialize)]
struct ProcessStatus {
    name: String,
    pid: i32,
    running: bool,
    metrics: Option<String>,
    log: PathBuf,
}

impl Status {
    fn of(state: &State) -> Self {
        let processes = state.processes().map(|(name, process)| ProcessStatus {
            name: name.to_owned(),
            pid: process.pid,
            running: process.is_alive(),
            metrics: state.metrics_of(name),
            log: process.log.clone(),
        });
        Self {
            coordinator: state.coordinators(),
            dashboard: format!("http://{}/", state.http),
            store: state.store.clone(),
            processes: processes.collect(),
        }
    }
}

impl Present for Status {
    fn table(&self) -> String {
        let rows = self.processes.iter().map(|process| {
            vec![
                process.name.clone(),
                process.pid.to_string(),
                if process.running { "running" } else { "ended" }.to_owned(),
                process.metrics.clone().unwrap_or_else(|| "–".into()),
                process.log.display().to_string(),
            ]
        });
        let table = output::columns(&["PROCESS", ">PID", "STATE", "METRICS", "LOG"], rows);
        let Self { coordinator, dashboard, store, .. } = self;
        format!("coordinator  {coordinator}\ndashboard    {dashboard}\nstore        {}\n\n{table}", store.display())
    }

    fn names(&self) -> Vec<String> {
        self.processes.iter().map(|process| process.name.clone()).collect()
    }
}
