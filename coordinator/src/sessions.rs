//! The open streams of workers: where messages to them go.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use cappa_core::{Link, WorkerId};
use cappa_proto::{CoordinatorMessage, Form, coordinator_message::Message};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::Stream;
use tonic::Status;

/// What a stream is to carry to its worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// A message.
    Message(Message),
    /// What all members of a group are told alike, and the rank of this one.
    Form(Arc<Form>, u32),
}

impl Order {
    fn into_message(self) -> Message {
        match self {
            Self::Message(message) => message,
            Self::Form(group, rank) => Message::Form(Form { rank, ..Arc::unwrap_or_clone(group) }),
        }
    }
}

/// What one stream carries to its worker. Messages that are long where groups are large are made by the stream's own task, not
/// by the loop that sends them to all.
#[derive(Debug)]
pub(crate) struct Outgoing {
    orders: mpsc::Receiver<Order>,
    unsent: Unsent,
}

impl Stream for Outgoing {
    type Item = Result<CoordinatorMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let order = self.orders.poll_recv(context);
        order.map(|order| {
            let order = order?;
            self.unsent.less();
            Some(Ok(CoordinatorMessage { message: Some(order.into_message()) }))
        })
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.orders.close();
        while self.orders.try_recv().is_ok() {
            self.unsent.less();
        }
    }
}

/// How many orders wait for their streams to send them.
#[derive(Debug, Clone, Default)]
struct Unsent(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    orders: AtomicUsize,
    few: Notify,
}

impl Unsent {
    fn more(&self) {
        self.0.orders.fetch_add(1, Ordering::Relaxed);
    }

    fn less(&self) {
        if self.0.orders.fetch_sub(1, Ordering::Relaxed) == FEW + 1 {
            self.0.few.notify_one();
        }
    }
}

type Streams = HashMap<Link, mpsc::Sender<Order>>;

/// The newest stream of each worker, and the incarnation of the process at its other end.
type Owners = HashMap<WorkerId, (Link, String)>;

/// Messages that a stream may lag behind before it is passed over until it has caught up.
const BACKLOG: usize = 256;

/// So few orders that wait for their streams call for more.
pub(crate) const FEW: usize = 32;

/// All open streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    streams: Arc<Mutex<Streams>>,
    owners: Arc<Mutex<Owners>>,
    last: Arc<AtomicU64>,
    unsent: Unsent,
}

impl Sessions {
    /// A new stream and its end towards the worker.
    pub(crate) fn open(&self) -> (Link, Outgoing) {
        let link = Link(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.streams.lock().insert(link, sender);
        (link, Outgoing { orders: receiver, unsent: self.unsent.clone() })
    }

    /// The stream is a worker's from now on. Returns the one of another process that was in its place and has not ended.
    pub(crate) fn own(&self, worker: &WorkerId, incarnation: &str, link: Link) -> Option<Link> {
        let mut owners = self.owners.lock();
        if owners.get(worker).is_some_and(|(newest, _)| *newest > link) {
            return None;
        }
        let (former, of) = owners.insert(worker.clone(), (link, incarnation.to_owned()))?;
        (of != incarnation && self.streams.lock().contains_key(&former)).then_some(former)
    }

    /// Forgets a stream, which ends it once what was sent has left.
    pub(crate) fn close(&self, link: Link) {
        self.streams.lock().remove(&link);
    }

    /// Ends all streams.
    pub(crate) fn close_all(&self) {
        self.streams.lock().clear();
    }

    /// Hands an order to the stream. False when it is gone or lags behind; then nothing is sent.
    pub(crate) fn send(&self, link: Link, order: Order) -> bool {
        let streams = self.streams.lock();
        let Some(stream) = streams.get(&link) else { return false };
        // Counted first: its stream may send it before this returns.
        self.unsent.more();
        let is_sent = stream.try_send(order).is_ok();
        if !is_sent {
            self.unsent.less();
        }
        is_sent
    }

    /// How many orders wait for their streams to send them.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.0.orders.load(Ordering::Relaxed)
    }

    /// Returns once no more than [`FEW`] are left of more. For one that waits.
    pub(crate) async fn few_unsent(&self) {
        self.unsent.0.few.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn members_of_a_group_share_one_description_and_each_is_told_its_rank() {
        let sessions = Sessions::default();
        let group = Arc::new(Form { job_id: "demo-1".into(), generation: 3, ..Form::default() });
        let streams: Vec<_> = (0..3).map(|_| sessions.open()).collect();
        for (rank, (link, _)) in (0..).zip(&streams) {
            assert!(sessions.send(*link, Order::Form(Arc::clone(&group), rank)));
        }
        assert_eq!(Arc::strong_count(&group), 4, "nothing was copied yet");
        assert_eq!(sessions.unsent(), 3);
        for (rank, (link, stream)) in (0..).zip(streams) {
            sessions.close(link);
            let told: Vec<_> = stream.map(|told| told.unwrap().message.unwrap()).collect().await;
            assert_eq!(told, [Message::Form(Form { rank, ..Form::clone(&group) })]);
        }
        assert_eq!(sessions.unsent(), 0);
    }

    #[test]
    fn only_the_open_stream_of_another_process_is_taken_over() {
        let sessions = Sessions::default();
        let [first, second, third, fourth] = std::array::from_fn(|_| sessions.open().0);
        let worker = WorkerId::from("worker-a");
        assert_eq!(sessions.own(&worker, "old", first), None);
        assert_eq!(sessions.own(&worker, "old", second), None, "the process itself is back");
        assert_eq!(sessions.own(&worker, "new", third), Some(second));
        assert_eq!(sessions.own(&worker, "old", second), None, "what is heard late takes over nothing");
        sessions.close(third);
        assert_eq!(sessions.own(&worker, "newer", fourth), None, "it has ended");
    }

    #[tokio::test]
    async fn what_a_stream_that_ends_has_not_sent_is_waited_for_by_nobody() {
        let sessions = Sessions::default();
        let order = || Order::Form(Arc::default(), 0);
        let (link, outgoing) = sessions.open();
        assert!(sessions.send(link, order()) && sessions.send(link, order()));
        drop(outgoing);
        assert!(!sessions.send(link, order()), "it has ended");
        assert_eq!(sessions.unsent(), 0);
    }
}
