//! When the log is condensed into a snapshot, and with what.

use std::collections::HashSet;

use cappa_core::{JobId, Time};
use tokio::task::JoinHandle;

use super::View;
use crate::log::{Entry, LogError, SavedJob, Snapshot};

/// A snapshot follows so many entries at the earliest.
const SHORTEST: u64 = 512;

/// A snapshot writes so many events of jobs' histories per entry at most: jobs with long histories are written more seldom.
const EVENTS_PER_ENTRY: u64 = 8;

/// Entries after which a start condenses before it serves.
const LONG: u64 = 10_000;

/// What has changed since the last snapshot.
#[derive(Debug)]
pub(super) struct Condenser {
    /// The newest entry that a written snapshot covers, or that the one being written will.
    through: u64,
    /// The newest entry, and its time.
    last: (u64, Time),
    changed: HashSet<JobId>,
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    through: u64,
    jobs: HashSet<JobId>,
    before: u64,
    task: JoinHandle<Result<(), LogError>>,
}

impl Condenser {
    /// Nothing has changed since the snapshot up to this entry.
    pub(super) fn starting_at(through: u64, at: Time) -> Self {
        Self { through, last: (through, at), changed: HashSet::new(), writing: None }
    }

    /// An entry is durable and folded in.
    pub(super) fn appended(&mut self, entry: &Entry) {
        self.last = (entry.sequence, entry.record.at);
        self.changed.extend(entry.record.job.clone());
    }

    /// The number of the newest entry.
    #[cfg(test)]
    pub(super) fn newest(&self) -> u64 {
        self.last.0
    }

    /// A snapshot, if the entries since the last one are many beside what it writes and none is being written.
    pub(super) fn if_worth_it(&self, view: &View) -> Option<Snapshot> {
        let entries = self.last.0 - self.through;
        if self.writing.is_some() || entries < SHORTEST {
            return None;
        }
        let events = |job: &JobId| view.history.job(job).map_or(0, |history| history.events.len() as u64);
        let written: u64 = self.changed.iter().map(events).sum();
        (entries * EVENTS_PER_ENTRY >= written).then(|| self.snapshot(view))
    }

    /// A snapshot, if a start had to read many entries.
    pub(super) fn if_long(&self, view: &View) -> Option<Snapshot> {
        (self.last.0 - self.through >= LONG).then(|| self.snapshot(view))
    }

    /// All that has changed, as of the newest entry.
    pub(super) fn snapshot(&self, view: &View) -> Snapshot {
        let saved = |id: &JobId| {
            let (job, history) = (view.core.state().job(id)?, view.history.job(id)?);
            Some(SavedJob { job: job.clone(), history: history.clone() })
        };
        Snapshot {
            through: self.last.0,
            at: self.last.1,
            common: view.core.state().common(),
            jobs: self.changed.iter().filter_map(saved).collect(),
        }
    }

    /// A snapshot up to the newest entry is being written.
    pub(super) fn writes(&mut self, through: u64, task: JoinHandle<Result<(), LogError>>) {
        let jobs = std::mem::take(&mut self.changed);
        let before = std::mem::replace(&mut self.through, through);
        self.writing = Some(Writing { through, jobs, before, task });
    }

    /// A snapshot up to the newest entry is written.
    pub(super) fn done(&mut self, through: u64) {
        self.through = through;
        self.changed.clear();
    }

    /// The entry up to which a snapshot is written, if one just was. One that failed is made up for by the next.
    ///
    /// # Errors
    /// [`LogError::Fenced`]: nothing else that a snapshot meets is worth ending for.
    pub(super) async fn written(&mut self) -> Result<Option<u64>, LogError> {
        let Some(writing) = self.writing.take_if(|writing| writing.task.is_finished()) else { return Ok(None) };
        let Writing { through, jobs, before, task } = writing;
        match task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(()) => Ok(Some(through)),
            Err(LogError::Fenced) => Err(LogError::Fenced),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the event log can't be condensed; tried again"
                );
                self.changed.extend(jobs);
                self.through = before;
                Ok(None)
            }
        }
    }

    /// Waits for the snapshot that is being written, if one is: the log is about to be closed.
    pub(super) async fn finish(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Ok(Err(error)) = writing.task.await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the event log was not condensed before the end");
        }
    }
}
