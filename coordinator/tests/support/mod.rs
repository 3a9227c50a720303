//! A coordinator of the test's own on loopback, a corpus, and workers that follow a script.

#![allow(dead_code, reason = "each test file uses its share")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "code of tests")]

pub mod line;
pub mod shards;
mod worker;

use std::time::Duration;

use cappa_coordinator::{Args, ClusterPolicy, Config, Coordinator};
use cappa_proto::jobs_client::JobsClient;
use cappa_proto::{ChangeRequest, GetRequest, Job, JobState, SubmitRequest};
use cappa_shared::manifest::{DataManifest, Shard};
use clap::Parser;
use tempfile::TempDir;
use tonic::transport::Channel;

pub use worker::FakeWorker;

/// How soon a silent worker is lost in these tests.
pub const DETECTION: &str = "1s";

/// What never takes so long unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A store with a corpus.
pub struct Fixture {
    pub folder: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        // In memory where there is such a folder: what is timed here is no disk.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let corpus = folder.path().join("corpus");
        std::fs::create_dir(&corpus).unwrap();
        let shards = (0..2).map(|n| {
            let path = format!("shard-{n}.tar");
            std::fs::write(corpus.join(&path), vec![n; 1000]).unwrap();
            Shard::tar(path, 1000, "ab".repeat(32), 100)
        });
        let manifest = DataManifest::new(shards.collect()).unwrap();
        std::fs::write(corpus.join("train.json"), manifest.to_json()).unwrap();
        let tokenizer = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1}},"added_tokens":[]}"#;
        std::fs::write(corpus.join("tokenizer.json"), tokenizer).unwrap();
        Self { folder }
    }

    /// A good spec.
    pub fn spec(&self, name: &str, workers: &str) -> String {
        let corpus = self.folder.path().join("corpus");
        let corpus = corpus.display();
        format!(
            "apiVersion: cappa.dev/v1\nname: {name}\nmodel: tiny\nbatch_size: 32\nworkers: {workers}\n\
             duration: {{steps: 100}}\ncheckpoint: {{every: 10, keep: 2}}\n\
             data: {{train: {corpus}/train.json, tokenizer: {corpus}/tokenizer.json}}\n"
        )
    }

    /// The settings of a coordinator over the store.
    pub fn config(&self) -> Config {
        self.config_of(DETECTION)
    }

    fn config_of(&self, detection: &str) -> Config {
        let store = self.folder.path().join("store");
        let store = store.to_str().unwrap();
        let line = ["cappa-coordinator", "--store", store, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let args = Args::try_parse_from(line.into_iter().chain(["--detection", detection])).unwrap();
        Config::try_from(args).unwrap()
    }

    /// Starts a coordinator.
    pub async fn start(&self) -> Running {
        self.start_with("").await
    }

    /// Starts a coordinator, two workers and a job that wants as many as `workers` says.
    pub async fn pair(&self, workers: &str) -> Pair {
        let running = Box::pin(self.start()).await;
        let a = FakeWorker::connect(&running.address, "worker-a").await;
        let b = FakeWorker::connect(&running.address, "worker-b").await;
        let job = running.submit(&self.spec("demo", workers)).await;
        Pair { running, a, b, job }
    }

    /// Starts a coordinator with a policy file of this text.
    pub async fn start_with(&self, policy: &str) -> Running {
        let policy = ClusterPolicy::parse(policy).unwrap();
        Self::run(Config { policy, ..self.config() }).await
    }

    /// Starts a coordinator that is in no hurry to take workers for lost, nor another's lease for lapsed.
    pub async fn start_patient(&self) -> Running {
        Self::run(self.config_of("5s")).await
    }

    async fn run(config: Config) -> Running {
        let coordinator = Box::pin(Coordinator::start(config)).await.unwrap();
        let address = format!("http://{}", coordinator.grpc_address());
        let jobs = JobsClient::connect(address.clone()).await.unwrap();
        Running { coordinator, jobs, address }
    }
}

/// A coordinator with two workers and a job for them.
pub struct Pair {
    pub running: Running,
    pub a: FakeWorker,
    pub b: FakeWorker,
    pub job: String,
}

/// A coordinator and a client of it.
pub struct Running {
    pub coordinator: Coordinator,
    pub jobs: JobsClient<Channel>,
    pub address: String,
}

impl Running {
    /// Submits a spec that is right.
    pub async fn submit(&self, spec: &str) -> String {
        let request = SubmitRequest { spec: spec.to_owned(), ..SubmitRequest::default() };
        self.jobs.clone().submit(request).await.unwrap().into_inner().job.unwrap().id
    }

    pub async fn job(&self, id: &str) -> Job {
        self.jobs.clone().get(GetRequest { job_id: id.to_owned() }).await.unwrap().into_inner()
    }

    pub async fn cancel(&self, id: &str) -> Job {
        let request = ChangeRequest { job_id: id.to_owned(), reason: String::new() };
        self.jobs.clone().cancel(request).await.unwrap().into_inner()
    }

    /// Waits until the job is as wanted.
    pub async fn until(&self, id: &str, what: &str, is_so: impl Fn(&Job) -> bool) -> Job {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let job = self.job(id).await;
            if is_so(&job) {
                return job;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}; the job is {job:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_state(&self, id: &str, state: JobState) -> Job {
        self.until(id, state.as_str_name(), |job| job.state() == state).await
    }

    /// The sample of a metric of a job of the default namespace.
    pub async fn job_metric(&self, name: &str, id: &str) -> f64 {
        self.metric(&format!("{name}{{job=\"{id}\",namespace=\"default\"}}")).await
    }

    /// The sample with this name and these labels on the page that Prometheus reads.
    pub async fn metric(&self, sample: &str) -> f64 {
        let page = self.http("/metrics").await;
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{sample} is missing from\n{page}")).parse().unwrap()
    }

    /// The text of an HTTP answer.
    pub async fn http(&self, path: &str) -> String {
        http(&self.coordinator.http_address().to_string(), path).await.unwrap()
    }
}

/// The text of an HTTP answer.
pub async fn http(address: &str, path: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
