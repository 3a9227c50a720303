//! The checkpoint of the step at which a group has done its work. Without it the job is neither over nor stopped: what its
//! members hold may be the only copy. A member tells of its part before it says that it is done, and again on every new stream.

use super::{At, group};
use crate::core::Core;
use crate::ids::{Generation, JobId, Rank, Step, WorkerId};
use crate::job::{Group, Job, Member};
use crate::record::{BreakCause, Change, Event};

/// How the failure is classed when forming again does not help.
const UNSAVED: &str = "STORE_UNREACHABLE";

/// Whether the group can do without a member: it has done its work, and its part of the last checkpoint was reported.
pub(super) fn can_spare(core: &Core, job: &Job, group: &Group, member: &Member) -> bool {
    group.completed.contains_key(&member.worker) && has_part(core, job, group, &member.worker, group.completed_step)
}

/// Whether a member's part of a step's checkpoint was reported to this process, or the whole of it is on its way or there.
fn has_part(core: &Core, job: &Job, group: &Group, worker: &WorkerId, step: Step) -> bool {
    let is_reported = || {
        let gathering = core.presence().gathering(&(job.id.clone(), step, group.generation));
        gathering.zip(group.member(worker)).is_some_and(|(gathering, (rank, _))| gathering.ranks.contains_key(&rank))
    };
    step <= job.restore_step() || job.committing.keys().any(|(committing, _)| *committing == step) || is_reported()
}

/// A member says that it is done, but its part of the last checkpoint came to nothing: the group forms again, with what its members
/// hold, and saves that.
pub(super) fn without_part(
    core: &Core,
    at: At,
    worker: &WorkerId,
    (id, generation): (&JobId, Generation),
    step: Step,
) -> Option<Event> {
    let job = core.state().job(id)?;
    let group = job.group().filter(|group| group.generation == generation && !group.is_breaking())?;
    let (rank, _) = group.member(worker)?;
    if job.gave_up(generation) || has_part(core, job, group, worker, step) {
        return None;
    }
    let message = format!("its part of the last checkpoint, of step {step}, could not be written");
    let step = step.max(group::heard_step(core, id, group));
    Some(at.record(id, broken(group, rank, worker, message, step)))
}

/// The manifest of the last checkpoint can't be committed: likewise.
pub(super) fn without_manifest(job: &Job, step: Step, error: &str) -> Option<Change> {
    let group = job.group().filter(|group| group.completed_step == step && !group.is_breaking())?;
    let first = group.members.first()?;
    job.unsaved().map(|_| broken(group, Rank(0), &first.worker, error.to_owned(), step))
}

fn broken(group: &Group, rank: Rank, worker: &WorkerId, message: String, step: Step) -> Change {
    let (worker, code) = (worker.clone(), UNSAVED.to_owned());
    Change::GroupBroken {
        generation: group.generation,
        cause: BreakCause::Failure { rank, worker, code, message },
        step,
    }
}
