//! Does what the state says is outstanding. Messages go out at once, storage work runs beside the
//! loop; what did not succeed is still outstanding at the next pass.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cappa_core::{Command, Time, Work};
use cappa_wire::{Limits, message};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::storage_work::StorageWork;
use super::{Handle, View};
use crate::curves::Curves;
use crate::indexing::IndexWork;
use crate::sessions::Sessions;

/// The longest wait before storage work that failed is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Messages that one pass sends at most.
const MESSAGES: usize = 256;

/// What was tried already, and where messages and files go.
pub(crate) struct Reconciler {
    sessions: Sessions,
    curves: Curves,
    limits: Limits,
    handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Messages that are on their streams, as long as they are outstanding.
    sent: HashSet<Work>,
    /// Storage work that runs, has failed, or is done without the state knowing it yet, as long as it is outstanding.
    tried: HashMap<Work, Attempt>,
}

#[derive(Debug)]
struct Attempt {
    count: u32,
    started: Time,
    task: JoinHandle<()>,
    /// What it came to is on its way to the loop. Were it repeated until it is heard, as when an append is slow, a
    /// manifest could be written once more after it was deleted.
    is_told: Arc<AtomicBool>,
    /// Ends an index with the attempt: a job that is cancelled or paused has no use for it. Other work is short.
    _wanted: DropGuard,
}

impl Attempt {
    fn is_over(&self, now: Time) -> bool {
        let is_told = self.is_told.load(Ordering::Acquire);
        !is_told && self.task.is_finished() && now.since(self.started) >= retry_after(self.count)
    }
}

impl Reconciler {
    /// A reconciler that has done nothing yet.
    pub(crate) fn new(
        sessions: Sessions,
        curves: Curves,
        limits: Limits,
        handle: Handle,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { sessions, curves, limits, handle, tasks, stop, sent: HashSet::new(), tried: HashMap::new() }
    }

    /// Does what is outstanding and was not done yet. Returns what the state must know of it, and whether that was all:
    /// what is left is for the next pass, so that a large group's orders keep nobody else waiting for long.
    pub(crate) fn pass(&mut self, view: &View, now: Time) -> (Vec<Command>, bool) {
        let outstanding: HashSet<Work> = view.core.outstanding(now).collect();
        self.sent.retain(|work| outstanding.contains(work));
        self.tried.retain(|work, _| {
            let is_outstanding = outstanding.contains(work);
            if let (Work::Index { job }, false) = (work, is_outstanding) {
                view.indexing.forget(job);
            }
            is_outstanding
        });
        let (mut told, mut tries) = (Vec::new(), 0);
        for work in outstanding {
            if work.in_store().is_some() {
                self.start(view, work, now);
            } else if tries < MESSAGES && !self.sent.contains(&work) {
                tries += 1;
                told.extend(self.tell(view, work));
            }
        }
        (told, tries < MESSAGES)
    }

    /// Sends a message, and returns what the state must know of that.
    fn tell(&mut self, view: &View, work: Work) -> Option<Command> {
        let (link, message) = message(&view.core, &work, self.limits, |job| self.curves.last_step(job))?;
        if !self.sessions.send(link, message) {
            return None;
        }
        tracing::debug!(?work, "sent");
        self.sent.insert(work.clone());
        Some(Command::Told(work))
    }

    fn start(&mut self, view: &View, work: Work, now: Time) {
        let before = self.tried.get(&work);
        if before.is_some_and(|attempt| !attempt.is_over(now)) {
            return;
        }
        let count = before.map_or(1, |attempt| attempt.count + 1);
        let is_told = Arc::new(AtomicBool::new(false));
        let wanted = self.stop.child_token();
        let task = match &work {
            Work::Index { job } => {
                let Some(job) = view.core.state().job(job) else { return };
                let index = IndexWork::of(&view.indexing, job);
                self.tasks.spawn(make_index(index, self.handle.clone(), wanted.clone(), Arc::clone(&is_told)))
            }
            _ => {
                let Some(storage) = StorageWork::of(view, &work) else { return };
                let (handle, stop, tells) = (self.handle.clone(), self.stop.clone(), Arc::clone(&is_told));
                self.tasks.spawn(async move {
                    let done = tokio::select! {
                        () = stop.cancelled() => None,
                        done = storage.perform(count) => done,
                    };
                    if let Some(command) = done {
                        tells.store(true, Ordering::Release);
                        // A stopping loop needs no word of it: its successor does the work again.
                        let _ = handle.tell(command).await;
                    }
                })
            }
        };
        self.tried.insert(work, Attempt { count, started: now, task, is_told, _wanted: wanted.drop_guard() });
    }
}

/// Makes an index, unless it is wanted no more, and clears away after it once the log has it.
async fn make_index(index: IndexWork, handle: Handle, wanted: CancellationToken, tells: Arc<AtomicBool>) {
    let made = tokio::select! {
        () = wanted.cancelled() => None,
        made = index.perform() => made,
    };
    let Some(indexed) = made else { return };
    tells.store(true, Ordering::Release);
    if let Ok(Ok(())) = handle.perform(indexed.command.clone()).await {
        // Whatever is left of the journals does no harm.
        let _ = tokio::task::spawn_blocking(move || indexed.clear_away()).await;
    }
}

fn retry_after(count: u32) -> Duration {
    (Duration::from_millis(500) * 2u32.saturating_pow(count.min(8))).min(LONGEST_RETRY)
}
