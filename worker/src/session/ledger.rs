//! What this process has to tell the coordinator, kept as state and not as a queue of messages:
//! after a reconnect the same state is told again, so nothing that matters is lost with a connection.
//! Every list is bounded; a coordinator that stays away for hours costs the oldest lines, no memory.

use std::collections::{BTreeMap, VecDeque};

use cappa_proto as wire;
use cappa_shared::ids::{Generation, JobId, Step};
use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::worker_message::Message;

/// Newest steps whose metrics are kept for a coordinator that did not get them.
const POINTS: usize = 8192;
/// Newest log lines, likewise.
const LINES: usize = 2000;
/// Quarantined samples that are named; the others are counted.
const QUARANTINED: usize = 1000;

/// The reports of this process.
#[derive(Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    news: Notify,
}

#[derive(Default)]
struct Book {
    holding: Option<wire::Holding>,
    /// Rank 0 speaks for its group.
    speaks: bool,
    points: VecDeque<wire::StepMetrics>,
    quarantined: Vec<wire::Quarantined>,
    quarantined_total: u64,
    /// By (step, generation): what became of this rank's part of a checkpoint.
    checkpoints: BTreeMap<(u64, u64), Message>,
    completed: Option<wire::Completed>,
    /// News that a later Hello says as well, so they need not outlive the connection.
    notices: VecDeque<Message>,
    lines: VecDeque<wire::LogLine>,
    lines_dropped: u64,
}

/// How much of the ledger one connection has carried.
#[derive(Default)]
pub(crate) struct Cursor {
    job: String,
    points_to: u64,
    quarantined: usize,
    quarantined_total: u64,
    checkpoints: Vec<(u64, u64)>,
    completed: Option<u64>,
}

impl Ledger {
    /// The process holds the job's state at a step, inside a group (`stepping`) or out of it.
    pub(crate) fn hold(&self, job: &JobId, generation: Generation, step: Step, stepping: bool) {
        let mut book = self.book.lock();
        if book.holding.as_ref().is_some_and(|h| h.job_id != job.as_str()) {
            *book = Book { lines: std::mem::take(&mut book.lines), ..Book::default() };
        }
        book.holding =
            Some(wire::Holding { job_id: job.to_string(), generation: generation.0, step: step.0, stepping });
    }

    /// The process holds no job's state any more.
    pub(crate) fn release(&self) {
        let mut book = self.book.lock();
        *book = Book { lines: std::mem::take(&mut book.lines), ..Book::default() };
    }

    /// What the process holds.
    pub(crate) fn holding(&self) -> Option<wire::Holding> {
        self.book.lock().holding.clone()
    }

    /// Whether this member tells the group's progress.
    pub(crate) fn speak(&self, speaks: bool) {
        self.book.lock().speaks = speaks;
    }

    /// One completed update. Every rank keeps them: any may have to speak for the group later.
    pub(crate) fn point(&self, point: wire::StepMetrics) {
        let mut book = self.book.lock();
        if let Some(holding) = &mut book.holding {
            holding.step = point.step;
        }
        // A step that was repeated after a restore replaces what was known of it.
        while book.points.back().is_some_and(|last| last.step >= point.step) {
            book.points.pop_back();
        }
        if book.points.len() == POINTS {
            book.points.pop_front();
        }
        book.points.push_back(point);
    }

    /// Samples that can't be used, as this rank met them, and how many the whole group has met.
    pub(crate) fn quarantine(&self, samples: Vec<wire::Quarantined>, total: u64) {
        let mut book = self.book.lock();
        let room = QUARANTINED.saturating_sub(book.quarantined.len());
        book.quarantined.extend(samples.into_iter().take(room));
        book.quarantined_total = total;
    }

    /// The quarantined samples this rank has named so far.
    pub(crate) fn quarantined(&self) -> Vec<wire::Quarantined> {
        self.book.lock().quarantined.clone()
    }

    /// What became of this rank's part of a checkpoint; told until the coordinator has settled it.
    pub(crate) fn checkpoint(&self, step: Step, generation: Generation, message: Message) {
        self.book.lock().checkpoints.insert((step.0, generation.0), message);
        self.news.notify_one();
    }

    /// The coordinator has settled a checkpoint.
    pub(crate) fn settled(&self, step: u64, generation: u64) {
        self.book.lock().checkpoints.remove(&(step, generation));
        self.news.notify_one();
    }

    /// Whether a checkpoint waits to be settled.
    pub(crate) fn unsettled(&self) -> bool {
        !self.book.lock().checkpoints.is_empty()
    }

    /// The group has done all it was formed for.
    pub(crate) fn complete(&self, completed: wire::Completed) {
        self.book.lock().completed = Some(completed);
        self.news.notify_one();
    }

    /// Something the coordinator should know at once.
    pub(crate) fn notice(&self, message: Message) {
        self.book.lock().notices.push_back(message);
        self.news.notify_one();
    }

    /// A line of the log.
    pub(crate) fn line(&self, line: wire::LogLine) {
        let mut book = self.book.lock();
        if book.lines.len() == LINES {
            book.lines.pop_front();
            book.lines_dropped += 1;
        }
        book.lines.push_back(line);
    }

    /// Waits until there may be something urgent to tell.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// A connection begins: what a Hello says needs no notice, all else is told anew.
    pub(crate) fn connected(&self) -> (Option<wire::Holding>, Cursor) {
        let mut book = self.book.lock();
        book.notices.clear();
        (book.holding.clone(), Cursor::default())
    }

    /// The messages that this connection has not carried yet, most urgent first.
    pub(crate) fn due(&self, cursor: &mut Cursor) -> Vec<Message> {
        let book = &mut *self.book.lock();
        let mut due: Vec<Message> = book.notices.drain(..).collect();
        let job_id = book.holding.as_ref().map(|h| h.job_id.clone()).unwrap_or_default();
        if cursor.job != job_id {
            *cursor = Cursor { job: job_id.clone(), ..Cursor::default() };
        }
        // Progress goes before Completed, so that the curve is whole when the job ends.
        due.extend(book.progress(cursor, &job_id));
        for (key, message) in &book.checkpoints {
            if !cursor.checkpoints.contains(key) {
                cursor.checkpoints.push(*key);
                due.push(message.clone());
            }
        }
        if let Some(completed) = &book.completed
            && cursor.completed != Some(completed.generation)
        {
            cursor.completed = Some(completed.generation);
            due.push(Message::Completed(completed.clone()));
        }
        if !book.lines.is_empty() && !job_id.is_empty() {
            let lines = book.lines.drain(..).collect();
            due.push(Message::Logs(wire::LogBatch { job_id, lines }));
        }
        due
    }
}

impl Book {
    fn progress(&self, cursor: &mut Cursor, job_id: &str) -> Option<Message> {
        let news = &self.quarantined[cursor.quarantined.min(self.quarantined.len())..];
        let points: Vec<_> = match self.speaks {
            true => self.points.iter().filter(|p| p.step > cursor.points_to).copied().collect(),
            false => Vec::new(),
        };
        if points.is_empty() && news.is_empty() && cursor.quarantined_total == self.quarantined_total {
            return None;
        }
        cursor.points_to = points.last().map_or(cursor.points_to, |p| p.step);
        cursor.quarantined = self.quarantined.len();
        cursor.quarantined_total = self.quarantined_total;
        Some(Message::Progress(wire::Progress {
            job_id: job_id.to_owned(),
            generation: self.holding.as_ref().map_or(0, |h| h.generation),
            points,
            quarantined: news.to_vec(),
            quarantined_total: self.quarantined_total,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> JobId {
        "demo-1".parse().unwrap()
    }

    fn point(step: u64) -> wire::StepMetrics {
        wire::StepMetrics { step, ..Default::default() }
    }

    fn steps(messages: &[Message]) -> Vec<u64> {
        let points = |m: &Message| match m {
            Message::Progress(p) => p.points.iter().map(|p| p.step).collect(),
            _ => Vec::new(),
        };
        messages.iter().flat_map(points).collect()
    }

    #[test]
    fn a_new_connection_hears_every_step_again() {
        let ledger = Ledger::default();
        ledger.hold(&job(), Generation(1), Step(0), true);
        ledger.speak(true);
        let (_, mut first) = ledger.connected();
        ledger.point(point(1));
        ledger.point(point(2));
        assert_eq!(steps(&ledger.due(&mut first)), [1, 2]);
        ledger.point(point(3));
        assert_eq!(steps(&ledger.due(&mut first)), [3]);
        let (holding, mut second) = ledger.connected();
        assert_eq!(holding.unwrap().step, 3);
        assert_eq!(steps(&ledger.due(&mut second)), [1, 2, 3]);
    }

    #[test]
    fn a_part_is_told_until_it_is_settled() {
        let ledger = Ledger::default();
        ledger.hold(&job(), Generation(1), Step(10), true);
        let parts = Message::PartsWritten(wire::PartsWritten { step: 10, generation: 1, ..Default::default() });
        ledger.checkpoint(Step(10), Generation(1), parts.clone());
        let (_, mut cursor) = ledger.connected();
        assert_eq!(ledger.due(&mut cursor), std::slice::from_ref(&parts));
        assert!(ledger.due(&mut cursor).is_empty(), "once a connection");
        let (_, mut again) = ledger.connected();
        assert_eq!(ledger.due(&mut again), [parts]);
        ledger.settled(10, 1);
        let (_, mut last) = ledger.connected();
        assert!(ledger.due(&mut last).is_empty());
        assert!(!ledger.unsettled());
    }

    #[test]
    fn a_member_that_does_not_speak_keeps_its_points_for_when_it_must() {
        let ledger = Ledger::default();
        ledger.hold(&job(), Generation(1), Step(0), true);
        let (_, mut cursor) = ledger.connected();
        ledger.point(point(1));
        assert!(ledger.due(&mut cursor).is_empty());
        ledger.speak(true);
        assert_eq!(steps(&ledger.due(&mut cursor)), [1]);
    }

    #[test]
    fn a_repeated_step_replaces_what_was_known_of_it() {
        let ledger = Ledger::default();
        ledger.hold(&job(), Generation(1), Step(0), true);
        ledger.speak(true);
        for step in [1, 2, 3, 2, 3] {
            ledger.point(point(step));
        }
        let (_, mut cursor) = ledger.connected();
        assert_eq!(steps(&ledger.due(&mut cursor)), [1, 2, 3]);
    }

    #[test]
    fn reports_stay_bounded_while_nobody_listens() {
        let ledger = Ledger::default();
        ledger.hold(&job(), Generation(1), Step(0), true);
        for step in 0..3 * POINTS as u64 {
            ledger.point(point(step));
            ledger.line(wire::LogLine::default());
        }
        let book = ledger.book.lock();
        assert_eq!((book.points.len(), book.lines.len()), (POINTS, LINES));
    }
}
