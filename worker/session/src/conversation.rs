//! What one stream to the coordinator carries, in its order.

use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_shared::ids::WorkerId;

use crate::book::{Book, Cursor};

/// Who a worker's process is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The slot.
    pub worker: WorkerId,
    /// Random, one a process.
    pub incarnation: String,
    /// Of the program.
    pub version: String,
    /// The host's name or address, as its peers know it.
    pub host: String,
    /// `host:port` of this process's c10d store.
    pub store_address: String,
    /// `host:port` of `/metrics`.
    pub metrics_address: String,
    /// `cpu`, or the GPU's name.
    pub device: String,
}

/// One stream, from hello on.
#[derive(Debug)]
pub struct Conversation {
    cursor: Cursor,
    said_goodbye: bool,
}

impl Conversation {
    /// A stream begins: with this hello.
    pub fn open(me: &Identity, book: &mut Book) -> (Self, Tell) {
        let me = me.clone();
        let (holding, cursor) = book.connected();
        let hello = wire::Hello {
            worker_id: me.worker.to_string(),
            incarnation: me.incarnation,
            version: me.version,
            host: me.host,
            store_address: me.store_address,
            metrics_address: me.metrics_address,
            device: me.device,
            holding,
        };
        (Self { cursor, said_goodbye: false }, Tell::Hello(hello))
    }

    /// It lives.
    pub fn heartbeat(&self, book: &Book) -> Tell {
        Tell::Heartbeat(book.heartbeat())
    }

    /// What is new since it was asked last. That the process is about to end, and why, comes before everything that
    /// ending brings about: who has left a group without being known to end would be put into the next one.
    pub fn news(&mut self, book: &mut Book, ending: Option<&str>) -> Vec<Tell> {
        let mut due = Vec::new();
        if let Some(reason) = ending
            && !std::mem::replace(&mut self.said_goodbye, true)
        {
            due.push(Tell::Goodbye(wire::Goodbye { reason: reason.into() }));
        }
        due.extend(book.due(&mut self.cursor));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_process_ends_is_told_before_that_it_has_left_its_group() {
        let me = Identity {
            worker: "worker-0".parse().unwrap(),
            incarnation: "a".into(),
            version: "0.1.0".into(),
            host: "127.0.0.1".into(),
            store_address: "127.0.0.1:1".into(),
            metrics_address: "127.0.0.1:2".into(),
            device: "cpu".into(),
        };
        let mut book = Book::default();
        for _connection in 0..2 {
            let (mut conversation, _hello) = Conversation::open(&me, &mut book);
            assert!(conversation.news(&mut book, None).is_empty());
            book.notice(Tell::Left(wire::Left::default()));
            let told = conversation.news(&mut book, Some("asked to"));
            assert!(matches!(told[..], [Tell::Goodbye(_), Tell::Left(_)]), "{told:?}");
            assert!(conversation.news(&mut book, Some("asked to")).is_empty(), "once a connection");
        }
    }
}
