//! Outstanding work on the store, each piece idempotent.

use std::time::Duration;

use cappa_core::{Command, Generation, JobId, Step, Work};
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::{CheckpointError, Contents, ManifestProblems};
use cappa_shared::storage::{self, StorageError};
use thiserror::Error;

use super::View;
use crate::checkpoints::{self, CommitError, Litter};

/// Attempts at writing a manifest before the checkpoint counts as failed, unless the job depends on it.
const COMMIT_ATTEMPTS: u32 = 6;

/// The longest that one piece may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A piece of work with all it needs.
#[derive(Debug)]
pub(crate) struct StorageWork {
    job: JobId,
    folder: String,
    task: Task,
}

#[derive(Debug)]
enum Task {
    Commit { step: Step, generation: Generation, contents: Box<Result<Contents, ManifestProblems>>, is_needed: bool },
    Delete { step: Step, generation: Generation },
    Abandon { after: Step, through: Generation },
    Sweep(Litter),
}

/// How an attempt at a piece of work went wrong.
#[derive(Debug, Error)]
enum WorkError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the store did not answer within {} s", LIMIT.as_secs())]
    Silent,
}

impl WorkError {
    /// Whether doing the same again can't help.
    fn is_final(&self) -> bool {
        let Self::Commit(error) = self else { return false };
        matches!(error, CommitError::Manifest(_) | CommitError::Checkpoint(CheckpointError::Conflict { .. }))
    }
}

impl StorageWork {
    /// The piece that `work` asks for; none when it asks for no storage work.
    pub(super) fn of(view: &View, work: &Work) -> Option<Self> {
        let job = work.in_store()?;
        let job = view.core.state().job(job)?;
        let task = match work {
            Work::CommitManifest { step, generation, .. } => {
                let attempt = job.committing.get(&(*step, *generation))?;
                let contents = Box::new(checkpoints::contents(job, *step, *generation, attempt));
                Task::Commit { step: *step, generation: *generation, contents, is_needed: job.depends_on(*step) }
            }
            Work::DeleteCheckpoint { step, generation, .. } => Task::Delete { step: *step, generation: *generation },
            Work::Abandon { after, through, .. } => Task::Abandon { after: *after, through: *through },
            _ => Task::Sweep(Litter::of(job)),
        };
        Some(Self { job: job.id.clone(), folder: job.submission.folder.clone(), task })
    }

    /// Does it for the `count`-th time and returns what to tell the loop; nothing when it is to
    /// be tried again.
    #[tracing::instrument(name = "storage_work", skip_all, fields(job = %self.job))]
    pub(super) async fn perform(self, count: u32) -> Option<Command> {
        let Self { job, folder, task } = self;
        let limited = tokio::time::timeout(LIMIT, task.perform(&folder));
        let Err(error) = limited.await.unwrap_or(Err(WorkError::Silent)) else {
            return Some(task.done(job));
        };
        let is_final = error.is_final();
        let error = with_causes(&error);
        tracing::warn!(%job, count, error, "storage work failed");
        match task {
            Task::Commit { step, generation, is_needed, .. } if is_final || !is_needed && count >= COMMIT_ATTEMPTS => {
                Some(Command::ManifestFailed { job, step, generation, error })
            }
            _ => None,
        }
    }
}

impl Task {
    async fn perform(&self, folder: &str) -> Result<(), WorkError> {
        let folder = storage::create(folder)?;
        match self {
            Self::Commit { contents, .. } => match contents.as_ref() {
                Ok(contents) => checkpoints::commit(&folder, contents.clone()).await?,
                Err(problems) => return Err(CommitError::from(problems.clone()).into()),
            },
            Self::Delete { step, generation } => checkpoints::delete(&folder, *step, *generation).await?,
            Self::Abandon { after, through } => checkpoints::abandon(&folder, *after, *through).await?,
            Self::Sweep(litter) => litter.sweep(&folder).await?,
        }
        Ok(())
    }

    fn done(self, job: JobId) -> Command {
        match self {
            Self::Commit { step, generation, .. } => Command::ManifestCommitted { job, step, generation },
            Self::Delete { step, generation } => Command::CheckpointDeleted { job, step, generation },
            Self::Abandon { through, .. } => Command::BranchAbandoned { job, through },
            Self::Sweep(_) => Command::Swept { job },
        }
    }
}

#[cfg(test)]
mod tests {
    use cappa_shared::checkpoint::{Part, part_name};
    use cappa_shared::ids::{self, Rank};
    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn a_manifest_that_the_job_depends_on_is_never_given_up() {
        let folder = tempfile::tempdir().unwrap();
        // A file where the folder should be: nothing can be written.
        std::fs::write(folder.path().join("checkpoints"), "").unwrap();
        let perform = async |is_needed, count| {
            let (step, generation) = (Step(100), Generation(1));
            let part = Part { name: part_name(Rank(0), 1), bytes: 1, sha256: "ab".repeat(32) };
            let contents = Contents {
                job: "demo-1".parse().unwrap(),
                step: ids::Step(100),
                generation: ids::Generation(1),
                world_size: 1,
                spec_digest: "ab".repeat(32),
                data_digest: "ab".repeat(32),
                parts: vec![part],
                quarantined: Vec::new(),
                created: Timestamp::UNIX_EPOCH,
                account: None,
            };
            let task = Task::Commit { step, generation, contents: Box::new(Ok(contents)), is_needed };
            let folder = folder.path().display().to_string();
            StorageWork { job: JobId::from("demo-1"), folder, task }.perform(count).await
        };
        assert_eq!(perform(false, COMMIT_ATTEMPTS - 1).await, None);
        let given_up = perform(false, COMMIT_ATTEMPTS).await;
        assert!(matches!(given_up, Some(Command::ManifestFailed { step: Step(100), .. })), "{given_up:?}");
        assert_eq!(perform(true, 1_000).await, None);
    }
}
