//! The one loop that owns the state: receive, decide, append durably, reply, act.
//!
//! The state in memory runs ahead of the log by the batch that is being appended, but nothing of it
//! leaves the loop before the append is durable, and a failed append ends the process.

mod changes;
mod condenser;
mod follower;
#[cfg(test)]
mod lagging;
mod looks;
mod mailbox;
mod planned;
mod reconciler;
#[cfg(test)]
mod restart;
mod storage_work;

use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use cappa_core::{Command, Core, JobId, Plan, Policy, Reason, Record, Refusal, Report, State, Time, WorkerReport};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::field;

use condenser::Condenser;
pub(crate) use follower::{Followed, Follower};
use looks::Looks;
use mailbox::{Asked, Batch, Told};
pub(crate) use mailbox::{Handle, Mailbox, Stopped, mailbox};
use planned::Planned;
pub(crate) use reconciler::Reconciler;

use crate::clock::Clock;
use crate::facts::Facts;
use crate::history::History;
use crate::indexing::Indexing;
use crate::log::{Entry, EventLog, LogError, Recalled, SavedJob};
use crate::metrics::Durations;

/// How long one turn makes transitions that time and the state call for: between turns others are heard.
const LONGEST_REVIEW: Duration = Duration::from_millis(3);

/// How long an append may take before people are told.
const SLOW_APPEND: Duration = Duration::from_secs(5);

/// What readers see: consistent, and durable.
pub(crate) struct View {
    /// Jobs and workers.
    pub(crate) core: Core,
    /// What happened to each job.
    pub(crate) history: History,
    /// How far the indexes of jobs' data are.
    pub(crate) indexing: Indexing,
    /// What workers say about themselves.
    pub(crate) facts: Facts,
    clock: Clock,
    planned: Planned,
}

impl View {
    /// Now.
    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Who is about to start and why the others wait; in a large cluster as of a moment ago.
    pub(crate) fn plan(&self) -> &Plan {
        self.planned.plan(|| self.core.plan(self.now()))
    }

    /// Why a job waits, as the plan has it.
    pub(crate) fn reason(&self, job: &JobId) -> Option<&Reason> {
        self.planned.reason(job, || self.core.plan(self.now()))
    }
}

/// The loop's own end.
pub(crate) struct Driver {
    view: View,
    log: EventLog,
    condenser: Condenser,
    reconciler: Reconciler,
    durations: Durations,
    looks: Looks,
    mailbox: Mailbox,
    /// Whether nobody else can lead.
    is_sure: watch::Receiver<bool>,
}

/// The state as the log tells it.
pub(crate) struct Recovered {
    /// The state, which starts watching now.
    pub(crate) view: View,
    log: EventLog,
    condenser: Condenser,
}

/// What one that has followed knows of the log, all entries up to one.
pub(crate) struct Known {
    state: State,
    history: History,
    last: u64,
}

impl Known {
    /// The newest entry that it knows.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

/// What a state goes by besides the log.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) timings: cappa_core::Timings,
    pub(crate) policy: Policy,
    pub(crate) indexing: Indexing,
    pub(crate) facts: Facts,
}

/// Rebuilds the state from the log: from its snapshot or from what is known, and from the entries since.
pub(crate) fn recover(log: EventLog, recalled: Recalled, known: Option<Box<Known>>, rules: Rules) -> Recovered {
    let mut condenser = Condenser::starting_at(recalled.through, recalled.at);
    recalled.entries.iter().for_each(|entry| condenser.appended(entry));
    let view = match known.filter(|_| recalled.known > 0) {
        Some(known) => {
            let Known { state, history, last } = *known;
            let since = recalled.entries.partition_point(|entry| entry.sequence <= last);
            View::going_on(state, history, recalled.newest(), &recalled.entries[since..], rules)
        }
        None => View::of(recalled, rules),
    };
    Recovered { view, log, condenser }
}

impl View {
    fn of(recalled: Recalled, rules: Rules) -> Self {
        let at = recalled.newest();
        let Recalled { common, jobs, entries, .. } = recalled;
        let (jobs, histories): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .map(|SavedJob { job, history }| {
                let id = job.id.clone();
                (job, (id, history))
            })
            .unzip();
        Self::going_on(State::of(jobs, common), History::of(histories), at, &entries, rules)
    }

    /// From a state and the entries since, the newest of which, or of the state's, is of this time.
    fn going_on(state: State, mut history: History, at: Time, entries: &[Entry], rules: Rules) -> Self {
        let Rules { timings, policy, indexing, facts } = rules;
        let clock = Clock::starting_after(at);
        let records = entries.iter().map(|entry| &entry.record);
        let core = Core::resume(timings, clock.now(), state, records).with_policy(policy);
        entries.iter().for_each(|entry| history.apply(entry));
        Self { core, history, indexing, facts, clock, planned: Planned::default() }
    }
}

impl Recovered {
    /// Condenses a long log before anybody is served, as when an older program never did.
    ///
    /// # Errors
    /// What the log met.
    pub(crate) async fn condense(&mut self) -> Result<(), LogError> {
        if let Some(snapshot) = self.condenser.if_long(&self.view) {
            let through = snapshot.through;
            self.log.condense(snapshot).await?;
            self.log.condensed(through);
            self.condenser.done(through);
        }
        Ok(())
    }
}

impl Driver {
    /// The loop over a recovered state.
    pub(crate) fn new(
        recovered: Recovered,
        mailbox: Mailbox,
        reconciler: Reconciler,
        durations: Durations,
        is_sure: watch::Receiver<bool>,
    ) -> Self {
        let Recovered { view, log, condenser } = recovered;
        mailbox.changes.tell_all();
        let looks = Looks::default();
        Self { view, log, condenser, reconciler, durations, looks, mailbox, is_sure }
    }

    /// Runs until it is cancelled or the log fails.
    ///
    /// # Errors
    /// [`LogError::Fenced`] when another coordinator has taken over, and what else the log met.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), LogError> {
        let mut batch = Batch::default();
        loop {
            let next_look = tokio::time::sleep_until(self.looks.due().into());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                error = self.log.closed() => return Err(error),
                received = self.mailbox.receive(&mut batch) => if !received { break },
                () = self.reconciler.few_unsent(), if self.looks.has_orders() => self.looks.hasten_orders(),
                () = next_look => {}
            }
            self.turn(&mut batch).await?;
        }
        self.condenser.finish().await;
        self.log.close().await
    }

    async fn turn(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        let may_judge = self.is_sure_again_or_still() && !self.lags_behind(batch);
        // All that the last turn decided is durable: who reads need not wait for what this one decides.
        self.answer(batch);
        let mut records: Vec<Record> = Vec::new();
        let mut replies = Vec::new();
        for Asked { command, reply } in batch.asked.drain(..) {
            let result = self.perform(&command).map(|decided| records.extend(decided));
            replies.push((reply, result));
        }
        for Told { command, .. } in batch.told.drain(..) {
            // Who tells does not wait for an answer, and a refusal was noted.
            records.extend(self.perform(&command).unwrap_or_default());
        }
        let is_due = self.looks.is_due() && may_judge;
        let begun = Instant::now();
        let is_all = !is_due || self.review(&mut records);
        let reviewed = begun.elapsed();
        self.append(records).await?;
        for (reply, result) in replies {
            // Whoever asked may have gone away.
            let _ = reply.send(result);
        }
        if is_due || self.looks.orders_are_due() {
            // So is what this one has decided: who came meanwhile need not wait for what is done about it either.
            self.mailbox.take_reads(batch);
            self.answer(batch);
            let begun = Instant::now();
            let was_all = self.reconcile();
            let passed = begun.elapsed();
            self.looks.passed(was_all);
            if is_due {
                self.looks.end(reviewed + passed, is_all);
            }
        }
        Ok(())
    }

    /// Whether nobody else can lead. Where that was not so since the last turn workers have been sent away: they have to come back before
    /// any is missed.
    fn is_sure_again_or_still(&mut self) -> bool {
        let has_changed = self.is_sure.has_changed().unwrap_or(false);
        let is_sure = *self.is_sure.borrow_and_update();
        if is_sure && has_changed {
            self.view.core.wake(self.view.now());
        }
        is_sure
    }

    /// Whether workers have said so much that is not heard yet that whoever seems silent may not be. After half of the
    /// detection time without a look the next one knows that silence means nothing.
    fn lags_behind(&self, batch: &Batch) -> bool {
        let detection = self.view.core.timings().detection;
        self.mailbox.behind(batch) > detection / 4 && self.looks.since() <= detection / 2
    }

    /// Answers who reads.
    fn answer(&mut self, batch: &mut Batch) {
        self.view.planned.refresh();
        batch.reads.drain(..).for_each(|read| read(&self.view));
    }

    fn perform(&mut self, command: &Command) -> Result<Vec<Record>, Refusal> {
        if !is_heartbeat(command) {
            self.looks.hasten();
        }
        let now = self.view.now();
        let result = self.view.core.perform(now, command);
        match &result {
            Ok(_) => {
                self.view.history.heard(command);
                self.durations.accepted(now, command);
            }
            Err(refusal) => tracing::debug!(?command, ?refusal, "refused"),
        }
        result
    }

    /// Makes the transitions that time and the state call for; true when that was all.
    fn review(&mut self, records: &mut Vec<Record>) -> bool {
        let begun = Instant::now();
        loop {
            let (decided, is_all) = self.view.core.review_up_to(self.view.now(), 1);
            records.extend(decided);
            if is_all || begun.elapsed() >= LONGEST_REVIEW {
                return is_all;
            }
        }
    }

    /// Does what is outstanding; true when that was all.
    fn reconcile(&mut self) -> bool {
        let now = self.view.now();
        let (told, is_all) = self.reconciler.pass(&self.view, now);
        for command in told {
            let records = self.view.core.perform(now, &command).unwrap_or_default();
            debug_assert!(records.is_empty(), "what was told is not logged, but {records:?} was decided");
        }
        is_all
    }

    async fn append(&mut self, records: Vec<Record>) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        for entry in patiently(self.log.append(records)).await? {
            let Record { job, change, .. } = &entry.record;
            tracing::info!(
                sequence = entry.sequence,
                job = job.as_ref().map(field::display),
                change = kind(change),
                "logged"
            );
            let history = job.as_ref().and_then(|job| self.view.history.job(job));
            let members = history.map_or(&[][..], |history| &history.members);
            self.durations.logged(&entry.record, members, self.view.core.presence());
            self.view.history.apply(&entry);
            self.condenser.appended(&entry);
            if let Some(job) = &entry.record.job {
                self.mailbox.changes.tell(job);
            }
        }
        self.condense().await
    }
}

impl Driver {
    /// Begins a snapshot when it is worth it, and takes note of one that is written.
    async fn condense(&mut self) -> Result<(), LogError> {
        if let Some(through) = self.condenser.written().await? {
            self.log.condensed(through);
        }
        if let Some(snapshot) = self.condenser.if_worth_it(&self.view) {
            let through = snapshot.through;
            self.condenser.writes(through, tokio::spawn(self.log.condense(snapshot)));
        }
        Ok(())
    }
}

/// Waits for an append, and says so from time to time: until it is durable nothing is decided, while training goes on.
async fn patiently<T>(append: impl Future<Output = T>) -> T {
    let mut append = std::pin::pin!(append);
    let begun = Instant::now();
    loop {
        match tokio::time::timeout(SLOW_APPEND, &mut append).await {
            Ok(appended) => return appended,
            Err(_) => tracing::warn!(
                seconds = begun.elapsed().as_secs(),
                "the event log waits for its store: check the store and the network"
            ),
        }
    }
}

/// Commands that change nothing but when a worker was last heard: they can wait for the next look.
fn is_heartbeat(command: &Command) -> bool {
    matches!(command, Command::Worker(WorkerReport { report: Report::Heartbeat { .. }, .. }))
}

/// The name of a change without its content, which may be long: of that nothing is written.
fn kind(change: &cappa_core::Change) -> String {
    struct FirstWord(String);
    impl fmt::Write for FirstWord {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let word = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            self.0.push_str(word);
            if word.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
        }
    }
    let mut name = FirstWord(String::new());
    // It ends with an error where the word does.
    let _ = write!(name, "{change:?}");
    name.0
}

/// The URL of a job's folder.
pub(crate) fn job_folder(store: &str, job: &JobId) -> String {
    format!("{}/jobs/{job}", store.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_core::Change;

    #[test]
    fn a_change_is_named_without_its_content() {
        let reason = "a reason".to_owned();
        assert_eq!(kind(&Change::PauseRequested { reason }), "PauseRequested");
        assert_eq!(kind(&Change::Swept), "Swept");
    }
}
