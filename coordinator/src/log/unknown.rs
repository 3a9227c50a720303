//! What the jobs' folders hold that a backup does not know: checkpoints that were committed since it was made, and files of groups
//! that came after its newest ones. The restored log learns of both, so that jobs go on from the newest checkpoint that there is,
//! and no group to come has the number, and with it the files, of one that there was.

use cappa_core::{Change, Ending, Generation, Job, Part, Phase, Quarantined, RankParts, Record, State, Step, Time};
use cappa_shared::checkpoint::{self, CHECKPOINTS, CheckpointError, Contents};
use cappa_shared::storage::{self, Location, StorageError};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::Recalled;

/// Folders that are looked at at once.
const LOOKS: usize = 16;

/// What a log has to learn of its jobs' folders, in the order of time.
///
/// # Errors
/// What a store answered.
pub(super) async fn unknown_to(recalled: Recalled) -> Result<Vec<Record>, CheckpointError> {
    let now = recalled.newest();
    let Recalled { common, jobs, entries, .. } = recalled;
    let state = State::of(jobs.into_iter().map(|saved| saved.job), common);
    let state = state.after(entries.iter().map(|entry| &entry.record));
    // Nothing more comes of a job that has succeeded.
    let jobs = state.jobs().filter(|job| !matches!(job.phase, Phase::Ended(Ending::Succeeded { .. })));
    let found = stream::iter(jobs).map(|job| of_job(job, now)).buffered(LOOKS).try_collect::<Vec<_>>().await?;
    let mut records: Vec<Record> = found.into_iter().flatten().collect();
    records.sort_by_key(|record| record.at);
    Ok(records)
}

async fn of_job(job: &Job, now: Time) -> Result<Vec<Record>, CheckpointError> {
    match look(job, now).await {
        // A bucket that is gone has nothing to tell.
        Err(CheckpointError::Storage(StorageError::NotFound { .. })) => Ok(Vec::new()),
        found => found,
    }
}

async fn look(job: &Job, now: Time) -> Result<Vec<Record>, CheckpointError> {
    let folder = storage::open(&job.submission.folder)?;
    let (mut records, mut at, mut known) = (Vec::new(), now, job.newest_generation());
    for contents in committed_since(job, &folder).await? {
        let (step, generation) = (Step(contents.step.0), Generation(contents.generation.0));
        at = at.max(Time(u64::try_from(contents.created.as_millisecond()).unwrap_or_default()));
        known = known.max(generation);
        let written = Change::CheckpointWritten { step, generation, ranks: vec![parts_of(contents)] };
        for change in [written, Change::CheckpointCommitted { step, generation }] {
            records.push(Record { at, job: Some(job.id.clone()), change });
        }
    }
    if let Some((generation, step)) = newest_attempt(&folder).await?.filter(|(newest, _)| *newest > known) {
        let error = format!("what generation {generation} wrote of it is newer than the backup that was restored");
        let change = Change::CheckpointFailed { step, generation, error };
        records.push(Record { at, job: Some(job.id.clone()), change });
    }
    Ok(records)
}

/// The checkpoints in the store that are newer than those that the job knows, oldest first. None of a job that is over, or with a
/// branch that is still to be moved aside.
async fn committed_since(job: &Job, folder: &Location) -> Result<Vec<Contents>, CheckpointError> {
    if job.has_ended() || job.abandoned.is_some() {
        return Ok(Vec::new());
    }
    let newest = job.newest_checkpoint().map(|checkpoint| checkpoint.step.0);
    let mut found = Vec::new();
    for step in checkpoint::committed(folder).await?.into_iter().rev().filter(|step| Some(step.0) > newest) {
        match checkpoint::load(folder, step).await {
            Ok(manifest) if job.gave_up(Generation(manifest.contents().generation.0)) => {}
            Ok(manifest) => found.push(manifest.contents().clone()),
            Err(CheckpointError::Manifest { url, source }) => {
                tracing::warn!(%url, error = %source, "a damaged checkpoint is passed over");
            }
            Err(CheckpointError::Void { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// All parts in one: which rank wrote what matters to nobody once they are committed.
fn parts_of(contents: Contents) -> RankParts {
    let parts = contents.parts.into_iter().map(|part| Part { name: part.name, bytes: part.bytes, sha256: part.sha256 });
    let quarantined = contents.quarantined.into_iter().map(|sample| Quarantined {
        shard: sample.shard,
        index: sample.index,
        key: sample.key,
        reason: sample.reason,
    });
    RankParts { parts: parts.collect(), quarantined: quarantined.collect() }
}

/// The newest generation with files in the folder, and a step of which it has some.
async fn newest_attempt(folder: &Location) -> Result<Option<(Generation, Step)>, StorageError> {
    let attempt = |path: &str| {
        let mut names = path.split('/');
        let (step, generation) = (names.next()?.parse().ok()?, names.next()?.parse().ok()?);
        names.next().map(|_| (Generation(generation), Step(step)))
    };
    let files = folder.list(CHECKPOINTS).await?;
    Ok(files.iter().filter_map(|file| attempt(&file.path)).max())
}
