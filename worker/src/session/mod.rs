//! The conversation with the coordinator: one stream for the life of the process, reconnected with
//! backoff. Losing it never stops training (DESIGN: unreachable is not dead).

pub(crate) mod assignment;
pub(crate) mod ledger;
pub(crate) mod logs;

use std::sync::Arc;
use std::time::Duration;

use assignment::{Assignment, Order};
use cappa_proto as wire;
use cappa_proto::coordinator_message::Message as Told;
use cappa_proto::worker_message::Message as Tell;
use cappa_proto::workers_client::WorkersClient;
use cappa_shared::ids::{Generation, JobId, WorkerId};
use crossbeam_channel::Sender;
use ledger::{Cursor, Ledger};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::interrupt::Interrupt;

/// How often progress and logs are told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// The first pause before a reconnect; it doubles up to [`BACKOFF_LIMIT`].
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(2);

/// Who this process is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The slot.
    pub worker: WorkerId,
    /// Random, one a process.
    pub incarnation: String,
    /// The host's name or address, as its peers know it.
    pub host: String,
    /// `host:port` of this process's c10d store.
    pub store_address: String,
    /// `host:port` of `/metrics`.
    pub metrics_address: String,
    /// `cpu`, or the GPU's name.
    pub device: String,
}

/// Why the session ended for good.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// The coordinator does not want this worker.
    #[error("the coordinator refused this worker ({code}): {reason}")]
    Refused {
        /// The error's code.
        code: String,
        /// What to do about it.
        reason: String,
    },
    /// The address is no URI.
    #[error("`{0}` is not a coordinator address; give one like http://127.0.0.1:7070")]
    Address(String, #[source] tonic::transport::Error),
}

/// The session's parts.
pub(crate) struct Session {
    /// Who we are.
    pub identity: Identity,
    /// What there is to tell.
    pub ledger: Arc<Ledger>,
    /// How the training thread is interrupted.
    pub interrupt: Arc<Interrupt>,
    /// Where orders go.
    pub orders: Sender<Order>,
}

enum Ended {
    Cancelled,
    Lost(String),
}

impl Session {
    /// Talks until cancelled or refused.
    pub(crate) async fn run(&self, coordinator: &str, cancel: &CancellationToken) -> Result<(), SessionError> {
        let endpoint = Endpoint::from_shared(coordinator.to_owned())
            .map_err(|e| SessionError::Address(coordinator.to_owned(), e))?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true);
        let mut pause = BACKOFF;
        loop {
            let begun = tokio::time::Instant::now();
            match self.converse(&endpoint, cancel).await? {
                Ended::Cancelled => return Ok(()),
                Ended::Lost(why) => tracing::warn!(coordinator, why, "no session with the coordinator; trying again"),
            }
            if begun.elapsed() > BACKOFF_LIMIT {
                pause = BACKOFF;
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACKOFF_LIMIT);
        }
    }

    async fn converse(&self, endpoint: &Endpoint, cancel: &CancellationToken) -> Result<Ended, SessionError> {
        let lost = |e: &dyn std::fmt::Display| Ok(Ended::Lost(e.to_string()));
        let channel = tokio::select! {
            () = cancel.cancelled() => return Ok(Ended::Cancelled),
            connected = endpoint.connect() => match connected {
                Ok(channel) => channel,
                Err(e) => return lost(&e),
            },
        };
        let (tell, told) = mpsc::channel(64);
        let (holding, mut cursor) = self.ledger.connected();
        if tell.send(message(Tell::Hello(self.hello(holding)))).await.is_err() {
            return lost(&"the stream closed at once");
        }
        let mut stream = match WorkersClient::new(channel).session(ReceiverStream::new(told)).await {
            Ok(response) => response.into_inner(),
            Err(e) => return lost(&e.message()),
        };
        let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
        let mut progress = tokio::time::interval(PROGRESS_PERIOD);
        let mut drained = false;
        loop {
            tokio::select! {
                biased;
                heard = stream.next() => match heard {
                    Some(Ok(wire::CoordinatorMessage { message: Some(Told::Welcome(welcome)) })) => {
                        let period = Duration::try_from_secs_f64(welcome.heartbeat_seconds).unwrap_or_default();
                        heartbeat = tokio::time::interval(period.max(Duration::from_millis(10)));
                        tracing::info!(version = welcome.coordinator_version, "in session with the coordinator");
                    }
                    Some(Ok(wire::CoordinatorMessage { message: Some(told) })) => self.obey(told)?,
                    Some(Ok(_)) => tracing::warn!("the coordinator sent a message of a kind unknown to this version"),
                    Some(Err(e)) => return lost(&e.message()),
                    None => return lost(&"the coordinator closed the stream"),
                },
                () = self.ledger.news() => {
                    if !self.tell_all(&tell, &mut cursor).await { return lost(&"the stream closed"); }
                }
                _ = heartbeat.tick() => {
                    let beat = self.heartbeat();
                    if tell.send(message(Tell::Heartbeat(beat))).await.is_err() { return lost(&"the stream closed"); }
                }
                _ = progress.tick() => {
                    if self.interrupt.draining() && !std::mem::replace(&mut drained, true) {
                        let goodbye = wire::Goodbye { reason: "the process was asked to end".into() };
                        if tell.send(message(Tell::Goodbye(goodbye))).await.is_err() { return lost(&"the stream closed"); }
                    }
                    if !self.tell_all(&tell, &mut cursor).await { return lost(&"the stream closed"); }
                }
                () = cancel.cancelled() => {
                    self.tell_all(&tell, &mut cursor).await;
                    return Ok(Ended::Cancelled);
                }
            }
        }
    }

    fn hello(&self, holding: Option<wire::Holding>) -> wire::Hello {
        let me = self.identity.clone();
        wire::Hello {
            worker_id: me.worker.to_string(),
            incarnation: me.incarnation,
            version: env!("CARGO_PKG_VERSION").into(),
            host: me.host,
            store_address: me.store_address,
            metrics_address: me.metrics_address,
            device: me.device,
            holding,
        }
    }

    fn heartbeat(&self) -> wire::Heartbeat {
        let holding = self.ledger.holding().unwrap_or_default();
        wire::Heartbeat { job_id: holding.job_id, generation: holding.generation, step: holding.step }
    }

    async fn tell_all(&self, tell: &mpsc::Sender<wire::WorkerMessage>, cursor: &mut Cursor) -> bool {
        for due in self.ledger.due(cursor) {
            if tell.send(message(due)).await.is_err() {
                return false;
            }
        }
        true
    }

    fn obey(&self, told: Told) -> Result<(), SessionError> {
        match told {
            Told::Form(form) => match Assignment::try_from(form) {
                Ok(assignment) => {
                    // Whoever is in an older group leaves it for the new one.
                    self.interrupt.bar(&assignment.job, Generation(assignment.generation.0.saturating_sub(1)));
                    self.order(Order::Form(Box::new(assignment)));
                }
                Err(error) => tracing::error!(%error, "an order to form a group was refused"),
            },
            Told::Abort(abort) => self.leave(&abort.job_id, Generation(abort.generation), &abort.reason),
            Told::Release(release) => {
                if let Ok(job) = release.job_id.parse::<JobId>() {
                    tracing::info!(%job, reason = release.reason, "released");
                    let held = self.ledger.holding().filter(|h| h.job_id == job.as_str());
                    self.interrupt.bar(&job, Generation(held.map_or(0, |h| h.generation)));
                    self.order(Order::Release(job));
                }
            }
            Told::Stop(stop) => {
                if let Ok(job) = stop.job_id.parse() {
                    tracing::info!(%job, reason = stop.reason, "asked to checkpoint and stop");
                    self.interrupt.stop(&job, Generation(stop.generation));
                }
            }
            Told::Committed(committed) => self.ledger.settled(committed.step, committed.generation),
            Told::Refused(refused) => {
                return Err(SessionError::Refused { code: refused.code, reason: refused.reason });
            }
            Told::Welcome(_) => {}
        }
        Ok(())
    }

    fn leave(&self, job: &str, generation: Generation, reason: &str) {
        if let Ok(job) = job.parse::<JobId>() {
            tracing::info!(%job, %generation, reason, "leaving the group");
            self.interrupt.bar(&job, generation);
            self.order(Order::Leave { job, generation });
        }
    }

    fn order(&self, order: Order) {
        // The training thread outlives the session; if it is gone, the process is ending anyway.
        if self.orders.send(order).is_err() {
            tracing::debug!("an order came after the training thread had ended");
        }
    }
}

fn message(tell: Tell) -> wire::WorkerMessage {
    wire::WorkerMessage { message: Some(tell) }
}
