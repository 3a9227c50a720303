//! A coordinator or two and some workers, started, broken and restarted as a test wants.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cappa_proto as wire;
use cappa_proto::jobs_client::JobsClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::chaos::Network;
use crate::process::Process;

/// How long a process may take to come up on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const LOOPBACK: &str = "127.0.0.1";

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Workers to begin with.
    pub workers: usize,
    /// How soon a silent worker is declared lost.
    pub detection: Duration,
    /// URL of the store; a folder of the cluster's own when absent.
    pub store: Option<String>,
    /// Bound of a worker's cache of shards in MiB; the program's own when absent.
    pub cache_mib: Option<u64>,
    /// Further environment of every process.
    pub env: Vec<(String, String)>,
    /// Further environment of the coordinator.
    pub coordinator_env: Vec<(String, String)>,
    /// Further environment of some workers, by their numbers.
    pub worker_env: BTreeMap<usize, Vec<(String, String)>>,
    /// Workers know a second coordinator, which [`Cluster::start_standby`] starts.
    pub standby: bool,
    /// A host of its own for every process; all on the loopback when absent.
    pub network: Option<Arc<Network>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            detection: Duration::from_secs(5),
            store: None,
            cache_mib: None,
            env: Vec::new(),
            coordinator_env: Vec::new(),
            worker_env: BTreeMap::new(),
            standby: false,
            network: None,
        }
    }
}

/// A running cluster. Dropping it ends every process.
pub struct Cluster {
    folder: TempDir,
    options: Options,
    coordinator: Option<Process>,
    workers: BTreeMap<usize, Process>,
    here: Place,
    /// Another coordinator that stands by, and where one may.
    standby: Option<Process>,
    spare: Option<Place>,
}

/// Where a coordinator is.
#[derive(Debug, Clone)]
struct Place {
    name: &'static str,
    grpc: String,
    http: String,
}

impl Place {
    fn new(name: &'static str, host: &str, [grpc, http]: [u16; 2]) -> Self {
        Self { name, grpc: format!("{host}:{grpc}"), http: format!("{host}:{http}") }
    }
}

/// A free port below those that the system gives to whoever asks for any: nobody is given it before a coordinator listens there,
/// nor while that is restarted.
fn free_port() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes beside this one begin elsewhere.
        let number = std::process::id().wrapping_mul(100).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 20_000)?;
        match std::net::TcpListener::bind((LOOPBACK, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            looked => return looked.map(|_| port).context("no port can be looked at"),
        }
    }
}

impl Cluster {
    /// Starts the coordinator, then the workers.
    pub fn start(options: Options) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let workers = options.workers;
        let host = options.network.as_ref().map_or(LOOPBACK, |network| &network.coordinator().address);
        let ports = |alone: [u16; 2]| match options.network {
            Some(_) => Ok(alone),
            None => anyhow::Ok([free_port()?, free_port()?]),
        };
        let here = Place::new("coordinator", host, ports([0, 0])?);
        let spare = match options.standby {
            true => Some(Place::new("standby", host, ports([47_070, 47_071])?)),
            false => None,
        };
        let mut cluster =
            Self { folder, options, coordinator: None, workers: BTreeMap::new(), here, standby: None, spare };
        cluster.start_coordinator()?;
        for index in 0..workers {
            cluster.start_worker(index)?;
        }
        Ok(cluster)
    }

    /// The cluster's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where a local store is.
    pub fn store_folder(&self) -> PathBuf {
        self.folder().join("store")
    }

    /// The coordinator's HTTP address, `host:port`.
    pub fn http(&self) -> &str {
        &self.here.http
    }

    /// The coordinator's gRPC URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.here.grpc)
    }

    /// The gRPC addresses of all coordinators, as workers and cappactl are told them.
    pub fn coordinators(&self) -> String {
        [Some(&self.here), self.spare.as_ref()]
            .into_iter()
            .flatten()
            .map(|place| &*place.grpc)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Starts the coordinator, at its earlier addresses if it had some.
    pub fn start_coordinator(&mut self) -> Result<()> {
        let (process, here) = self.coordinator_process(&self.here)?;
        (self.coordinator, self.here) = (Some(process), here);
        Ok(())
    }

    /// Starts the second coordinator, and waits until it follows the first.
    pub fn start_standby(&mut self) -> Result<()> {
        let spare = self.spare.as_ref().context("no place for a standby")?;
        let (process, spare) = self.coordinator_process(spare)?;
        (self.standby, self.spare) = (Some(process), Some(spare));
        Ok(())
    }

    fn coordinator_process(&self, place: &Place) -> Result<(Process, Place)> {
        let store = match &self.options.store {
            Some(url) => url.clone(),
            None => format!("file://{}", self.store_folder().display()),
        };
        let detection = format!("{}ms", self.options.detection.as_millis());
        let arguments = ["--store", &store, "--listen", &place.grpc, "--http", &place.http, "--detection", &detection];
        let arguments = arguments.map(str::to_owned);
        let namespace = self.options.network.as_ref().map(|network| network.coordinator().namespace.as_str());
        let env = [&self.options.env[..], &self.options.coordinator_env].concat();
        let mut process =
            Process::start("cappa-coordinator", place.name, namespace, self.folder.path(), &arguments, &env)?;
        let addresses = process.addresses(START_LIMIT).context("the coordinator")?;
        let address =
            |key: &str| addresses[key].as_str().map(str::to_owned).with_context(|| format!("no {key} address"));
        let place = Place { name: place.name, grpc: address("grpc")?, http: address("http")? };
        Ok((process, place))
    }

    /// SIGKILL for the coordinator that leads; the cluster's is from now on the one that stands by. Gives how long it took
    /// until that one led.
    pub async fn kill_leader(&mut self) -> Result<Duration> {
        let standby = self.standby.take().context("no coordinator stands by")?;
        let spare = self.spare.as_mut().context("it has a place")?;
        self.coordinator = None;
        let begun = Instant::now();
        std::mem::swap(&mut self.here, spare);
        self.coordinator = Some(standby);
        // Who follows would have to ask the leader for them, and says that it can't.
        while self.jobs().await?.list_workers(wire::ListWorkersRequest {}).await.is_err() {
            if begun.elapsed() > START_LIMIT {
                bail!("nobody takes over:\n{}", self.logs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(begun.elapsed())
    }

    /// SIGKILL for the coordinator.
    pub fn kill_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// Any other signal for the coordinator.
    pub fn signal_coordinator(&self, signal: libc::c_int) -> Result<()> {
        self.coordinator.as_ref().context("no coordinator runs")?.signal(signal)
    }

    /// Starts worker number `index`.
    pub fn start_worker(&mut self, index: usize) -> Result<()> {
        self.start_worker_with(index, &[])
    }

    /// Starts worker number `index` with further arguments.
    pub fn start_worker_with(&mut self, index: usize, more: &[&str]) -> Result<()> {
        let process = self.worker_process(index, "", more)?;
        self.workers.insert(index, process);
        Ok(())
    }

    /// Starts a second process with the id of worker number `index`; it ends when dropped.
    pub fn start_twin(&self, index: usize) -> Result<impl Drop + use<>> {
        self.worker_process(index, ".twin", &[])
    }

    fn worker_process(&self, index: usize, which: &str, more: &[&str]) -> Result<Process> {
        let name = format!("worker-{index}");
        let cache = self.cache_folder(index).display().to_string() + which;
        let coordinator = self.coordinators();
        let host = self.options.network.as_ref().map(|network| network.worker(index));
        let address = host.map_or(LOOPBACK, |host| &host.address);
        let arguments = ["run", "--coordinator", &coordinator, "--id", &name, "--host", address, "--cache", &cache];
        let bound = self.options.cache_mib.map(|mib| ["--cache-mib".to_owned(), mib.to_string()]);
        let arguments: Vec<String> = arguments
            .iter()
            .chain(&["--threads", "1", "--data-threads", "1"])
            .chain(more)
            .map(|&one| one.to_owned())
            .chain(bound.into_iter().flatten())
            .collect();
        let namespace = host.map(|host| host.namespace.as_str());
        let own = self.options.worker_env.get(&index).map_or(&[][..], Vec::as_slice);
        let env = [&self.options.env, own].concat();
        let log = name + which;
        Process::start("cappa-worker", &log, namespace, self.folder.path(), &arguments, &env)
    }

    /// Where worker number `index` keeps shards.
    pub fn cache_folder(&self, index: usize) -> PathBuf {
        self.folder().join(format!("worker-{index}.cache"))
    }

    /// The process of worker number `index`.
    pub fn worker_pid(&self, index: usize) -> Result<u32> {
        Ok(self.workers.get(&index).context("no such worker")?.id())
    }

    /// Starts again whichever of the first `count` workers has ended.
    pub fn restart_ended(&mut self, count: usize) -> Result<()> {
        for index in 0..count {
            if self.workers.get_mut(&index).is_none_or(Process::has_ended) {
                self.start_worker(index)?;
            }
        }
        Ok(())
    }

    /// SIGKILL for a worker.
    pub fn kill_worker(&mut self, index: usize) {
        self.workers.remove(&index);
    }

    /// Any other signal for a worker.
    pub fn signal_worker(&self, index: usize, signal: libc::c_int) -> Result<()> {
        self.workers.get(&index).context("no such worker")?.signal(signal)
    }

    /// Waits for a worker to end by itself; gives its exit code.
    pub fn wait_worker(&mut self, index: usize, limit: Duration) -> Result<Option<i32>> {
        let status = self.workers.get_mut(&index).context("no such worker")?.wait(limit)?;
        self.workers.remove(&index);
        Ok(status.code())
    }

    /// A client of the Jobs API, once the coordinator answers.
    pub async fn jobs(&self) -> Result<JobsClient<Channel>> {
        let begun = Instant::now();
        loop {
            match JobsClient::connect(self.url()).await {
                Ok(client) => return Ok(client.max_decoding_message_size(64 << 20)),
                Err(error) if begun.elapsed() > START_LIMIT => {
                    return Err(error).context("the coordinator does not answer");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until so many workers are connected and idle.
    pub async fn wait_idle(&self, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut jobs = self.jobs().await?;
            let workers = jobs.list_workers(wire::ListWorkersRequest {}).await?.into_inner().workers;
            if workers.iter().filter(|worker| worker.state == "idle").count() >= count {
                return Ok(());
            }
            if begun.elapsed() > START_LIMIT {
                bail!("{count} idle workers were wanted: {workers:?}\n{}", self.logs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The ends of all logs, for a failing test's message.
    pub fn logs(&self) -> String {
        let coordinator = self.coordinator.iter().map(|process| ("coordinator".to_owned(), process));
        let workers = self.workers.iter().map(|(index, process)| (format!("worker-{index}"), process));
        coordinator.chain(workers).map(|(name, process)| format!("== {name}\n{}\n", process.tail())).collect()
    }
}
