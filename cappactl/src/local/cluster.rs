//! Starting and stopping the processes of a cluster.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::process::Process;
use super::state::{Standby, State, Worker};
use crate::address::Address;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;

/// How long a cluster may take until all its workers have reported. Loading libtorch from a cold
/// disk takes most of it.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long a stopped cluster may take to save what it has to.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const FREE_PORT: &str = "127.0.0.1:0";
const POLL: Duration = Duration::from_millis(50);
/// Lines of the log that are shown of a process that ended early.
const LOG_LINES: usize = 12;

/// What a cluster on this machine is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Everything of the cluster lies in it.
    pub(crate) dir: PathBuf,
    /// One leads, the others stand by.
    pub(crate) coordinators: u32,
    pub(crate) workers: u32,
    /// Threads of each worker.
    pub(crate) threads: u32,
}

#[derive(Deserialize)]
struct CoordinatorAddresses {
    grpc: String,
    http: String,
}

#[derive(Deserialize)]
struct WorkerAddresses {
    metrics: String,
}

/// A program of ours: in `CAPPA_BIN_DIR`, or beside this one.
pub(crate) fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let dir = match env::var_os("CAPPA_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => env::current_exe()?.parent().context("this program lies in no folder")?.to_owned(),
    };
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("`{name}` is not in {}", dir.display());
    let remedy = "build it with `make build`, or name its folder with CAPPA_BIN_DIR";
    Err(Failure::new(Exit::Failed, message).remedy(remedy).into())
}

/// Starts a cluster and waits until every worker has reported to the coordinator. What was started
/// is stopped again when that fails, or when the user interrupts. Of a cluster that runs in part, what has ended is
/// started again, and the rest goes on.
pub(crate) async fn start(settings: &Settings) -> anyhow::Result<State> {
    let dir = &settings.dir;
    if let Some(state) = State::read(dir)?
        && state.is_alive()
    {
        if state.processes().any(|(_, process)| !process.is_alive()) {
            return mend(settings, state).await;
        }
        let message = format!("a cluster runs in {} already, at {}", dir.display(), state.grpc);
        let remedy = format!("use it, or stop it with `cappactl local down --dir {}`", dir.display());
        return Err(Failure::new(Exit::Failed, message).remedy(remedy).into());
    }
    let started = tokio::select! {
        started = start_all(settings) => started,
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted while the cluster started").into()),
    };
    if started.is_err() {
        stop(dir).await?;
    }
    started
}

/// Starts the ended processes of a cluster again: coordinators where the workers look for them, each worker as itself.
async fn mend(settings: &Settings, mut state: State) -> anyhow::Result<State> {
    let deadline = Instant::now() + START_LIMIT;
    let dir = &settings.dir;
    if !state.coordinator.is_alive() {
        let State { grpc, http, store, standbys, workers, .. } = state;
        state = start_coordinator(dir, &store, [&grpc, &http], deadline).await?;
        (state.standbys, state.workers) = (standbys, workers);
        state.write(dir)?;
    }
    for index in 0..state.standbys.len() {
        if !state.standbys[index].process.is_alive() {
            let Standby { id, grpc, http, .. } = state.standbys[index].clone();
            state.standbys[index] = start_standby(dir, &state.store, id, [&grpc, &http], deadline).await?;
        }
        state.write(dir)?;
    }
    for index in 0..state.workers.len() {
        if !state.workers[index].process.is_alive() {
            let number = u32::try_from(index)?;
            state.workers[index] = spawn_worker(settings, &state, number)?;
        }
        state.write(dir)?;
    }
    await_all(dir, &mut state, deadline).await?;
    Ok(state)
}

async fn start_all(settings: &Settings) -> anyhow::Result<State> {
    let deadline = Instant::now() + START_LIMIT;
    let dir = &settings.dir;
    let (logs, store) = (dir.join("logs"), dir.join("store"));
    for folder in [&logs, &store] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let store = fs::canonicalize(store)?;
    let mut state = start_coordinator(dir, &store, [FREE_PORT; 2], deadline).await?;
    for number in 1..settings.coordinators {
        let standby = start_standby(dir, &store, format!("coordinator-{number}"), [FREE_PORT; 2], deadline).await?;
        state.standbys.push(standby);
        state.write(dir)?;
    }
    for index in 0..settings.workers {
        let worker = spawn_worker(settings, &state, index)?;
        state.workers.push(worker);
        state.write(dir)?;
    }
    await_all(dir, &mut state, deadline).await?;
    Ok(state)
}

/// Notes where the workers listen, and waits until the coordinator knows them all.
async fn await_all(dir: &Path, state: &mut State, deadline: Instant) -> anyhow::Result<()> {
    for worker in &mut state.workers {
        let file = address_file(dir, &worker.id);
        let addresses: WorkerAddresses = read_addresses(&file, &worker.id, &worker.process, deadline).await?;
        worker.metrics = Some(addresses.metrics);
    }
    state.write(dir)?;
    await_workers(dir, state, deadline).await
}

/// Starts a coordinator that listens at these addresses, for gRPC and for HTTP, and notes it.
async fn start_coordinator(
    dir: &Path,
    store: &Path,
    [grpc, http]: [&str; 2],
    deadline: Instant,
) -> anyhow::Result<State> {
    let (file, coordinator) = spawn_coordinator(dir, store, "coordinator", [grpc, http])?;
    let (grpc, http, store) = (grpc.to_owned(), http.to_owned(), store.to_owned());
    let mut state = State { grpc, http, store, coordinator, standbys: Vec::new(), workers: Vec::new() };
    state.write(dir)?;
    let addresses: CoordinatorAddresses = read_addresses(&file, "coordinator", &state.coordinator, deadline).await?;
    (state.grpc, state.http) = (addresses.grpc, addresses.http);
    state.write(dir)?;
    Ok(state)
}

/// Starts a coordinator that follows the first; it ends when this fails.
async fn start_standby(
    dir: &Path,
    store: &Path,
    id: String,
    addresses: [&str; 2],
    deadline: Instant,
) -> anyhow::Result<Standby> {
    let (file, process) = spawn_coordinator(dir, store, &id, addresses)?;
    match read_addresses(&file, &id, &process, deadline).await {
        Ok(CoordinatorAddresses { grpc, http }) => Ok(Standby { id, grpc, http, process }),
        Err(error) => {
            process.kill()?;
            Err(error)
        }
    }
}

fn spawn_coordinator(
    dir: &Path,
    store: &Path,
    name: &str,
    [grpc, http]: [&str; 2],
) -> anyhow::Result<(PathBuf, Process)> {
    let file = fresh_address_file(dir, name)?;
    let url =
        url::Url::from_directory_path(store).map_err(|()| anyhow::anyhow!("{} is not absolute", store.display()))?;
    let mut command = Command::new(binary("cappa-coordinator")?);
    command.args(["--store", url.as_str(), "--listen", grpc, "--http", http, "--detection", "5s"]);
    command.arg("--address-file").arg(&file);
    Ok((file, spawn(name, &mut command, dir)?))
}

fn spawn_worker(settings: &Settings, state: &State, index: u32) -> anyhow::Result<Worker> {
    let (dir, id) = (&settings.dir, format!("worker-{index}"));
    let file = fresh_address_file(dir, &id)?;
    let mut command = Command::new(binary("cappa-worker")?);
    command.args(["run", "--coordinator", &state.coordinators(), "--id", &id, "--host", "127.0.0.1"]);
    command.arg("--cache").arg(dir.join("cache").join(&id));
    command.args(["--metrics", "127.0.0.1:0", "--threads", &settings.threads.to_string()]);
    command.arg("--address-file").arg(&file);
    let process = spawn(&id, &mut command, dir)?;
    Ok(Worker { id, metrics: None, process })
}

fn spawn(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Process> {
    let log = dir.join("logs").join(format!("{name}.log"));
    Process::spawn(command, &log).with_context(|| {
        let program: OsString = command.get_program().to_owned();
        format!("cannot start {}", PathBuf::from(program).display())
    })
}

fn address_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.address.json"))
}

/// Where a process tells its addresses; what an earlier one told is removed.
fn fresh_address_file(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let file = address_file(dir, name);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(file),
    }
}

async fn read_addresses<T: DeserializeOwned>(
    file: &Path,
    name: &str,
    process: &Process,
    deadline: Instant,
) -> anyhow::Result<T> {
    loop {
        if let Some(addresses) = fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(addresses);
        }
        check(name, process, deadline)?;
        tokio::time::sleep(POLL).await;
    }
}

async fn await_workers(dir: &Path, state: &State, deadline: Instant) -> anyhow::Result<()> {
    let client = Client::new(Address::of_local(state, dir))?;
    loop {
        let reply = client.jobs.clone().list_workers(cappa_proto::ListWorkersRequest {}).await;
        let known = reply.map(|reply| reply.into_inner().workers).unwrap_or_default();
        let ready = |worker: &Worker| known.iter().any(|known| known.id == worker.id && known.state != "lost");
        if state.workers.iter().all(ready) {
            return Ok(());
        }
        for (name, process) in state.processes() {
            check(name, process, deadline)?;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Fails when a process that should run has ended, or the time is up.
fn check(name: &str, process: &Process, deadline: Instant) -> Result<(), Failure> {
    let message = if !process.is_alive() {
        format!("{name} ended while it started")
    } else if Instant::now() > deadline {
        format!("{name} was not ready after {} s", START_LIMIT.as_secs())
    } else {
        return Ok(());
    };
    let remedy = format!("its whole log is {}", process.log.display());
    Err(Failure::new(Exit::Unavailable, message).details(process.log_tail(LOG_LINES)).remedy(remedy))
}

/// Stops the cluster of a folder: workers are asked first, so that the coordinator still hears their
/// last words; who has not ended in time is killed. True when there was anything to stop.
pub(crate) async fn stop(dir: &Path) -> anyhow::Result<bool> {
    let Some(state) = State::read(dir)? else { return Ok(false) };
    let was_alive = state.is_alive();
    let deadline = Instant::now() + STOP_LIMIT;
    for worker in &state.workers {
        worker.process.terminate()?;
    }
    await_end(state.workers.iter().map(|worker| &worker.process), deadline).await;
    // Those that stand by first: nobody is to take over.
    for standby in &state.standbys {
        standby.process.terminate()?;
    }
    await_end(state.standbys.iter().map(|standby| &standby.process), deadline).await;
    state.coordinator.terminate()?;
    await_end([&state.coordinator], deadline).await;
    for (name, process) in state.processes().filter(|(_, process)| process.is_alive()) {
        eprintln!("{name} (process {}) did not end within {} s: killed", process.pid, STOP_LIMIT.as_secs());
        process.kill()?;
    }
    await_end(state.processes().map(|(_, process)| process), Instant::now() + STOP_LIMIT).await;
    State::remove(dir)?;
    Ok(was_alive)
}

async fn await_end<'a>(processes: impl IntoIterator<Item = &'a Process>, deadline: Instant) {
    for process in processes {
        while process.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
}
