//! A job's checkpoints in its folder: the manifest of a complete attempt, and what is cleared away.

use std::collections::HashSet;

use cappa_core::{Attempt, Branch, Generation, Job, Step};
use cappa_shared::checkpoint::{
    self, Account, CHECKPOINTS, CheckpointError, CheckpointManifest, Contents, FormedGroup, ManifestProblems,
    OrderRecord, Previous, Rewind, kept_rewinds, lineage,
};
use cappa_shared::ids;
use cappa_shared::spec::JobSpec;
use cappa_shared::storage::{Location, StorageError};
use jiff::Timestamp;
use thiserror::Error;

use crate::history::unix_ms;

/// The manifest of a step's checkpoint, in the job's folder.
pub(crate) fn manifest_path(step: Step) -> String {
    checkpoint::manifest_path(ids::Step(step.0))
}

fn attempt_folder(step: Step, generation: Generation) -> String {
    checkpoint::attempt_folder(ids::Step(step.0), ids::Generation(generation.0))
}

/// What the manifest of a complete attempt says. The digest of the previous one, which lies in the store, is still to be
/// filled in.
///
/// # Errors
/// What is wrong with the parts that the workers reported.
pub(crate) fn contents(
    job: &Job,
    step: Step,
    generation: Generation,
    attempt: &Attempt,
) -> Result<Contents, ManifestProblems> {
    let problem = |error: String| ManifestProblems(vec![error]);
    let parts = attempt.ranks.iter().flat_map(|rank| &rank.parts);
    let quarantined = attempt.ranks.iter().flat_map(|rank| &rank.quarantined);
    let mut quarantined: Vec<_> = quarantined.map(quarantined_sample).collect();
    // Ranks that took over lanes repeat what their predecessors found.
    quarantined.sort();
    quarantined.dedup();
    Ok(Contents {
        job: job.id.as_str().parse().map_err(|error: ids::InvalidName| problem(error.to_string()))?,
        step: ids::Step(step.0),
        generation: ids::Generation(generation.0),
        world_size: u32::try_from(attempt.ranks.len()).map_err(|error| problem(error.to_string()))?,
        spec_digest: job.submission.spec_digest.clone(),
        data_digest: job.submission.data_digest.clone(),
        parts: parts.map(part).collect(),
        quarantined,
        created: Timestamp::from_millisecond(unix_ms(attempt.written_at))
            .map_err(|error| problem(error.to_string()))?,
        account: Some(account(job, step, generation).map_err(problem)?),
    })
}

/// How the run came to the step.
fn account(job: &Job, step: Step, generation: Generation) -> Result<Account, String> {
    let spec: JobSpec = serde_json::from_str(&job.submission.spec_json).map_err(|error| error.to_string())?;
    let before = job.checkpoints.iter().rev().find(|checkpoint| checkpoint.step < step);
    let formed = job.groups.iter().map(|group| FormedGroup {
        generation: ids::Generation(group.generation.0),
        world_size: group.world_size,
        first: ids::Step(group.step.0),
    });
    let first = before.map_or(ids::Step(0), |checkpoint| ids::Step(checkpoint.step.0));
    let formed: Vec<FormedGroup> = formed.collect();
    let groups = lineage(&formed, ids::Generation(generation.0), first, ids::Step(step.0));
    let rewinds = job.rewinds.iter().map(|rewind| Rewind {
        step: ids::Step(rewind.step.0),
        to: ids::Step(rewind.to.0),
        generation: ids::Generation(rewind.generation.0),
    });
    Ok(Account {
        order: OrderRecord::new(&spec.data, spec.batch_size).map_err(|error| error.to_string())?,
        previous: before.map(|checkpoint| Previous {
            step: ids::Step(checkpoint.step.0),
            generation: ids::Generation(checkpoint.generation.0),
            sha256: None,
        }),
        rewinds: kept_rewinds(&rewinds.collect::<Vec<_>>(), &groups),
        groups,
    })
}

/// Fills in the digest of the manifest that the account names, and commits.
pub(crate) async fn commit(folder: &Location, mut contents: Contents) -> Result<(), CommitError> {
    if let Some(previous) = contents.account.as_mut().and_then(|account| account.previous.as_mut()) {
        previous.sha256 = match checkpoint::load_any(folder, previous.step).await {
            Ok(manifest) => Some(manifest.digest().to_owned()),
            // The account says that it could not be read, and an audit will.
            Err(CheckpointError::Manifest { .. }) => None,
            Err(CheckpointError::Storage(StorageError::NotFound { .. })) => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(checkpoint::commit(folder, &CheckpointManifest::new(contents)?).await?)
}

/// Why a manifest is not committed.
#[derive(Debug, Error)]
pub(crate) enum CommitError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Manifest(#[from] ManifestProblems),
}

fn part(part: &cappa_core::Part) -> checkpoint::Part {
    checkpoint::Part { name: part.name.clone(), bytes: part.bytes, sha256: part.sha256.clone() }
}

fn quarantined_sample(sample: &cappa_core::Quarantined) -> checkpoint::Quarantined {
    checkpoint::Quarantined {
        shard: sample.shard.clone(),
        index: sample.index,
        key: sample.key.clone(),
        reason: sample.reason.clone(),
    }
}

/// Deletes a checkpoint, the manifest first: a checkpoint without one does not exist. What the manifest said stays for audits.
pub(crate) async fn delete(folder: &Location, step: Step, generation: Generation) -> Result<(), StorageError> {
    checkpoint::retire(folder, ids::Step(step.0)).await?;
    delete_attempt(folder, step, generation).await
}

/// Moves aside what was committed after a step on a branch that was given up, and deletes its parts.
pub(crate) async fn abandon(folder: &Location, after: Step, through: Generation) -> Result<(), StorageError> {
    checkpoint::abandon(folder, ids::Step(after.0), ids::Generation(through.0)).await?;
    for (step, attempts) in attempts(folder).await?.into_iter().filter(|(step, _)| *step > after) {
        for generation in attempts.into_iter().filter(|generation| *generation <= through) {
            delete_attempt(folder, step, generation).await?;
        }
    }
    Ok(())
}

async fn delete_attempt(folder: &Location, step: Step, generation: Generation) -> Result<(), StorageError> {
    let attempt = attempt_folder(step, generation);
    for part in folder.list(&attempt).await? {
        folder.delete(&format!("{attempt}/{}", part.path)).await?;
    }
    Ok(())
}

/// Which attempts of a job may be cleared away: those of groups that are over and that came to nothing.
#[derive(Debug)]
pub(crate) struct Litter {
    kept: HashSet<(Step, Generation)>,
    active: Option<Generation>,
    given_up: Option<Branch>,
}

impl Litter {
    /// The litter of a job as it is now. What retention gave up has its own way out.
    pub(crate) fn of(job: &Job) -> Self {
        let checkpoints = job.checkpoints.iter().chain(&job.retired);
        let checkpoints = checkpoints.map(|checkpoint| (checkpoint.step, checkpoint.generation));
        let kept = checkpoints.chain(job.committing.keys().copied()).collect();
        Self { kept, active: job.group().map(|group| group.generation), given_up: job.rolled_back }
    }

    fn contains(&self, step: Step, generation: Generation) -> bool {
        let is_over = self.active.is_none_or(|active| generation < active);
        is_over && !self.kept.contains(&(step, generation))
    }

    fn was_given_up(&self, step: Step, generation: Generation) -> bool {
        self.given_up.is_some_and(|branch| step > branch.after && generation <= branch.through)
    }

    /// Deletes it. The store has the last word on what is committed: after the restore of a backup it knows more than the log.
    pub(crate) async fn sweep(&self, folder: &Location) -> Result<(), StorageError> {
        for (step, mut attempts) in attempts(folder).await? {
            attempts.retain(|generation| self.contains(step, *generation));
            if attempts.is_empty() {
                continue;
            }
            match checkpoint::load(folder, ids::Step(step.0)).await {
                Ok(manifest) => {
                    let committed = Generation(manifest.contents().generation.0);
                    attempts.retain(|generation| *generation != committed || self.was_given_up(step, committed));
                }
                // Which attempt it names can't be read any more.
                Err(CheckpointError::Manifest { .. }) => continue,
                Err(CheckpointError::Storage(error)) if !matches!(error, StorageError::NotFound { .. }) => {
                    return Err(error);
                }
                Err(_) => {}
            }
            for generation in attempts {
                delete_attempt(folder, step, generation).await?;
            }
        }
        Ok(())
    }
}

/// The attempts that have files in the store, by step.
async fn attempts(folder: &Location) -> Result<Vec<(Step, Vec<Generation>)>, StorageError> {
    let mut all = Vec::new();
    for step in numbers(folder.folders(CHECKPOINTS).await?).map(Step) {
        let of_step = folder.folders(&checkpoint::step_folder(ids::Step(step.0))).await?;
        all.push((step, numbers(of_step).map(Generation).collect()));
    }
    Ok(all)
}

/// Names that are numbers; other folders are not ours.
fn numbers(names: Vec<String>) -> impl Iterator<Item = u64> {
    names.into_iter().filter_map(|name| name.parse().ok())
}

#[cfg(test)]
mod tests;
