//! Committing, finding and verifying checkpoints in a job's folder.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::manifest::{CheckpointManifest, ManifestProblems, Part};
use super::{
    CHECKPOINTS, abandoned_at, abandoned_path, abandoned_through, manifest_path, retired_path, step_folder,
    step_of_any, step_of_manifest,
};
use crate::code::Code;
use crate::ids::{Generation, Step};
use crate::storage::{Entry, Location, StorageError};

/// Manifests that are read at once.
const LOADS: usize = 16;

/// Parts that are examined at once; each is in memory meanwhile.
const EXAMINED: usize = 4;

/// Why a checkpoint can't be committed or used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The store failed.
    #[error("the store of the checkpoints failed")]
    Storage(#[from] StorageError),
    /// What is at the manifest's place is none.
    #[error("{url} is damaged; go back to an older checkpoint")]
    Manifest {
        /// The manifest.
        url: String,
        /// What is wrong with it.
        source: ManifestProblems,
    },
    /// A part is not what the manifest says.
    #[error("{url} is damaged: {reason}; go back to an older checkpoint")]
    Part {
        /// The part.
        url: String,
        /// What differs.
        reason: String,
    },
    /// A coordinator whose time was over has written it after the job went back beyond it.
    #[error(
        "{url} is void: what groups up to generation {through} made of it was given up; go back to an older checkpoint"
    )]
    Void {
        /// The manifest.
        url: String,
        /// The newest generation whose work was given up.
        through: Generation,
    },
    /// Another checkpoint of the same step is committed.
    #[error("{url} is committed already, with other contents; it stays as it is")]
    Conflict {
        /// The manifest.
        url: String,
    },
}

impl CheckpointError {
    /// The code that people look up.
    pub fn code(&self) -> Code {
        match self {
            Self::Storage(error) => error.code(),
            Self::Manifest { .. } | Self::Part { .. } | Self::Void { .. } => Code::CheckpointDamaged,
            Self::Conflict { .. } => Code::AlreadyExists,
        }
    }
}

/// Commits a checkpoint whose parts are written. Committing the same one again is no error, so a coordinator that died in
/// between may repeat it. A void manifest in its place is cleared away.
///
/// # Errors
/// [`CheckpointError::Conflict`] when another one is committed for the step, or what the store answered.
pub async fn commit(folder: &Location, manifest: &CheckpointManifest) -> Result<(), CheckpointError> {
    let step = manifest.contents().step;
    let path = manifest_path(step);
    let url = match folder.put_if_absent(&path, manifest.to_json()).await {
        Ok(()) => return Ok(()),
        Err(StorageError::AlreadyExists { url, .. }) => url,
        Err(error) => return Err(error.into()),
    };
    match load(folder, step).await {
        Ok(there) if there.is_same_checkpoint(manifest) => Ok(()),
        Err(CheckpointError::Void { through, .. }) if manifest.contents().generation > through => {
            folder.delete(&path).await?;
            match folder.put_if_absent(&path, manifest.to_json()).await {
                Err(StorageError::AlreadyExists { .. }) => Err(CheckpointError::Conflict { url }),
                written => Ok(written?),
            }
        }
        _ => Err(CheckpointError::Conflict { url }),
    }
}

/// Takes back a commit: the checkpoint exists no more, and what its manifest said stays for audits. Doing it again is no error.
///
/// # Errors
/// What the store answered.
pub async fn retire(folder: &Location, step: Step) -> Result<(), StorageError> {
    let document = match folder.get(&manifest_path(step)).await {
        Err(StorageError::NotFound { .. }) => return Ok(()),
        document => document?,
    };
    match folder.put_if_absent(&retired_path(step), document).await {
        Ok(()) | Err(StorageError::AlreadyExists { .. }) => folder.delete(&manifest_path(step)).await,
        Err(error) => Err(error),
    }
}

/// Takes the checkpoints after a step out of the chain, retired ones as well: the job went back to that step. What groups after
/// generation `through` committed stays as it is. The newest goes first, so that the chain is whole at any moment. Doing it
/// again is no error.
///
/// # Errors
/// What the store answered.
pub async fn abandon(folder: &Location, after: Step, through: Generation) -> Result<(), StorageError> {
    let entries = folder.list(CHECKPOINTS).await?;
    let steps: BTreeSet<Step> = entries.iter().filter_map(|entry| step_of_any(&entry.path)).collect();
    for step in steps.into_iter().rev().filter(|step| *step > after) {
        for path in [manifest_path(step), retired_path(step)] {
            let document = match folder.get(&path).await {
                Err(StorageError::NotFound { .. }) => continue,
                document => document?,
            };
            let manifest = CheckpointManifest::from_json(&document);
            if manifest.is_ok_and(|manifest| manifest.contents().generation > through) {
                continue;
            }
            match folder.put_if_absent(&abandoned_path(step, through), document).await {
                Ok(()) | Err(StorageError::AlreadyExists { .. }) => folder.delete(&path).await?,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Every manifest that was ever committed on the way to the newest, oldest first, whether its checkpoint still exists or not; and what is wrong with
/// those that can't be read.
///
/// # Errors
/// What the store answered.
pub async fn history(folder: &Location) -> Result<(Vec<CheckpointManifest>, Vec<String>), CheckpointError> {
    let entries = folder.list(CHECKPOINTS).await?;
    let steps: BTreeSet<Step> = entries.iter().filter_map(|entry| step_of_any(&entry.path)).collect();
    let given_up = given_up(&entries);
    let loads = futures::stream::iter(steps);
    let loads = loads.map(|step| load_any_within(folder, step, given_up.get(&step).copied())).buffered(LOADS);
    let (mut manifests, mut problems) = (Vec::new(), Vec::new());
    for loaded in loads.collect::<Vec<_>>().await {
        match loaded {
            Ok(manifest) => manifests.push(manifest),
            // What was void stands in nobody's place.
            Err(CheckpointError::Storage(StorageError::NotFound { .. })) => {}
            Err(CheckpointError::Manifest { url, source }) => problems.push(format!("{url}: {source}")),
            Err(error) => return Err(error),
        }
    }
    Ok((manifests, problems))
}

/// As [`load`], also of a step whose checkpoint was retired.
///
/// # Errors
/// As [`load`].
pub async fn load_any(folder: &Location, step: Step) -> Result<CheckpointManifest, CheckpointError> {
    load_any_within(folder, step, given_up_of(folder, step).await?).await
}

async fn load_any_within(
    folder: &Location,
    step: Step,
    given_up: Option<Generation>,
) -> Result<CheckpointManifest, CheckpointError> {
    match load_within(folder, step, given_up).await {
        Err(CheckpointError::Storage(StorageError::NotFound { .. }) | CheckpointError::Void { .. }) => {
            load_at(folder, &retired_path(step), step).await
        }
        loaded => loaded,
    }
}

/// Up to which generation the work on each step was given up, if it was, by what lies in [`CHECKPOINTS`].
fn given_up(entries: &[Entry]) -> BTreeMap<Step, Generation> {
    let mut newest = BTreeMap::new();
    for (step, through) in entries.iter().filter_map(|entry| abandoned_at(&entry.path)) {
        let of_step = newest.entry(step).or_insert(through);
        *of_step = through.max(*of_step);
    }
    newest
}

/// The same of one step.
async fn given_up_of(folder: &Location, step: Step) -> Result<Option<Generation>, StorageError> {
    let beside = folder.list(&step_folder(step)).await?;
    Ok(beside.iter().filter_map(|entry| abandoned_through(&entry.path)).max())
}

/// The steps with a committed checkpoint, newest first.
///
/// # Errors
/// What the store answered.
pub async fn committed(folder: &Location) -> Result<Vec<Step>, CheckpointError> {
    let entries = folder.list(CHECKPOINTS).await?;
    let mut steps: Vec<Step> = entries.iter().filter_map(|entry| step_of_manifest(&entry.path)).collect();
    for (step, through) in given_up(&entries) {
        if !steps.contains(&step) {
            continue;
        }
        match load_within(folder, step, Some(through)).await {
            Err(CheckpointError::Void { .. }) => steps.retain(|committed| *committed != step),
            // Nobody can tell whether it is void.
            Err(CheckpointError::Storage(error)) if error.is_transient() => return Err(error.into()),
            _ => {}
        }
    }
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

/// The committed manifest of a step.
///
/// # Errors
/// [`CheckpointError::Manifest`] for a damaged one, [`CheckpointError::Void`] for one that was written after the work of its
/// group was given up, or what the store answered.
pub async fn load(folder: &Location, step: Step) -> Result<CheckpointManifest, CheckpointError> {
    load_within(folder, step, given_up_of(folder, step).await?).await
}

/// The same where it is known up to which generation the work on the step was given up.
async fn load_within(
    folder: &Location,
    step: Step,
    given_up: Option<Generation>,
) -> Result<CheckpointManifest, CheckpointError> {
    let path = manifest_path(step);
    let manifest = load_at(folder, &path, step).await?;
    match given_up.filter(|through| manifest.contents().generation <= *through) {
        Some(through) => Err(CheckpointError::Void { url: format!("{folder}/{path}"), through }),
        None => Ok(manifest),
    }
}

async fn load_at(folder: &Location, path: &str, step: Step) -> Result<CheckpointManifest, CheckpointError> {
    let document = folder.get(path).await?;
    let parsed = CheckpointManifest::from_json(&document).and_then(|manifest| {
        let is_here = manifest.contents().step == step;
        let problem = || ManifestProblems(vec![format!("it is of step {}", manifest.contents().step)]);
        if is_here { Ok(()) } else { Err(problem()) }.map(|()| manifest)
    });
    parsed.map_err(|source| CheckpointError::Manifest { url: format!("{folder}/{path}"), source })
}

/// The newest committed manifest that is intact, if any. Its parts are not looked at; see [`examine`] and [`read_part`].
///
/// # Errors
/// What the store answered. Damaged manifests are passed over, with a warning in the log.
pub async fn newest(folder: &Location) -> Result<Option<CheckpointManifest>, CheckpointError> {
    for step in committed(folder).await? {
        match load(folder, step).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(CheckpointError::Manifest { url, source }) => {
                tracing::warn!(%url, error = %source, "a damaged checkpoint is passed over");
            }
            // It was written since it was looked for.
            Err(CheckpointError::Void { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A part's content, checked against the manifest.
///
/// # Errors
/// [`CheckpointError::Part`] when it is absent, or not what the manifest says; or what the store answered.
pub async fn read_part(
    folder: &Location,
    manifest: &CheckpointManifest,
    part: &Part,
) -> Result<Bytes, CheckpointError> {
    let path = manifest.part_path(part);
    let damaged = |reason| CheckpointError::Part { url: format!("{folder}/{path}"), reason };
    let content = match folder.get_large(&path).await {
        Err(StorageError::NotFound { .. }) => return Err(damaged("it is absent".into())),
        content => content?,
    };
    if content.len() as u64 != part.bytes {
        return Err(damaged(format!("it has {} bytes, not {}", content.len(), part.bytes)));
    }
    let sha256 = hex::encode(Sha256::digest(&content));
    if sha256 != part.sha256 {
        return Err(damaged(format!("its SHA-256 is {sha256}, not {}", part.sha256)));
    }
    Ok(content)
}

/// Reads all parts of a checkpoint and checks them against its manifest. Returns what is wrong, part by part: nothing for one
/// that is intact.
///
/// # Errors
/// What the store answered, where that says nothing about the part.
pub async fn examine(
    folder: &Location,
    manifest: &CheckpointManifest,
) -> Result<Vec<CheckpointError>, CheckpointError> {
    let parts = futures::stream::iter(&manifest.contents().parts);
    let mut read = parts.map(|part| read_part(folder, manifest, part)).buffered(EXAMINED);
    let mut damage = Vec::new();
    while let Some(part) = read.next().await {
        match part {
            Ok(_) => {}
            Err(error @ CheckpointError::Part { .. }) => damage.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(damage)
}
