//! What this process has to tell the coordinator, kept as state and not as a queue of messages:
//! after a reconnect the same state is told again, so nothing that matters is lost with a connection.
//! Every list is bounded; a coordinator that stays away for hours costs the oldest lines, no memory.

use std::collections::{BTreeMap, VecDeque};

use cappa_proto as wire;
use cappa_shared::ids::{Generation, JobId, Step};
use wire::worker_message::Message;

/// Newest steps whose metrics are kept for a coordinator that did not get them.
const POINTS: usize = 8192;
/// Newest log lines, likewise.
const LINES: usize = 2000;
/// Quarantined samples that are named; the others are counted.
const QUARANTINED: usize = 1000;
/// Newest updates that were not made, likewise.
const REFUSED: usize = 1000;

/// The reports of this process.
#[derive(Debug, Default)]
pub struct Book {
    holding: Option<wire::Holding>,
    /// Rank 0 speaks for its group.
    speaks: bool,
    /// Of the group that is held: its generation, and this rank's pace in it.
    pace: Option<(u64, u32)>,
    points: VecDeque<wire::StepMetrics>,
    refused: VecDeque<wire::UpdateRefused>,
    quarantined: Vec<wire::Quarantined>,
    quarantined_total: u64,
    /// By (step, generation): what became of this rank's part of a checkpoint.
    checkpoints: BTreeMap<(u64, u64), Message>,
    completed: Option<wire::Completed>,
    /// News that a later Hello says as well, so they need not outlive the connection.
    notices: VecDeque<Message>,
    lines: VecDeque<wire::LogLine>,
    lines_dropped: u64,
    waiting: Option<wire::Waiting>,
}

/// How much of the ledger one connection has carried.
#[derive(Debug, Default)]
pub struct Cursor {
    job: String,
    /// Generation and step of the newest point that was told: a job that went back repeats steps in a later generation.
    points_to: (u64, u64),
    /// Likewise of the newest update that was not made.
    refused_to: (u64, u64),
    quarantined: usize,
    quarantined_total: u64,
    checkpoints: Vec<(u64, u64)>,
    completed: Option<u64>,
}

impl Book {
    /// The process holds the job's state at a step, inside a group (`stepping`) or out of it.
    pub fn hold(&mut self, job: &JobId, generation: Generation, step: Step, stepping: bool) {
        if self.holding.as_ref().is_some_and(|h| h.job_id != job.as_str()) {
            *self = Book { lines: std::mem::take(&mut self.lines), ..Book::default() };
        }
        self.holding =
            Some(wire::Holding { job_id: job.to_string(), generation: generation.0, step: step.0, stepping });
    }

    /// The process holds no job's state any more.
    pub fn release(&mut self) {
        *self = Book { lines: std::mem::take(&mut self.lines), ..Book::default() };
    }

    /// What the process holds.
    pub fn holding(&self) -> Option<&wire::Holding> {
        self.holding.as_ref()
    }

    /// How fast this rank is in its group: its own time of a step in thousandths of the mean.
    pub fn keep_pace(&mut self, generation: Generation, pace: u32) {
        self.pace = Some((generation.0, pace));
    }

    /// How fast this rank is in the group that it holds; 0 as long as that is not known.
    pub fn pace(&self) -> u32 {
        let generation = self.holding.as_ref().map(|held| held.generation);
        self.pace.filter(|(of, _)| Some(*of) == generation).map_or(0, |(_, pace)| pace)
    }

    /// A store keeps the process waiting, or none does any more.
    pub fn wait_for(&mut self, store: Option<wire::Waiting>) {
        self.waiting = store;
    }

    /// That the process lives, where it is, and what it waits for.
    pub fn heartbeat(&self) -> wire::Heartbeat {
        let wire::Holding { job_id, generation, step, .. } = self.holding.clone().unwrap_or_default();
        wire::Heartbeat { job_id, generation, step, pace: self.pace(), waiting: self.waiting.clone() }
    }

    /// Whether this member tells the group's progress.
    pub fn speak(&mut self, speaks: bool) {
        self.speaks = speaks;
    }

    /// One completed update. Every rank keeps them: any may have to speak for the group later.
    pub fn point(&mut self, point: wire::StepMetrics) {
        if let Some(holding) = &mut self.holding {
            holding.step = point.step;
        }
        // A step that was repeated after a restore replaces what was known of it.
        while self.points.back().is_some_and(|last| last.step >= point.step) {
            self.points.pop_back();
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// An update that was not made. Every rank keeps them, as points.
    pub fn refuse(&mut self, refused: wire::UpdateRefused) {
        if self.refused.len() == REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back(refused);
    }

    /// Samples that can't be used, as this rank met them, and how many the whole group has met.
    pub fn quarantine(&mut self, samples: Vec<wire::Quarantined>, total: u64) {
        let room = QUARANTINED.saturating_sub(self.quarantined.len());
        self.quarantined.extend(samples.into_iter().take(room));
        self.quarantined_total = total;
    }

    /// The quarantined samples this rank has named so far.
    pub fn quarantined(&self) -> Vec<wire::Quarantined> {
        self.quarantined.clone()
    }

    /// What became of this rank's part of a checkpoint; told until the coordinator has settled it.
    pub fn checkpoint(&mut self, step: Step, generation: Generation, message: Message) {
        self.checkpoints.insert((step.0, generation.0), message);
    }

    /// The coordinator has settled a checkpoint.
    pub fn settled(&mut self, step: u64, generation: u64) {
        self.checkpoints.remove(&(step, generation));
    }

    /// Whether a checkpoint waits to be settled.
    pub fn unsettled(&self) -> bool {
        !self.checkpoints.is_empty()
    }

    /// The group has done all it was formed for.
    pub fn complete(&mut self, completed: wire::Completed) {
        self.completed = Some(completed);
    }

    /// Something the coordinator should know at once.
    pub fn notice(&mut self, message: Message) {
        self.notices.push_back(message);
    }

    /// A line of the log.
    pub fn line(&mut self, line: wire::LogLine) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
            self.lines_dropped += 1;
        }
        self.lines.push_back(line);
    }

    /// A connection begins: what a Hello says needs no notice, all else is told anew.
    pub fn connected(&mut self) -> (Option<wire::Holding>, Cursor) {
        self.notices.clear();
        (self.holding.clone(), Cursor::default())
    }

    /// The messages that this connection has not carried yet, most urgent first.
    pub fn due(&mut self, cursor: &mut Cursor) -> Vec<Message> {
        let mut due: Vec<Message> = self.notices.drain(..).collect();
        let job_id = self.holding.as_ref().map(|h| h.job_id.clone()).unwrap_or_default();
        if cursor.job != job_id {
            *cursor = Cursor { job: job_id.clone(), ..Cursor::default() };
        }
        // Progress goes before Completed, so that the curve is whole when the job ends.
        due.extend(self.progress(cursor, &job_id));
        // And what an account must say goes before the checkpoint that has it.
        let place = |refused: &wire::UpdateRefused| (refused.generation, refused.step);
        for refused in self.refused.iter().filter(|_| self.speaks) {
            if place(refused) > cursor.refused_to {
                cursor.refused_to = place(refused);
                due.push(Message::UpdateRefused(refused.clone()));
            }
        }
        for (key, message) in &self.checkpoints {
            if !cursor.checkpoints.contains(key) {
                cursor.checkpoints.push(*key);
                due.push(message.clone());
            }
        }
        if let Some(completed) = &self.completed
            && cursor.completed != Some(completed.generation)
        {
            cursor.completed = Some(completed.generation);
            due.push(Message::Completed(completed.clone()));
        }
        if !self.lines.is_empty() && !job_id.is_empty() {
            let lines = self.lines.drain(..).collect();
            due.push(Message::Logs(wire::LogBatch { job_id, lines }));
        }
        due
    }
}

impl Book {
    fn progress(&self, cursor: &mut Cursor, job_id: &str) -> Option<Message> {
        let news = &self.quarantined[cursor.quarantined.min(self.quarantined.len())..];
        let points: Vec<_> = match self.speaks {
            true => self.points.iter().filter(|point| place(point) > cursor.points_to).copied().collect(),
            false => Vec::new(),
        };
        if points.is_empty() && news.is_empty() && cursor.quarantined_total == self.quarantined_total {
            return None;
        }
        cursor.points_to = points.last().map_or(cursor.points_to, place);
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

/// Where a point stands among those of a job.
fn place(point: &wire::StepMetrics) -> (u64, u64) {
    (point.generation, point.step)
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
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(0), true);
        book.speak(true);
        let (_, mut first) = book.connected();
        book.point(point(1));
        book.point(point(2));
        assert_eq!(steps(&book.due(&mut first)), [1, 2]);
        book.point(point(3));
        assert_eq!(steps(&book.due(&mut first)), [3]);
        let (holding, mut second) = book.connected();
        assert_eq!(holding.unwrap().step, 3);
        assert_eq!(steps(&book.due(&mut second)), [1, 2, 3]);
    }

    #[test]
    fn a_part_is_told_until_it_is_settled() {
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(10), true);
        let parts = Message::PartsWritten(wire::PartsWritten { step: 10, generation: 1, ..Default::default() });
        book.checkpoint(Step(10), Generation(1), parts.clone());
        let (_, mut cursor) = book.connected();
        assert_eq!(book.due(&mut cursor), std::slice::from_ref(&parts));
        assert!(book.due(&mut cursor).is_empty(), "once a connection");
        let (_, mut again) = book.connected();
        assert_eq!(book.due(&mut again), [parts]);
        book.settled(10, 1);
        let (_, mut last) = book.connected();
        assert!(book.due(&mut last).is_empty());
        assert!(!book.unsettled());
    }

    #[test]
    fn a_member_that_does_not_speak_keeps_its_points_for_when_it_must() {
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(0), true);
        let (_, mut cursor) = book.connected();
        book.point(point(1));
        assert!(book.due(&mut cursor).is_empty());
        book.speak(true);
        assert_eq!(steps(&book.due(&mut cursor)), [1]);
    }

    #[test]
    fn updates_that_were_not_made_are_told_before_the_checkpoint_after_them_by_whoever_speaks() {
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(0), true);
        let (_, mut cursor) = book.connected();
        let refused = wire::UpdateRefused { generation: 1, step: 7, rewound_to: Some(4), ..Default::default() };
        let written = Message::PartsWritten(wire::PartsWritten { step: 7, generation: 1, ..Default::default() });
        book.refuse(refused.clone());
        assert!(book.due(&mut cursor).is_empty(), "rank 0 tells it");
        book.speak(true);
        book.checkpoint(Step(7), Generation(1), written.clone());
        assert_eq!(book.due(&mut cursor), [Message::UpdateRefused(refused), written]);
        assert!(book.due(&mut cursor).is_empty(), "once a connection");
    }

    #[test]
    fn a_repeated_step_replaces_what_was_known_of_it() {
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(0), true);
        book.speak(true);
        for step in [1, 2, 3, 2, 3] {
            book.point(point(step));
        }
        let (_, mut cursor) = book.connected();
        assert_eq!(steps(&book.due(&mut cursor)), [1, 2, 3]);
    }

    #[test]
    fn a_job_that_went_back_tells_its_steps_again_on_the_same_connection() {
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(0), true);
        book.speak(true);
        let (_, mut cursor) = book.connected();
        for step in 1..=3 {
            book.point(wire::StepMetrics { generation: 1, ..point(step) });
        }
        assert_eq!(steps(&book.due(&mut cursor)), [1, 2, 3]);
        book.hold(&job(), Generation(2), Step(1), true);
        for step in 2..=3 {
            book.point(wire::StepMetrics { generation: 2, ..point(step) });
        }
        assert_eq!(steps(&book.due(&mut cursor)), [2, 3]);
    }

    #[test]
    fn reports_stay_bounded_while_nobody_listens() {
        let mut book = Book::default();
        book.hold(&job(), Generation(1), Step(0), true);
        for step in 0..3 * POINTS as u64 {
            book.point(point(step));
            book.line(wire::LogLine::default());
        }
        assert_eq!((book.points.len(), book.lines.len()), (POINTS, LINES));
    }
}
