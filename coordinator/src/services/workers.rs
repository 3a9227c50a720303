//! The Workers service: one stream a worker process, kept for its life.

use cappa_core::{Command, JobId, Link, Refusal, Report, WorkerId, WorkerReport};
use cappa_proto as proto;
use cappa_proto::WorkerMessage;
use cappa_proto::coordinator_message::Message as ToWorker;
use cappa_proto::worker_message::Message as FromWorker;
use cappa_proto::workers_server::Workers;
use cappa_shared::code::Code;
use cappa_shared::timing::Timings;
use cappa_wire::{greeting, report_of};
use tonic::{Request, Response, Status, Streaming};

use crate::driver::Stopped;
use crate::server::{Shared, save_curve};
use crate::sessions::{Order, Outgoing, Sessions};

/// Serves the workers' streams.
#[derive(Clone)]
pub(crate) struct WorkersService {
    pub(crate) shared: Shared,
    pub(crate) sessions: Sessions,
    pub(crate) timings: Timings,
}

#[tonic::async_trait]
impl Workers for WorkersService {
    type SessionStream = Outgoing;

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (link, outgoing) = self.sessions.open();
        let service = self.clone();
        self.shared.tasks.spawn(async move {
            let stop = service.shared.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = service.converse(link, request.into_inner()) => {}
            }
            service.sessions.close(link);
        });
        Ok(Response::new(outgoing))
    }
}

impl WorkersService {
    /// From the hello to the end of the stream.
    async fn converse(&self, link: Link, mut incoming: Streaming<WorkerMessage>) {
        let hello = match incoming.message().await {
            Ok(Some(WorkerMessage { message: Some(FromWorker::Hello(hello)) })) => hello,
            Ok(_) => return self.refuse(link, Code::Usage, "the first message of a session is hello".into()),
            Err(_) => return,
        };
        if let Err(why) = check_version(&hello.version) {
            return self.refuse(link, Code::VersionMismatch, why);
        }
        let worker = WorkerId::from(hello.worker_id.as_str());
        if worker.as_str().parse::<cappa_shared::ids::WorkerId>().is_err() {
            let why =
                format!("`{worker}` is not a worker id: use 1 to 63 lower-case letters, digits and inner hyphens");
            return self.refuse(link, Code::Usage, why);
        }
        // The welcome goes out before the core knows of the stream: it is the first on every one.
        self.sessions.send(link, Order::Message(ToWorker::Welcome(self.welcome(&hello))));
        self.shared.facts.learn(&worker, &hello);
        let incarnation = hello.incarnation.clone();
        let report = greeting(hello);
        let said = WorkerReport { worker: worker.clone(), link, report };
        match self.shared.handle.perform(Command::Worker(said)).await {
            Ok(Ok(())) => {}
            Ok(Err(Refusal::WorkerIdTaken)) => {
                let why = format!("another live process is worker {worker}; give each worker its own id");
                return self.refuse(link, Code::AlreadyExists, why);
            }
            Ok(Err(_)) | Err(Stopped) => return,
        }
        tracing::info!(%worker, %link, "worker connected");
        self.end_former(&worker, &incarnation, link);
        let why = match self.listen(&worker, link, &mut incoming).await {
            Ok(()) => "closed by the worker".to_owned(),
            Err(error) => error.message().to_owned(),
        };
        tracing::info!(%worker, %link, why, "worker's stream ended");
        self.shared.facts.lost_sight(&worker);
        // A stopping loop needs no word of it.
        let _ = self.shared.handle.tell(Command::Disconnected { worker, link }).await;
    }

    /// Whoever was in the worker's place hangs, or it would not have been taken: when it wakes it hears that it is to end.
    fn end_former(&self, worker: &WorkerId, incarnation: &str, link: Link) {
        let Some(former) = self.sessions.own(worker, incarnation, link) else { return };
        let why = format!(
            "another process became worker {worker} while this one was silent; if it was not started in this one's place, give \
             each worker its own id"
        );
        self.refuse(former, Code::Fenced, why);
        self.sessions.close(former);
    }

    async fn listen(
        &self,
        worker: &WorkerId,
        link: Link,
        incoming: &mut Streaming<WorkerMessage>,
    ) -> Result<(), Status> {
        while let Some(WorkerMessage { message }) = incoming.message().await? {
            let Some(message) = message else { continue };
            let Some(report) = self.take_in(worker, message) else { continue };
            if let Report::Completed { job, .. } = &report {
                self.keep_curve(job).await;
            }
            let said = WorkerReport { worker: worker.clone(), link, report };
            self.shared.handle.tell(Command::Worker(said)).await?;
        }
        Ok(())
    }

    /// Keeps what is not for the core, and returns what is.
    fn take_in(&self, worker: &WorkerId, message: FromWorker) -> Option<Report> {
        match &message {
            FromWorker::Heartbeat(heartbeat) => self.shared.facts.heard(worker, heartbeat),
            FromWorker::Progress(progress) => {
                let job = JobId::from(progress.job_id.as_str());
                self.shared.curves.quarantine(&job, &progress.quarantined, progress.quarantined_total);
                self.shared.curves.add(&job, progress.points.clone());
            }
            FromWorker::Logs(batch) => self.shared.logs.add(&JobId::from(batch.job_id.as_str()), batch.lines.clone()),
            FromWorker::Entered(entered) => self.shared.metrics.entered(entered),
            FromWorker::PartsWritten(written) => self.shared.metrics.written(written),
            _ => {}
        }
        report_of(message)
    }

    /// A worker that has completed a job soon forgets its points: they are in the store before the job counts as over.
    /// A store that takes longer than a silence may last is not waited for.
    async fn keep_curve(&self, job: &JobId) {
        let saved = save_curve(&self.shared.handle, &self.shared.curves, job);
        if tokio::time::timeout(self.timings.lost_after / 2, saved).await.is_err() {
            tracing::warn!(%job, "the store is slow: the end of the curve is saved later");
        }
    }

    fn welcome(&self, hello: &proto::Hello) -> proto::Welcome {
        let held = hello.holding.as_ref().map(|holding| JobId::from(holding.job_id.as_str()));
        proto::Welcome {
            detection_seconds: self.timings.lost_after.as_secs_f64(),
            heartbeat_seconds: self.timings.heartbeat.as_secs_f64(),
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
            metrics_after: held.map_or(0, |job| self.shared.curves.last_step(&job)),
        }
    }

    fn refuse(&self, link: Link, code: Code, reason: String) {
        tracing::warn!(%link, %code, reason, "refused a worker");
        let refused = proto::Refused { code: code.as_str().to_owned(), reason };
        self.sessions.send(link, Order::Message(ToWorker::Refused(refused)));
    }
}

/// Equal major and minor versions understand each other.
fn check_version(theirs: &str) -> Result<(), String> {
    let ours = env!("CARGO_PKG_VERSION");
    let line = |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if line(theirs) == line(ours) {
        return Ok(());
    }
    Err(format!("the worker's version is {theirs}, the coordinator's {ours}: run the same major.minor everywhere"))
}
