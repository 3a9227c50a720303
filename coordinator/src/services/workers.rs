//! The Workers service: one stream a worker process, kept for its life.

use cappa_core::{
    Command, Failure, Generation, Holding, Incarnation, JobId, Link, Outcome, Part, Quarantined, Rank, RankParts,
    Refusal, Report, Step, WorkerId, WorkerReport,
};
use cappa_proto as proto;
use cappa_proto::coordinator_message::Message as ToWorker;
use cappa_proto::worker_message::Message as FromWorker;
use cappa_proto::workers_server::Workers;
use cappa_proto::{CoordinatorMessage, WorkerMessage};
use cappa_shared::code::Code;
use cappa_shared::timing::Timings;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::driver::Stopped;
use crate::server::Shared;
use crate::sessions::Sessions;

/// Serves the workers' streams.
#[derive(Clone)]
pub(crate) struct WorkersService {
    pub(crate) shared: Shared,
    pub(crate) sessions: Sessions,
    pub(crate) timings: Timings,
}

#[tonic::async_trait]
impl Workers for WorkersService {
    type SessionStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

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
        Ok(Response::new(ReceiverStream::new(outgoing)))
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
        let worker = WorkerId(hello.worker_id.clone());
        if worker.as_str().parse::<cappa_shared::ids::WorkerId>().is_err() {
            let why =
                format!("`{worker}` is not a worker id: use 1 to 63 lower-case letters, digits and inner hyphens");
            return self.refuse(link, Code::Usage, why);
        }
        // The welcome goes out before the core knows of the stream: it is the first on every one.
        self.sessions.send(link, ToWorker::Welcome(self.welcome(&hello)));
        self.shared.facts.learn(&worker, &hello);
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
        let why = match self.listen(&worker, link, &mut incoming).await {
            Ok(()) => "closed by the worker".to_owned(),
            Err(error) => error.message().to_owned(),
        };
        tracing::info!(%worker, %link, why, "worker's stream ended");
        // A stopping loop needs no word of it.
        let _ = self.shared.handle.tell(Command::Disconnected { worker, link }).await;
    }

    async fn listen(
        &self,
        worker: &WorkerId,
        link: Link,
        incoming: &mut Streaming<WorkerMessage>,
    ) -> Result<(), Status> {
        while let Some(WorkerMessage { message }) = incoming.message().await? {
            let Some(message) = message else { continue };
            let Some(report) = self.take_in(message) else { continue };
            let said = WorkerReport { worker: worker.clone(), link, report };
            self.shared.handle.tell(Command::Worker(said)).await?;
        }
        Ok(())
    }

    /// Keeps what is not for the core, and returns what is.
    fn take_in(&self, message: FromWorker) -> Option<Report> {
        match message {
            FromWorker::Progress(progress) => {
                let job = JobId(progress.job_id);
                let newest = progress.points.last().map(|point| point.step);
                self.shared.curves.add(&job, progress.points);
                self.shared.curves.quarantine(&job, &progress.quarantined, progress.quarantined_total);
                let step = Step(newest?);
                Some(Report::Heartbeat { at: Some((job, Generation(progress.generation), step)) })
            }
            FromWorker::Logs(batch) => {
                self.shared.logs.add(&JobId(batch.job_id), batch.lines);
                None
            }
            FromWorker::Entered(entered) => {
                self.shared.metrics.entered(&entered);
                report_of(FromWorker::Entered(entered))
            }
            FromWorker::PartsWritten(written) => {
                self.shared.metrics.written(&written);
                report_of(FromWorker::PartsWritten(written))
            }
            message => report_of(message),
        }
    }

    fn welcome(&self, hello: &proto::Hello) -> proto::Welcome {
        let held = hello.holding.as_ref().map(|holding| JobId(holding.job_id.clone()));
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
        self.sessions.send(link, ToWorker::Refused(refused));
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

fn greeting(hello: proto::Hello) -> Report {
    Report::Hello {
        incarnation: Incarnation(hello.incarnation),
        host: hello.host,
        store_address: hello.store_address,
        holding: hello.holding.map(|holding| Holding {
            job: JobId(holding.job_id),
            generation: Generation(holding.generation),
            step: Step(holding.step),
            // One that is still restoring says step 0; then there is nothing that initialising would not give.
            has_state: !holding.stepping || holding.step > 0,
            stepping: holding.stepping,
        }),
    }
}

fn report_of(message: FromWorker) -> Option<Report> {
    Some(match message {
        FromWorker::Heartbeat(proto::Heartbeat { job_id, generation, step }) => {
            let is_idle = job_id.is_empty();
            Report::Heartbeat { at: (!is_idle).then_some((JobId(job_id), Generation(generation), Step(step))) }
        }
        FromWorker::Entered(entered) => Report::Entered {
            job: JobId(entered.job_id),
            generation: Generation(entered.generation),
            step: Step(entered.step),
        },
        FromWorker::Left(left) => Report::Left {
            job: JobId(left.job_id),
            generation: Generation(left.generation),
            step: Step(left.step),
            has_state: left.has_state,
            failure: left.failure.map(|failure| Failure {
                code: failure.code,
                message: failure.message,
                permanent: failure.permanent,
            }),
        },
        FromWorker::PartsWritten(written) => parts_written(written),
        FromWorker::CheckpointFailed(failed) => Report::CheckpointFailed {
            job: JobId(failed.job_id),
            generation: Generation(failed.generation),
            step: Step(failed.step),
            rank: Rank(failed.rank),
            error: failed.error,
        },
        FromWorker::EvaluationStarted(started) => {
            Report::EvaluationStarted { job: JobId(started.job_id), generation: Generation(started.generation) }
        }
        FromWorker::Completed(completed) => completed_report(completed)?,
        FromWorker::Goodbye(goodbye) => Report::Goodbye { reason: goodbye.reason },
        FromWorker::Hello(_) | FromWorker::Progress(_) | FromWorker::Logs(_) => return None,
    })
}

fn completed_report(completed: proto::Completed) -> Option<Report> {
    let outcome = match completed.outcome() {
        proto::Outcome::Finished => Outcome::Finished,
        proto::Outcome::Stopped => Outcome::Stopped,
        proto::Outcome::Unspecified => return None,
    };
    Some(Report::Completed {
        job: JobId(completed.job_id),
        generation: Generation(completed.generation),
        step: Step(completed.step),
        outcome,
        summary: (!completed.summary_json.is_empty()).then_some(completed.summary_json),
    })
}

fn parts_written(written: proto::PartsWritten) -> Report {
    let part = |part: proto::Part| Part { name: part.name, bytes: part.bytes, sha256: part.sha256 };
    let sample = |sample: proto::Quarantined| Quarantined {
        shard: sample.shard,
        index: sample.index,
        key: sample.key,
        reason: sample.reason,
    };
    Report::PartsWritten {
        job: JobId(written.job_id),
        generation: Generation(written.generation),
        step: Step(written.step),
        rank: Rank(written.rank),
        world_size: written.world_size,
        parts: RankParts {
            parts: written.parts.into_iter().map(part).collect(),
            quarantined: written.quarantined.into_iter().map(sample).collect(),
        },
    }
}
