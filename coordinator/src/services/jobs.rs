//! The Jobs service: what people and their tools call.

use std::time::Duration;

use cappa_core::{Command, JobId, Refusal, Step, Submission, WorkerId};
use cappa_proto as proto;
use cappa_proto::jobs_server::Jobs;
use cappa_shared::code::Code;
use cappa_shared::spec::Priority;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status::{bad_request, not_found, refused, status};
use super::{fleet, follow, list, queue, views};
use crate::admission::{Admission, Document, Rejected};
use crate::server::{Shared, abandoned};

/// How long a rollback waits for a checkpoint that is just being committed.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);

/// Updates that a slow reader may lag behind before it is waited for.
const LAG: usize = 256;

/// Serves people and their tools.
#[derive(Clone)]
pub(crate) struct JobsService {
    pub(crate) shared: Shared,
    pub(crate) admission: Admission,
}

impl JobsService {
    /// The job as it is now.
    async fn view(&self, id: &JobId) -> Result<proto::Job, Status> {
        let (id, curves) = (id.clone(), self.shared.curves.clone());
        self.shared.load_curve(&id).await;
        let found = self.shared.handle.read({
            let id = id.clone();
            move |view| view.core.state().job(&id).map(|job| views::job(view, &curves, job))
        });
        found.await?.ok_or_else(|| not_found(id.as_str()))
    }

    async fn perform(&self, command: Command) -> Result<(), Status> {
        self.shared.handle.perform(command).await?.map_err(|refusal| refused(&refusal))
    }

    async fn change(&self, id: &JobId, command: Command) -> Result<Response<proto::Job>, Status> {
        self.perform(command).await?;
        Ok(Response::new(self.view(id).await?))
    }

    /// Goes back, as soon as no checkpoint is half committed any more.
    async fn roll_back(&self, job: &JobId, command: Command) -> Result<(), Status> {
        let mut changes = self.shared.handle.changes(job);
        let deadline = tokio::time::Instant::now() + COMMIT_PATIENCE;
        loop {
            match self.shared.handle.perform(command.clone()).await? {
                Err(Refusal::StillCommitting(_))
                    if tokio::time::timeout_at(deadline, changes.changed()).await.is_ok() => {}
                decided => return decided.map_err(|refusal| refused(&refusal)),
            }
        }
    }

    /// A worker after a change.
    async fn worker(&self, id: WorkerId) -> Result<Response<proto::ListWorkersResponse>, Status> {
        let workers = fleet::one(&self.shared.handle, &self.shared.facts, id).await?;
        Ok(Response::new(proto::ListWorkersResponse { workers }))
    }

    async fn kept(&self, id: JobId) -> Result<Response<proto::CheckpointsResponse>, Status> {
        let wanted = id.clone();
        let found = self.shared.handle.read(move |view| view.core.state().job(&wanted).map(views::checkpoints));
        let checkpoints = found.await?.ok_or_else(|| not_found(id.as_str()))?;
        Ok(Response::new(proto::CheckpointsResponse { checkpoints }))
    }

    async fn enqueue(&self, submission: Submission) -> Result<JobId, Status> {
        loop {
            let id = self.admission.new_id(&submission.name);
            let folder = self.admission.folder_of(&id);
            let placed = Submission { folder, ..submission.clone() };
            let command = Command::Submit { job: id.clone(), submission: placed };
            match self.shared.handle.perform(command).await? {
                Ok(()) => {
                    self.shared.curves.begin(&id);
                    return Ok(id);
                }
                // It has come in with the same key since that was looked for.
                Err(Refusal::AlreadySubmitted(_)) => {
                    let Submission { namespace, spec_digest, .. } = &submission;
                    let key = submission.idempotency_key.as_deref().unwrap_or_default();
                    if let Some(id) = self.submitted_before(namespace, key, spec_digest).await? {
                        return Ok(id);
                    }
                }
                Err(Refusal::JobIdTaken(_)) => {}
                Err(refusal) => return Err(refused(&refusal)),
            }
        }
    }

    /// The job that an idempotency key has given before for the spec of this digest. That it was another spec is the caller's
    /// mistake: who gets a job for a key gets what was asked for.
    async fn submitted_before(&self, namespace: &str, key: &str, digest: &str) -> Result<Option<JobId>, Status> {
        let (of, with, digest) = (namespace.to_owned(), key.to_owned(), digest.to_owned());
        let find = move |view: &crate::driver::View| {
            let job = view.core.state().job_of_key(&of, &with)?;
            Some((job.id.clone(), job.was_submitted_as(&digest)))
        };
        match self.shared.handle.read(find).await? {
            Some((id, false)) => {
                let message = format!(
                    "the idempotency key `{key}` has given job {id}, of another spec; use another key, or the same spec to \
                     get that job"
                );
                Err(status(Code::AlreadyExists, message))
            }
            found => Ok(found.map(|(id, _)| id)),
        }
    }
}

fn rejected(rejected: Rejected) -> Status {
    match rejected {
        Rejected::Usage(message) => status(Code::Usage, message),
        Rejected::Spec(mistakes) => {
            let count = mistakes.len();
            let plural = if count == 1 { "" } else { "s" };
            let pairs = mistakes.into_iter().map(|mistake| (mistake.path, mistake.message));
            bad_request(Code::InvalidSpec, format!("the spec has {count} mistake{plural}"), pairs.collect())
        }
    }
}

#[tonic::async_trait]
impl Jobs for JobsService {
    async fn submit(&self, request: Request<proto::SubmitRequest>) -> Result<Response<proto::SubmitResponse>, Status> {
        let request = request.into_inner();
        let document = Document::read(request.spec);
        let namespace = self.admission.namespace(&request.namespace, &document).map_err(rejected)?;
        let namespace = namespace.as_str();
        let key = &request.idempotency_key;
        // Of a document that is no spec the mistakes are told.
        if !key.is_empty()
            && !request.dry_run
            && let Some(digest) = document.digest()
            && let Some(id) = self.submitted_before(namespace, key, &digest).await?
        {
            let job = self.view(&id).await?;
            let spec_json = job.spec_json.clone();
            return Ok(Response::new(proto::SubmitResponse { job: Some(job), spec_json }));
        }
        let admitted = self.admission.admit(&document, namespace, key).await.map_err(rejected)?;
        let spec_json = admitted.spec_json.clone();
        let job = if request.dry_run {
            proto::Job {
                name: admitted.name,
                namespace: admitted.namespace,
                total_steps: admitted.total_steps.0,
                spec_json: spec_json.clone(),
                ..proto::Job::default()
            }
        } else {
            let id = self.enqueue(admitted).await?;
            self.view(&id).await?
        };
        Ok(Response::new(proto::SubmitResponse { job: Some(job), spec_json }))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::Job>, Status> {
        Ok(Response::new(self.view(&JobId::from(request.into_inner().job_id)).await?))
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::ListResponse>, Status> {
        let request = request.into_inner();
        let curves = self.shared.curves.clone();
        let page = self.shared.handle.read(move |view| list::page(view, &curves, &request)).await?;
        let page = page.ok_or_else(|| status(Code::Usage, "page_token is not one that a list has given"))?;
        Ok(Response::new(page))
    }

    async fn cancel(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::Job>, Status> {
        let (job, reason) = reasoned(request, "cancelled");
        self.change(&job.clone(), Command::Cancel { job, reason }).await
    }

    async fn pause(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::Job>, Status> {
        let (job, reason) = reasoned(request, "paused");
        self.change(&job.clone(), Command::Pause { job, reason }).await
    }

    async fn resume(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::Job>, Status> {
        let (job, _) = reasoned(request, "resumed");
        self.change(&job.clone(), Command::Resume { job }).await
    }

    async fn requeue(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::Job>, Status> {
        let (job, reason) = reasoned(request, "requeued");
        self.change(&job.clone(), Command::Requeue { job, reason }).await
    }

    async fn set_priority(&self, request: Request<proto::SetPriorityRequest>) -> Result<Response<proto::Job>, Status> {
        let proto::SetPriorityRequest { job_id, priority } = request.into_inner();
        let given = priority.parse().map_or(Priority::Class(priority), Priority::Number);
        let priority = self.admission.priority(&given).map_err(|message| status(Code::Usage, message))?;
        let job = JobId::from(job_id);
        self.change(&job.clone(), Command::SetPriority { job, priority }).await
    }

    async fn queue(&self, request: Request<proto::QueueRequest>) -> Result<Response<proto::QueueResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let queue = self.shared.handle.read(move |view| queue::queue(view, &namespace)).await?;
        Ok(Response::new(queue))
    }

    type WatchStream = ReceiverStream<Result<proto::JobUpdate, Status>>;

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let proto::WatchRequest { job_id, after_event } = request.into_inner();
        let job = JobId::from(job_id);
        self.view(&job).await?;
        let (to, updates) = mpsc::channel(LAG);
        self.shared.tasks.spawn(follow::watch(
            self.shared.handle.clone(),
            self.shared.curves.clone(),
            job,
            after_event,
            to,
        ));
        Ok(Response::new(ReceiverStream::new(updates)))
    }

    type LogsStream = ReceiverStream<Result<proto::LogLine, Status>>;

    async fn logs(&self, request: Request<proto::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        self.view(&JobId::from(request.job_id.as_str())).await?;
        let (to, lines) = mpsc::channel(LAG);
        self.shared.tasks.spawn(follow::lines(self.shared.handle.clone(), self.shared.logs.clone(), request, to));
        Ok(Response::new(ReceiverStream::new(lines)))
    }

    async fn curve(&self, request: Request<proto::CurveRequest>) -> Result<Response<proto::CurveResponse>, Status> {
        let proto::CurveRequest { job_id, from_step } = request.into_inner();
        let job = JobId::from(job_id);
        self.view(&job).await?;
        let points = self.shared.curves.points(&job, from_step);
        Ok(Response::new(proto::CurveResponse { points }))
    }

    async fn checkpoints(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::CheckpointsResponse>, Status> {
        self.kept(JobId::from(request.into_inner().job_id)).await
    }

    async fn pin_checkpoint(
        &self,
        request: Request<proto::CheckpointRequest>,
    ) -> Result<Response<proto::CheckpointsResponse>, Status> {
        let (job, step, reason) = of_checkpoint(request, "pinned");
        self.perform(Command::PinCheckpoint { job: job.clone(), step, reason }).await?;
        self.kept(job).await
    }

    async fn unpin_checkpoint(
        &self,
        request: Request<proto::CheckpointRequest>,
    ) -> Result<Response<proto::CheckpointsResponse>, Status> {
        let (job, step, reason) = of_checkpoint(request, "unpinned");
        self.perform(Command::UnpinCheckpoint { job: job.clone(), step, reason }).await?;
        self.kept(job).await
    }

    async fn rollback(&self, request: Request<proto::CheckpointRequest>) -> Result<Response<proto::Job>, Status> {
        let (job, step, reason) = of_checkpoint(request, "rolled back");
        self.roll_back(&job, Command::RollBack { job: job.clone(), step, reason }).await?;
        let wanted = job.clone();
        let branch = self.shared.handle.read(move |view| view.core.state().job(&wanted).and_then(abandoned)).await?;
        if let Some((step, generation)) = branch {
            self.shared.curves.roll_back(&job, step, generation);
        }
        Ok(Response::new(self.view(&job).await?))
    }

    async fn list_workers(
        &self,
        _request: Request<proto::ListWorkersRequest>,
    ) -> Result<Response<proto::ListWorkersResponse>, Status> {
        let workers = fleet::all(&self.shared.handle, &self.shared.facts).await?;
        Ok(Response::new(proto::ListWorkersResponse { workers }))
    }

    async fn release_worker(
        &self,
        request: Request<proto::WorkerRequest>,
    ) -> Result<Response<proto::ListWorkersResponse>, Status> {
        let (worker, reason) = of_worker(request, "released");
        self.perform(Command::ReleaseWorker { worker: worker.clone(), reason }).await?;
        self.worker(worker).await
    }

    async fn cordon_worker(
        &self,
        request: Request<proto::WorkerRequest>,
    ) -> Result<Response<proto::ListWorkersResponse>, Status> {
        let (worker, reason) = of_worker(request, "cordoned");
        self.perform(Command::CordonWorker { worker: worker.clone(), reason }).await?;
        self.worker(worker).await
    }

    async fn drain_worker(
        &self,
        request: Request<proto::WorkerRequest>,
    ) -> Result<Response<proto::ListWorkersResponse>, Status> {
        let (worker, reason) = of_worker(request, "drained");
        self.perform(Command::DrainWorker { worker: worker.clone(), reason }).await?;
        self.worker(worker).await
    }
}

/// The job of a change and the reason for it, or a plain one.
fn reasoned(request: Request<proto::ChangeRequest>, plain: &str) -> (JobId, String) {
    let proto::ChangeRequest { job_id, reason } = request.into_inner();
    (JobId::from(job_id), reason_or(reason, plain))
}

/// The checkpoint that something is asked of, and the reason for it, or a plain one.
fn of_checkpoint(request: Request<proto::CheckpointRequest>, plain: &str) -> (JobId, Step, String) {
    let proto::CheckpointRequest { job_id, step, reason } = request.into_inner();
    (JobId::from(job_id), Step(step), reason_or(reason, plain))
}

/// The worker that something is asked of, and the reason for it, or a plain one.
fn of_worker(request: Request<proto::WorkerRequest>, plain: &str) -> (WorkerId, String) {
    let proto::WorkerRequest { worker_id, reason } = request.into_inner();
    (WorkerId::from(worker_id), reason_or(reason, plain))
}

fn reason_or(reason: String, plain: &str) -> String {
    if reason.is_empty() { format!("{plain} on request") } else { reason }
}
