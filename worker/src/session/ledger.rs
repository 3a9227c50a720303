//! The book of what this process has to tell, shared by its threads.

use cappa_proto as wire;
use cappa_session::Book;
use cappa_shared::ids::{Generation, Step};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use wire::worker_message::Message;

/// The reports of this process.
#[derive(Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    news: Notify,
}

impl Ledger {
    /// The book. Held for a moment only.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// Writes something into the book that the coordinator should know at once.
    pub(crate) fn urgent<T>(&self, write: impl FnOnce(&mut Book) -> T) -> T {
        let written = write(&mut self.book());
        self.news.notify_one();
        written
    }

    /// What became of this rank's part of a checkpoint; told until the coordinator has settled it.
    pub(crate) fn checkpoint(&self, step: Step, generation: Generation, message: Message) {
        self.urgent(|book| book.checkpoint(step, generation, message));
    }

    /// Something the coordinator should know at once.
    pub(crate) fn notice(&self, message: Message) {
        self.urgent(|book| book.notice(message));
    }

    /// There is something urgent to tell that is not in the book: the process is about to end.
    pub(crate) fn stir(&self) {
        self.news.notify_one();
    }

    /// Waits until there may be something urgent to tell.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}
