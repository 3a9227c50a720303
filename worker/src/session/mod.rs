//! The conversation with the coordinator: one stream for the life of the process, reconnected with
//! backoff. Losing it never stops training (DESIGN: unreachable is not dead).

pub(crate) mod ledger;
pub(crate) mod logs;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use cappa_data::stats::PipelineStats;
use cappa_proto as wire;
use cappa_proto::coordinator_message::Message as Told;
use cappa_proto::worker_message::Message as Tell;
use cappa_proto::workers_client::WorkersClient;
use cappa_session::{Backoff, Conversation, Identity, Order, Unwanted, obey};
use cappa_shared::causes::with_causes;
use cappa_shared::coordinators::{Coordinators, LEADER_HEADER};
use crossbeam_channel::Sender;
use ledger::Ledger;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::interrupt::Interrupt;

/// How often progress and logs are told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// How soon, twice over, a coordinator that does not answer is given up: well within the ten seconds at least for which its
/// successor judges nobody.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Why the session ended for good.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// The coordinator does not want this worker.
    #[error(transparent)]
    Refused(Unwanted),
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
    /// What the data pipeline waits for.
    pub stats: Arc<PipelineStats>,
}

enum Ended {
    Cancelled,
    /// Why, and who was said to lead instead.
    Lost(String, Option<String>),
}

impl Session {
    /// Talks until cancelled or refused, with whoever of the coordinators leads.
    pub(crate) async fn run(&self, coordinators: &str, cancel: &CancellationToken) -> Result<(), SessionError> {
        let mut known = Coordinators::parse(coordinators);
        for url in known.urls() {
            endpoint(url)?;
        }
        let mut backoff = Backoff::default();
        let mut begun = tokio::time::Instant::now();
        loop {
            let coordinator = known.current().to_owned();
            let ended = match endpoint(&coordinator) {
                Ok(endpoint) => self.converse(&endpoint, &mut known, cancel).await?,
                // What was said to lead is no address: the list goes on.
                Err(error) => Ended::Lost(error.to_string(), None),
            };
            let is_pause_due = match ended {
                Ended::Cancelled => return Ok(()),
                Ended::Lost(why, leader) => {
                    tracing::warn!(coordinator, why, "no session with the coordinator; trying again");
                    match leader {
                        Some(leader) => known.follow(&leader),
                        None => known.advance(),
                    }
                }
            };
            if is_pause_due {
                let pause = backoff.pause(begun.elapsed());
                tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
                begun = tokio::time::Instant::now();
            }
        }
    }

    async fn converse(
        &self,
        endpoint: &Endpoint,
        known: &mut Coordinators,
        cancel: &CancellationToken,
    ) -> Result<Ended, SessionError> {
        let lost = |e: &dyn std::fmt::Display| Ok(Ended::Lost(e.to_string(), None));
        let channel = tokio::select! {
            () = cancel.cancelled() => return Ok(Ended::Cancelled),
            connected = endpoint.connect() => match connected {
                Ok(channel) => channel,
                Err(e) => return lost(&e),
            },
        };
        let (tell, told) = mpsc::channel(64);
        let (mut conversation, hello) = Conversation::open(&self.identity, &mut self.ledger.book());
        if tell.send(message(hello)).await.is_err() {
            return lost(&"the stream closed at once");
        }
        let mut stream = match WorkersClient::new(channel).session(ReceiverStream::new(told)).await {
            Ok(response) => response.into_inner(),
            Err(e) => {
                let leader = e.metadata().get(LEADER_HEADER).and_then(|leader| leader.to_str().ok());
                return Ok(Ended::Lost(e.message().to_owned(), leader.map(str::to_owned)));
            }
        };
        let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
        let mut progress = tokio::time::interval(PROGRESS_PERIOD);
        loop {
            tokio::select! {
                biased;
                heard = stream.next() => match heard {
                    Some(Ok(wire::CoordinatorMessage { message: Some(Told::Welcome(welcome)) })) => {
                        known.reached();
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
                    let news = conversation.news(&mut self.ledger.book(), self.interrupt.ending().as_deref());
                    if !tell_all(&tell, news).await { return lost(&"the stream closed"); }
                }
                _ = heartbeat.tick() => {
                    let waiting = self.stats.waiting().map(|(url, so_far)| wire::Waiting { url, seconds: so_far.as_secs_f64() });
                    let beat = {
                        let mut book = self.ledger.book();
                        book.wait_for(waiting);
                        conversation.heartbeat(&book)
                    };
                    if !tell_all(&tell, vec![beat]).await { return lost(&"the stream closed"); }
                }
                _ = progress.tick() => {
                    let news = conversation.news(&mut self.ledger.book(), self.interrupt.ending().as_deref());
                    if !tell_all(&tell, news).await { return lost(&"the stream closed"); }
                }
                () = cancel.cancelled() => {
                    let news = conversation.news(&mut self.ledger.book(), self.interrupt.ending().as_deref());
                    tell_all(&tell, news).await;
                    return Ok(Ended::Cancelled);
                }
            }
        }
    }

    fn obey(&self, told: Told) -> Result<(), SessionError> {
        log(&told);
        match self.ledger.urgent(|book| obey(told, book, &mut self.interrupt.bars())) {
            Ok(reaction) => {
                // Outside the locks: an abort may wait for the engine's own threads.
                if let Some(abort) = reaction.abort {
                    abort.abort();
                }
                if let Some(order) = reaction.order {
                    self.order(order);
                }
                if self.interrupt.draining() {
                    self.interrupt.wake();
                }
                Ok(())
            }
            Err(Unwanted::BadForm(error)) => {
                tracing::error!(error = with_causes(&error), "an order to form a group was refused");
                Ok(())
            }
            Err(refused) => Err(SessionError::Refused(refused)),
        }
    }

    fn order(&self, order: Order) {
        // The training thread outlives the session; if it is gone, the process is ending anyway.
        if self.orders.send(order).is_err() {
            tracing::debug!("an order came after the training thread had ended");
        }
    }
}

fn endpoint(url: &str) -> Result<Endpoint, SessionError> {
    // A host that loses its power closes no connection, and another may lead meanwhile, under the same name as well: one that
    // hangs is not waited for, as TCP alone would for a quarter of an hour.
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(|e| SessionError::Address(url.to_owned(), e))?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE))
}

async fn tell_all(tell: &mpsc::Sender<wire::WorkerMessage>, news: Vec<Tell>) -> bool {
    for due in news {
        if tell.send(message(due)).await.is_err() {
            return false;
        }
    }
    true
}

fn log(told: &Told) {
    match told {
        Told::Abort(wire::Abort { job_id, generation, reason }) => {
            tracing::info!(job = job_id, generation, reason, "leaving the group");
        }
        Told::Release(wire::Release { job_id, reason }) => tracing::info!(job = job_id, reason, "released"),
        Told::Drain(wire::Drain { reason }) => tracing::info!(reason, "asked to end"),
        Told::Stop(wire::Stop { job_id, reason, .. }) => {
            tracing::info!(job = job_id, reason, "asked to checkpoint and stop");
        }
        _ => {}
    }
}

fn message(tell: Tell) -> wire::WorkerMessage {
    wire::WorkerMessage { message: Some(tell) }
}
