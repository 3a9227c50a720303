//! The open streams of workers: where messages to them go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cappa_core::Link;
use cappa_proto::{CoordinatorMessage, coordinator_message::Message};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Status;

/// What one stream carries to its worker.
pub(crate) type Outgoing = mpsc::Receiver<Result<CoordinatorMessage, Status>>;

type Streams = HashMap<Link, mpsc::Sender<Result<CoordinatorMessage, Status>>>;

/// Messages that a stream may lag behind before it is passed over until it has caught up.
const BACKLOG: usize = 256;

/// All open streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    streams: Arc<Mutex<Streams>>,
    last: Arc<AtomicU64>,
}

impl Sessions {
    /// A new stream and its end towards the worker.
    pub(crate) fn open(&self) -> (Link, Outgoing) {
        let link = Link(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.streams.lock().insert(link, sender);
        (link, receiver)
    }

    /// Forgets a stream, which ends it once what was sent has left.
    pub(crate) fn close(&self, link: Link) {
        self.streams.lock().remove(&link);
    }

    /// Ends all streams.
    pub(crate) fn close_all(&self) {
        self.streams.lock().clear();
    }

    /// Hands a message to the stream. False when it is gone or lags behind; then nothing is sent.
    pub(crate) fn send(&self, link: Link, message: Message) -> bool {
        let streams = self.streams.lock();
        let Some(sender) = streams.get(&link) else {
            return false;
        };
        sender.try_send(Ok(CoordinatorMessage { message: Some(message) })).is_ok()
    }
}
