//! The loop of a coordinator that follows: it answers who reads from a state that the log's tail keeps up to date, and
//! decides nothing. When it comes to lead, the [driver](super::Driver) goes on with its mailbox.

use cappa_core::Event;
use tokio::sync::mpsc;

use super::mailbox::{Batch, Mailbox};
use super::{Known, Rules, View};
use crate::log::{LogError, News, Recalled, Tail};

/// News that wait for the loop at most.
const AHEAD: usize = 4;

/// A state that follows the log.
pub(crate) struct Follower {
    view: View,
    /// The newest entry that it knows.
    last: u64,
    rules: Rules,
}

/// How following ended.
pub(crate) enum Followed<T> {
    /// What was awaited has come; and what it knew by then.
    Until(T, Box<Known>),
    /// Nobody asks any more.
    Stopped,
}

impl Follower {
    /// Knows nothing until the tail tells.
    pub(crate) fn new(rules: Rules) -> Self {
        Self { view: View::of(Recalled::default(), rules.clone()), last: 0, rules }
    }

    /// Serves readers until `end` comes to something.
    ///
    /// # Errors
    /// What the log holds that this program can't read.
    pub(crate) async fn run<T>(
        mut self,
        tail: Tail,
        mailbox: &mut Mailbox,
        end: impl Future<Output = T>,
    ) -> Result<Followed<T>, LogError> {
        let (to, mut news) = mpsc::channel(AHEAD);
        let reading = tokio::spawn(tail.read_on(to));
        let mut end = std::pin::pin!(end);
        let mut batch = Batch::default();
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut end => break Ok(Some(ended)),
                told = news.recv() => match told {
                    Some(Ok(news)) => self.learn(news, mailbox),
                    Some(Err(error)) => break Err(error),
                    None => break Ok(None),
                },
                received = mailbox.receive(&mut batch) => {
                    if !received {
                        break Ok(None);
                    }
                    self.answer(&mut batch);
                }
            }
        };
        reading.abort();
        let (history, last) = (self.view.history, self.last);
        Ok(match ended? {
            Some(ended) => {
                Followed::Until(ended, Box::new(Known { state: self.view.core.into_state(), history, last }))
            }
            None => Followed::Stopped,
        })
    }

    fn learn(&mut self, news: News, mailbox: &Mailbox) {
        let last = match news {
            News::Anew(recalled) => {
                let last = recalled.last();
                self.view = View::of(recalled, self.rules.clone());
                mailbox.changes.tell_all();
                last
            }
            News::Entries(entries) => {
                let Some(last) = entries.last().map(|entry| entry.sequence) else { return };
                for entry in entries {
                    self.view.history.apply(&entry);
                    if let Some(job) = &entry.record.job {
                        mailbox.changes.tell(job);
                    }
                    self.view.core.apply(&Event::Record(entry.record));
                }
                last
            }
        };
        self.last = last;
        self.view.planned.refresh();
    }

    fn answer(&mut self, batch: &mut Batch) {
        self.view.planned.refresh();
        batch.reads.drain(..).for_each(|read| read(&self.view));
        // Requests that need who leads don't come so far; who waits for one hears that it has gone.
        batch.asked.clear();
        batch.told.clear();
    }
}
