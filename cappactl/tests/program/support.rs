//! A Jobs service in this process whose answers a test writes down, and the program under test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use cappa_proto::jobs_server::{Jobs, JobsServer};
use cappa_proto::{self as wire, Job, JobUpdate};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

type Reply<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the service knows.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) jobs: Vec<Job>,
    /// One script for each call of Watch of a job, in turn: what it streams, then how the stream ends.
    pub(crate) watches: HashMap<String, Vec<Script>>,
    pub(crate) curve: Vec<wire::StepMetrics>,
    /// The lines of one call of Logs each, in turn. All but the last break as a coordinator that goes away does; the job
    /// ends with the last.
    pub(crate) logs: Vec<Vec<&'static str>>,
    pub(crate) submitted: Vec<wire::SubmitRequest>,
    /// For each call of Watch, the event after which it began.
    pub(crate) watched_after: Vec<u64>,
}

/// What one Watch call sends.
pub(crate) struct Script {
    pub(crate) updates: Vec<JobUpdate>,
    /// Breaks the stream as a coordinator that goes away does.
    pub(crate) breaks: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<World>>);

/// A served [`Fake`].
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) fake: Fake,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves a world at a free port of this machine.
pub(crate) async fn serve(world: World) -> Server {
    let fake = Fake(Arc::new(Mutex::new(world)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = JobsServer::new(fake.clone());
    let serving = tonic::transport::Server::builder().add_service(service);
    let task =
        tokio::spawn(async move { serving.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
    Server { address, fake, task }
}

impl Server {
    /// Runs the program against this service.
    pub(crate) async fn cappactl(&self, arguments: &[&str]) -> Ended {
        let address = format!("http://{}", self.address);
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            cappactl(&[&["--coordinator", &address], arguments.as_slice()].concat())
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the program in an empty folder, without the settings of this machine.
pub(crate) fn cappactl(arguments: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cappactl"));
    command.args(arguments).current_dir(dir.path());
    for variable in ["CAPPA_COORDINATOR", "CAPPA_LOCAL_DIR", "CAPPA_BIN_DIR"] {
        command.env_remove(variable);
    }
    command.output().unwrap().into()
}

pub(crate) fn job(id: &str, state: wire::JobState, step: u64) -> Job {
    Job {
        id: id.into(),
        name: "demo".into(),
        namespace: "default".into(),
        state: state.into(),
        step,
        total_steps: 100,
        generation: 1,
        members: vec![wire::Member { worker_id: "worker-0".into(), rank: 0, pace: 0 }],
        submitted_unix_ms: 1_700_000_000_000,
        time: vec![wire::TimeBucket { bucket: "productive".into(), seconds: 72.5 }],
        spec_json: r#"{"name": "demo", "batch_size": 64}"#.into(),
        latest: (step > 0).then(|| wire::StepMetrics {
            step,
            loss: 2.5,
            examples: 64,
            seconds: 0.1,
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn now(job: Job) -> JobUpdate {
    JobUpdate { update: Some(wire::job_update::Update::Job(job)) }
}

pub(crate) fn event(sequence: u64, kind: &str) -> JobUpdate {
    let event = wire::JobEvent { sequence, unix_ms: 0, kind: kind.into(), message: format!("{kind} {sequence}") };
    JobUpdate { update: Some(wire::job_update::Update::Event(event)) }
}

fn refusal(code: Code, reason: &str, message: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "cappa.dev", HashMap::new());
    if reason == "INVALID_SPEC" {
        details.add_bad_request_violation("data.train", "there is no such manifest");
        details.add_bad_request_violation("evaluate[0].data", "the store does not answer");
    }
    Status::with_error_details(code, message, details)
}

impl Fake {
    fn find(&self, id: &str) -> Result<Job, Status> {
        let world = self.0.lock().unwrap();
        let found = world.jobs.iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| refusal(Code::NotFound, "NOT_FOUND", &format!("there is no job `{id}`")))
    }
}

#[tonic::async_trait]
impl Jobs for Fake {
    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Reply<wire::SubmitResponse> {
        let request = request.into_inner();
        if request.spec.contains("missing-manifest") {
            return Err(refusal(Code::InvalidArgument, "INVALID_SPEC", "the spec has 2 mistakes"));
        }
        if request.namespace == "full" {
            return Err(refusal(Code::ResourceExhausted, "OVER_QUOTA", "namespace `full` has no workers left"));
        }
        let mut world = self.0.lock().unwrap();
        let job = world.jobs.first().cloned().filter(|_| !request.dry_run);
        let spec_json = request.spec.clone();
        world.submitted.push(request);
        Ok(Response::new(wire::SubmitResponse { job, spec_json }))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Reply<Job> {
        self.find(&request.into_inner().job_id).map(Response::new)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Reply<wire::ListResponse> {
        // One job a page, so that a client that stops after the first page is found out.
        let page: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let jobs = self.0.lock().unwrap().jobs.clone();
        let next_page_token = if page + 1 < jobs.len() { (page + 1).to_string() } else { String::new() };
        Ok(Response::new(wire::ListResponse { jobs: jobs.into_iter().skip(page).take(1).collect(), next_page_token }))
    }

    async fn cancel(&self, request: Request<wire::ChangeRequest>) -> Reply<Job> {
        let id = request.into_inner().job_id;
        self.find(&id)?;
        Ok(Response::new(job(&id, wire::JobState::Cancelled, 7)))
    }

    async fn pause(&self, request: Request<wire::ChangeRequest>) -> Reply<Job> {
        self.find(&request.into_inner().job_id).map(Response::new)
    }

    async fn resume(&self, request: Request<wire::ChangeRequest>) -> Reply<Job> {
        let id = request.into_inner().job_id;
        Err(refusal(Code::FailedPrecondition, "WRONG_STATE", &format!("job `{id}` is not paused")))
    }

    async fn requeue(&self, request: Request<wire::ChangeRequest>) -> Reply<Job> {
        self.find(&request.into_inner().job_id)?;
        Ok(Response::new(job("demo-a", wire::JobState::Queued, 50)))
    }

    async fn set_priority(&self, request: Request<wire::SetPriorityRequest>) -> Reply<Job> {
        let wire::SetPriorityRequest { job_id, priority } = request.into_inner();
        let priority = priority.parse().map_err(|_| refusal(Code::InvalidArgument, "USAGE", "no such class"))?;
        Ok(Response::new(Job { priority, ..self.find(&job_id)? }))
    }

    async fn queue(&self, request: Request<wire::QueueRequest>) -> Reply<wire::QueueResponse> {
        let queued = |(place, job): (u32, &Job)| wire::QueuedJob {
            place,
            job_id: job.id.clone(),
            namespace: job.namespace.clone(),
            reason: "dependency".into(),
            explanation: "waits for job pretrain-a to succeed".into(),
            ends_when: "pretrain-a succeeds".into(),
            jobs: vec!["pretrain-a".into()],
            ..wire::QueuedJob::default()
        };
        let namespace = request.into_inner().namespace;
        let jobs = (1..).zip(&self.0.lock().unwrap().jobs).map(queued).collect::<Vec<_>>();
        let jobs = jobs.into_iter().filter(|job| namespace.is_empty() || job.namespace == namespace).collect();
        Ok(Response::new(wire::QueueResponse { jobs, ..wire::QueueResponse::default() }))
    }

    type WatchStream = Streamed<JobUpdate>;

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Reply<Self::WatchStream> {
        let request = request.into_inner();
        let mut world = self.0.lock().unwrap();
        world.watched_after.push(request.after_event);
        let scripts = world.watches.entry(request.job_id.clone()).or_default();
        if scripts.is_empty() {
            return Err(Status::unavailable("the script has ended"));
        }
        let script = scripts.remove(0);
        let last = script.updates.iter().rev().find_map(|update| match &update.update {
            Some(wire::job_update::Update::Job(job)) => Some(job.clone()),
            _ => None,
        });
        if let Some(last) = last {
            world.jobs.retain(|job| job.id != last.id);
            world.jobs.push(last);
        }
        let end = script.breaks.then(|| Err(Status::unavailable("the coordinator stops")));
        Ok(Response::new(Box::pin(tokio_stream::iter(script.updates.into_iter().map(Ok).chain(end)))))
    }

    type LogsStream = Streamed<wire::LogLine>;

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Reply<Self::LogsStream> {
        let request = request.into_inner();
        if request.follow {
            let mut world = self.0.lock().unwrap();
            let lines = world.logs.remove(0);
            let breaks = !world.logs.is_empty();
            if !breaks {
                world.jobs = vec![job(&request.job_id, wire::JobState::Succeeded, 100)];
            }
            let line = |message: &str| wire::LogLine { message: message.into(), ..Default::default() };
            let lines: Vec<_> = lines.into_iter().map(line).map(Ok).collect();
            let end = breaks.then(|| Err(Status::unavailable("the coordinator stops")));
            return Ok(Response::new(Box::pin(tokio_stream::iter(lines.into_iter().chain(end)))));
        }
        let line =
            |rank| wire::LogLine { rank, level: "INFO".into(), message: format!("rank {rank}"), ..Default::default() };
        let lines = (0..3).filter(move |rank| request.rank.is_none_or(|wanted| wanted == *rank)).map(line);
        Ok(Response::new(Box::pin(tokio_stream::iter(lines).map(Ok))))
    }

    async fn curve(&self, _: Request<wire::CurveRequest>) -> Reply<wire::CurveResponse> {
        Ok(Response::new(wire::CurveResponse { points: self.0.lock().unwrap().curve.clone() }))
    }

    async fn checkpoints(&self, request: Request<wire::GetRequest>) -> Reply<wire::CheckpointsResponse> {
        self.find(&request.into_inner().job_id)?;
        Ok(checkpoint_of_step(50, None))
    }

    async fn pin_checkpoint(&self, request: Request<wire::CheckpointRequest>) -> Reply<wire::CheckpointsResponse> {
        let wire::CheckpointRequest { job_id, step, reason } = request.into_inner();
        self.find(&job_id)?;
        Ok(checkpoint_of_step(step, Some(reason)))
    }

    async fn unpin_checkpoint(&self, request: Request<wire::CheckpointRequest>) -> Reply<wire::CheckpointsResponse> {
        Ok(checkpoint_of_step(request.into_inner().step, None))
    }

    async fn rollback(&self, request: Request<wire::CheckpointRequest>) -> Reply<Job> {
        let wire::CheckpointRequest { job_id, step, .. } = request.into_inner();
        if step != 50 {
            let message = format!("job {job_id} has no checkpoint of step {step}; there are 50");
            return Err(refusal(Code::NotFound, "NOT_FOUND", &message));
        }
        self.find(&job_id).map(Response::new)
    }

    async fn list_workers(&self, _: Request<wire::ListWorkersRequest>) -> Reply<wire::ListWorkersResponse> {
        let worker =
            wire::Worker { id: "worker-0".into(), state: "idle".into(), device: "cpu".into(), ..Default::default() };
        Ok(Response::new(wire::ListWorkersResponse { workers: vec![worker] }))
    }

    async fn release_worker(&self, request: Request<wire::WorkerRequest>) -> Reply<wire::ListWorkersResponse> {
        let worker = request.into_inner().worker_id;
        Err(refusal(Code::FailedPrecondition, "WRONG_STATE", &format!("worker {worker} is not quarantined")))
    }

    async fn cordon_worker(&self, request: Request<wire::WorkerRequest>) -> Reply<wire::ListWorkersResponse> {
        let wire::WorkerRequest { worker_id, reason } = request.into_inner();
        let worker = wire::Worker { id: worker_id, state: "cordoned".into(), note: reason, ..Default::default() };
        Ok(Response::new(wire::ListWorkersResponse { workers: vec![worker] }))
    }

    async fn drain_worker(&self, request: Request<wire::WorkerRequest>) -> Reply<wire::ListWorkersResponse> {
        let wire::WorkerRequest { worker_id, reason } = request.into_inner();
        let worker = wire::Worker { id: worker_id, state: "leaving".into(), note: reason, ..Default::default() };
        Ok(Response::new(wire::ListWorkersResponse { workers: vec![worker] }))
    }
}

fn checkpoint_of_step(step: u64, pinned: Option<String>) -> Response<wire::CheckpointsResponse> {
    let manifest = format!("file:///store/jobs/demo-a/checkpoints/{step:012}/MANIFEST.json");
    let checkpoint =
        wire::CheckpointInfo { step, manifest, bytes: 5_000_000, parts: 2, pinned, ..wire::CheckpointInfo::default() };
    Response::new(wire::CheckpointsResponse { checkpoints: vec![checkpoint] })
}
