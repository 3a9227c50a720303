//! What people ask of a job's checkpoints: to keep one, and to go back to one.

use super::people::find;
use super::{At, checkpoint, group};
use crate::core::{Core, Refusal};
use crate::ids::{Generation, JobId, Step};
use crate::job::{Branch, Checkpoint, Ending, Job, Phase};
use crate::record::{BreakCause, Change, Event};

type Decision = Result<Vec<Event>, Refusal>;

pub(super) fn pin(core: &Core, at: At, id: &JobId, step: Step, reason: &str) -> Decision {
    let Checkpoint { generation, pin, .. } = kept(find(core, id)?, step)?;
    let (generation, reason) = (*generation, reason.to_owned());
    let pinned = pin.is_none().then(|| at.record(id, Change::CheckpointPinned { step, generation, reason }));
    Ok(pinned.into_iter().collect())
}

/// The checkpoint is left to retention again, which may give it up at once.
pub(super) fn unpin(core: &Core, at: At, id: &JobId, step: Step, reason: &str) -> Decision {
    let job = find(core, id)?;
    let Checkpoint { generation, pin, .. } = kept(job, step)?;
    if pin.is_none() {
        return Ok(Vec::new());
    }
    let (generation, reason) = (*generation, reason.to_owned());
    let unpinned = at.record(id, Change::CheckpointUnpinned { step, generation, reason });
    Ok(std::iter::once(unpinned).chain(checkpoint::retire(at, job, (step, generation))).collect())
}

/// The job goes back to a checkpoint: its group breaks up, what workers hold and what was committed since is given up.
/// A job that has failed or was cancelled may go back as well, and waits to be requeued.
pub(super) fn roll_back(core: &Core, at: At, id: &JobId, to: Step, reason: &str) -> Decision {
    let job = find(core, id)?;
    if matches!(job.phase, Phase::Ended(Ending::Succeeded { .. })) {
        return Err(Refusal::Ended(id.clone()));
    }
    kept(job, to)?;
    if let Some(pinned) = job.checkpoints.iter().find(|checkpoint| checkpoint.step > to && checkpoint.pin.is_some()) {
        return Err(Refusal::Pinned { job: id.clone(), step: pinned.step });
    }
    // Its manifest may be on its way to the store, and could not be called back.
    if !job.committing.is_empty() {
        return Err(Refusal::StillCommitting(id.clone()));
    }
    // It is back there already, and nothing was made since.
    let generation = job.newest_generation();
    if job.rolled_back == Some(Branch { after: to, through: generation }) {
        return Ok(Vec::new());
    }
    let broken = job.group().filter(|group| !group.is_breaking()).map(|group| Change::GroupBroken {
        generation: group.generation,
        cause: BreakCause::Rollback { to },
        step: group::heard_step(core, id, group),
    });
    let reason = reason.to_owned();
    let changes = broken.into_iter().chain([Change::RolledBack { step: to, generation, reason }]);
    let gatherings = core.presence().gatherings().filter(|((of, ..), _)| of == id);
    let ended = gatherings.map(|((_, step, generation), _)| checkpoint::end_gathering(at, id, *step, *generation));
    Ok(changes.map(|change| at.record(id, change)).chain(ended).collect())
}

pub(super) fn abandoned(core: &Core, at: At, id: &JobId, through: Generation) -> Decision {
    match core.state().job(id).and_then(|job| job.abandoned) {
        Some(abandoned) if abandoned.through == through => {
            Ok(vec![at.record(id, Change::BranchAbandoned { generation: through })])
        }
        _ => Err(Refusal::NotOutstanding),
    }
}

fn kept(job: &Job, step: Step) -> Result<&Checkpoint, Refusal> {
    job.checkpoint(step).ok_or_else(|| Refusal::UnknownCheckpoint {
        job: job.id.clone(),
        step,
        kept: job.checkpoints.iter().map(|checkpoint| checkpoint.step).collect(),
    })
}
