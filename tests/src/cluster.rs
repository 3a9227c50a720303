//! One coordinator and some workers, started, broken and restarted as a test wants.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cappa_proto as wire;
use cappa_proto::jobs_client::JobsClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::process::Process;

/// How long a process may take to come up on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

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
}

impl Default for Options {
    fn default() -> Self {
        Self { workers: 2, detection: Duration::from_secs(5), store: None, cache_mib: None, env: Vec::new() }
    }
}

/// A running cluster. Dropping it ends every process.
pub struct Cluster {
    folder: TempDir,
    options: Options,
    coordinator: Option<Process>,
    workers: BTreeMap<usize, Process>,
    grpc: String,
    http: String,
}

impl Cluster {
    /// Starts the coordinator, then the workers.
    pub fn start(options: Options) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let workers = options.workers;
        let mut cluster = Self {
            folder,
            options,
            coordinator: None,
            workers: BTreeMap::new(),
            grpc: "127.0.0.1:0".into(),
            http: "127.0.0.1:0".into(),
        };
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
        &self.http
    }

    /// The coordinator's gRPC URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Starts the coordinator, at its earlier addresses if it had some.
    pub fn start_coordinator(&mut self) -> Result<()> {
        let store = match &self.options.store {
            Some(url) => url.clone(),
            None => format!("file://{}", self.store_folder().display()),
        };
        let detection = format!("{}ms", self.options.detection.as_millis());
        let arguments = ["--store", &store, "--listen", &self.grpc, "--http", &self.http, "--detection", &detection];
        let arguments = arguments.map(str::to_owned);
        let mut process =
            Process::start("cappa-coordinator", "coordinator", self.folder.path(), &arguments, &self.options.env)?;
        let addresses = process.addresses(START_LIMIT).context("the coordinator")?;
        let address =
            |key: &str| addresses[key].as_str().map(str::to_owned).with_context(|| format!("no {key} address"));
        (self.grpc, self.http) = (address("grpc")?, address("http")?);
        self.coordinator = Some(process);
        Ok(())
    }

    /// SIGKILL for the coordinator.
    pub fn kill_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// Starts worker number `index`.
    pub fn start_worker(&mut self, index: usize) -> Result<()> {
        self.start_worker_with(index, &[])
    }

    /// Starts worker number `index` with further arguments.
    pub fn start_worker_with(&mut self, index: usize, more: &[&str]) -> Result<()> {
        let name = format!("worker-{index}");
        let cache = self.folder().join(format!("{name}.cache")).display().to_string();
        let coordinator = self.url();
        let arguments = [
            "run",
            "--coordinator",
            &coordinator,
            "--id",
            &name,
            "--cache",
            &cache,
            "--threads",
            "1",
            "--data-threads",
            "1",
        ]
        .map(str::to_owned);
        let bound = self.options.cache_mib.map(|mib| ["--cache-mib".to_owned(), mib.to_string()]);
        let arguments: Vec<String> = arguments
            .into_iter()
            .chain(bound.into_iter().flatten())
            .chain(more.iter().map(|one| (*one).to_owned()))
            .collect();
        let process = Process::start("cappa-worker", &name, self.folder.path(), &arguments, &self.options.env)?;
        self.workers.insert(index, process);
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
