//! What the loop is asked and told, in lanes: who reads waits neither for those who ask for a decision nor for what ten
//! thousand workers report, and who waits for an answer does not wait for reports.

use std::time::{Duration, Instant};

use cappa_core::{Command, JobId, Refusal};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::View;
use super::changes::{Changes, Following};

/// Of each kind so many wait for the loop at most; senders wait beyond that.
const BACKLOG: usize = 4096;

/// Requests of each kind that share one turn, and with it one append, at most.
pub(super) const BATCH: usize = 512;

pub(super) type Read = Box<dyn FnOnce(&View) + Send>;

/// A command whose sender waits for nothing.
pub(super) struct Told {
    pub(super) command: Command,
    /// When it came.
    at: Instant,
}

/// A command whose sender waits for what comes of it.
pub(super) struct Asked {
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Result<(), Refusal>>,
}

/// The loop has ended: the process is going down.
#[derive(Debug, Error)]
#[error("the coordinator is shutting down; repeat the request with its successor")]
pub(crate) struct Stopped;

/// The way to the loop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    reads: mpsc::Sender<Read>,
    asked: mpsc::Sender<Asked>,
    told: mpsc::Sender<Told>,
    changes: Changes,
}

impl Handle {
    /// Decides a command; returns once what follows from it is durable. What the same sender tells afterwards is decided
    /// afterwards.
    pub(crate) async fn perform(&self, command: Command) -> Result<Result<(), Refusal>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.asked.send(Asked { command, reply }).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Hands a command over without waiting for what it leads to. Commands are decided in the order in which they are told.
    pub(crate) async fn tell(&self, command: Command) -> Result<(), Stopped> {
        let told = Told { command, at: Instant::now() };
        self.told.send(told).await.map_err(|_| Stopped)
    }

    /// Looks at the state, in which all is durable.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |view| {
            // Whoever asked may have gone away.
            let _ = reply.send(look(view));
        });
        self.reads.send(read).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// What happens to the job from now on.
    pub(crate) fn changes(&self, job: &JobId) -> Following {
        self.changes.of(job)
    }
}

/// The other end of the handles.
pub(crate) struct Mailbox {
    reads: mpsc::Receiver<Read>,
    asked: mpsc::Receiver<Asked>,
    told: mpsc::Receiver<Told>,
    pub(super) changes: Changes,
}

/// The way to a loop that is yet to be built, and its mailbox.
pub(crate) fn mailbox() -> (Handle, Mailbox) {
    let (read, reads) = mpsc::channel(BACKLOG);
    let (ask, asked) = mpsc::channel(BACKLOG);
    let (tell, told) = mpsc::channel(BACKLOG);
    let changes = Changes::default();
    let handle = Handle { reads: read, asked: ask, told: tell, changes: changes.clone() };
    (handle, Mailbox { reads, asked, told, changes })
}

/// What one turn takes from the mailbox.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) reads: Vec<Read>,
    pub(super) asked: Vec<Asked>,
    pub(super) told: Vec<Told>,
}

impl Mailbox {
    /// Takes those who read and have come meanwhile.
    pub(super) fn take_reads(&mut self, batch: &mut Batch) {
        take(&mut self.reads, &mut batch.reads);
    }

    /// How far a taken batch is behind: how long what was told last in it has waited while more waits.
    pub(super) fn behind(&self, batch: &Batch) -> Duration {
        match batch.told.last() {
            Some(last) if !self.told.is_empty() => last.at.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// Waits until there is something, and takes what there is of every kind. False when there is no handle any more.
    /// Nothing is lost when it is cancelled.
    pub(super) async fn receive(&mut self, batch: &mut Batch) -> bool {
        let received = tokio::select! {
            biased;
            received = self.reads.recv_many(&mut batch.reads, BATCH) => received,
            received = self.asked.recv_many(&mut batch.asked, BATCH) => received,
            received = self.told.recv_many(&mut batch.told, BATCH) => received,
        };
        let asked = take(&mut self.asked, &mut batch.asked);
        let told = take(&mut self.told, &mut batch.told);
        // What is closed has no sender in any lane, and may yet hold what was sent before.
        received + asked + told > 0
    }
}

/// Takes what waits already, up to a full batch; how much that is.
fn take<T>(lane: &mut mpsc::Receiver<T>, batch: &mut Vec<T>) -> usize {
    let before = batch.len();
    while batch.len() < BATCH
        && let Ok(next) = lane.try_recv()
    {
        batch.push(next);
    }
    batch.len() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_behind_while_more_waits_that_was_told_long_ago() {
        let (handle, mut mailbox) = mailbox();
        for _ in 0..=BATCH {
            handle.tell(Command::Review).await.unwrap();
        }
        let long = Duration::from_millis(20);
        tokio::time::sleep(long).await;
        let mut batch = Batch::default();
        assert!(mailbox.receive(&mut batch).await);
        assert!(batch.told.len() == BATCH && mailbox.behind(&batch) >= long);
        batch.told.clear();
        assert!(mailbox.receive(&mut batch).await);
        assert_eq!((batch.told.len(), mailbox.behind(&batch)), (1, Duration::ZERO));
    }
}
