//! Does what the state says is outstanding. Messages go out at once, storage work runs beside the
//! loop; what did not succeed is still outstanding at the next pass. Where many workers are to be told something, a pass tells
//! some of them, and the next goes on with the group at which it ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cappa_core::{Command, Generation, JobId, Time, Work};
use cappa_proto::Form;
use cappa_wire::{Limits, form, message, rank};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::storage_work::StorageWork;
use super::{Handle, View};
use crate::curves::Curves;
use crate::indexing::IndexWork;
use crate::sessions::{FEW, Order, Sessions};

/// The longest wait before storage work that failed is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Messages that may wait for their streams to send them: every one of them has woken a task, and all of those stand before
/// people's calls and before what workers say.
const MOST: usize = 2 * FEW;

/// So many a pass sends in any case: workers that do not read hold nobody up.
const LEAST: usize = 16;

/// What was tried already, and where messages and files go.
pub(crate) struct Reconciler {
    sessions: Sessions,
    curves: Curves,
    limits: Limits,
    handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Messages to members of groups that are on their streams, as long as they are outstanding.
    sent: HashMap<JobId, HashSet<Work>>,
    /// The same to others.
    sent_besides: HashSet<Work>,
    /// What a pass tells all members of the group that it came to last.
    form: Option<(JobId, Generation, Arc<Form>)>,
    /// The group at which the last pass ended before it was through.
    next: Option<JobId>,
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
        let (sent, sent_besides, tried) = Default::default();
        Self { sessions, curves, limits, handle, tasks, stop, sent, sent_besides, form: None, next: None, tried }
    }

    /// Returns once the streams have sent most of the orders that the last passes gave them.
    pub(crate) fn few_unsent(&self) -> impl Future<Output = ()> + use<> {
        let sessions = self.sessions.clone();
        async move { sessions.few_unsent().await }
    }

    /// Does what is outstanding and was not done yet. Returns what the state must know of it, and whether that was all.
    pub(crate) fn pass(&mut self, view: &View, now: Time) -> (Vec<Command>, bool) {
        self.work_in_store(view, now);
        // What is told alike may have changed since the last pass.
        self.form = None;
        let mut told = Vec::new();
        let most = MOST.saturating_sub(self.sessions.unsent()).max(LEAST);
        // Half of them go to members of groups at least: their orders are what training waits for.
        let most_besides = most / 2;
        let besides = std::mem::take(&mut self.sent_besides);
        let (besides, mut is_all) = self.tell(view, view.core.outstanding_besides(), besides, most_besides, &mut told);
        self.sent_besides = besides;

        let mut before = std::mem::take(&mut self.sent);
        let first = self.next.take();
        for (job, orders) in view.core.outstanding_in_groups(now, first.as_ref()) {
            let sent = before.remove(job).unwrap_or_default();
            let is_late = self.next.is_some() || told.len() >= most;
            let (sent, was_all) = match is_late {
                true => (sent, false),
                false => self.tell(view, orders, sent, most, &mut told),
            };
            if !was_all && self.next.is_none() {
                self.next = Some(job.clone());
            }
            is_all &= was_all;
            self.sent.insert(job.clone(), sent);
        }
        (told, is_all)
    }

    /// Starts what is to be done in the store, and gives up what is to be done no more.
    fn work_in_store(&mut self, view: &View, now: Time) {
        let outstanding: HashSet<Work> = view.core.outstanding_in_store(now).collect();
        self.tried.retain(|work, _| {
            let is_outstanding = outstanding.contains(work);
            if let (Work::Index { job }, false) = (work, is_outstanding) {
                view.indexing.forget(job);
            }
            is_outstanding
        });
        outstanding.into_iter().for_each(|work| self.start(view, work, now));
    }

    /// Sends what of `outstanding` was not `sent` before, until a pass has sent so many messages. Returns what of it is on its streams
    /// now, and whether that was all; `told` gets what the state must know of it.
    fn tell(
        &mut self,
        view: &View,
        outstanding: impl Iterator<Item = Work>,
        mut sent: HashSet<Work>,
        most: usize,
        told: &mut Vec<Command>,
    ) -> (HashSet<Work>, bool) {
        let (mut still, mut is_all) = (HashSet::with_capacity(sent.len()), true);
        for work in outstanding {
            if let Some(work) = sent.take(&work) {
                still.insert(work);
            } else if told.len() >= most {
                // What is not come to is taken for outstanding until a pass that is through.
                is_all = false;
                still.extend(sent.drain());
                break;
            } else if self.send(view, &work) {
                told.push(Command::Told(work.clone()));
                still.insert(work);
            }
        }
        (still, is_all)
    }

    /// Sends a message. False when its stream is gone or lags behind, or there is nothing to be said any more.
    fn send(&mut self, view: &View, work: &Work) -> bool {
        let order = match work {
            Work::Form { worker, link, job, generation } => {
                let rank = rank(&view.core, job, worker);
                rank.and_then(|rank| Some((*link, Order::Form(self.form(view, job, *generation)?, rank))))
            }
            _ => message(&view.core, work, self.limits, |job| self.curves.last_step(job))
                .map(|(link, message)| (link, Order::Message(message))),
        };
        let is_sent = order.is_some_and(|(link, order)| self.sessions.send(link, order));
        if is_sent {
            tracing::debug!(?work, "sent");
        }
        is_sent
    }

    /// What all members of a group are told alike, made once for those that a pass comes to one after another.
    fn form(&mut self, view: &View, job: &JobId, generation: Generation) -> Option<Arc<Form>> {
        let made = self.form.take().filter(|(of, at, _)| of == job && *at == generation);
        let make = || {
            let made = form(&view.core, job, generation, self.limits, self.curves.last_step(job))?;
            Some((job.clone(), generation, Arc::new(made)))
        };
        self.form = made.or_else(make);
        self.form.as_ref().map(|(.., made)| Arc::clone(made))
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
