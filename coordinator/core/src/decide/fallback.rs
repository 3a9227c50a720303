//! A group that was to begin from the newest checkpoint and found it damaged. Its members have read the newest that all of them could, and
//! leave with that.
//!
//! The job goes back there, as if someone had asked for that: else what the next groups commit on the way to the damaged checkpoint
//! would be of no use to anybody.

use super::{At, checkpoint, gang};
use crate::command::Failure;
use crate::core::Core;
use crate::ids::{Step, WorkerId};
use crate::job::{Checkpoint, Group, Job};
use crate::record::{BreakCause, CHECKPOINT_DAMAGED, Change, Event};

/// What follows when a member leaves with this failure and the state of this step; nothing where it is no fallback that the job
/// can go back with.
pub(super) fn of(
    core: &Core,
    at: At,
    (job, group): (&Job, &Group),
    worker: &WorkerId,
    step: Step,
    failure: &Failure,
) -> Vec<Event> {
    let is_fallback = failure.code == CHECKPOINT_DAMAGED && !failure.permanent && is_from_older(job, group, step);
    let Some((rank, _)) = group.member(worker).filter(|_| is_fallback) else { return Vec::new() };
    let Failure { code, message, .. } = failure.clone();
    let cause = BreakCause::Failure { rank, worker: worker.clone(), code, message };
    let mut changes = vec![Change::GroupBroken { generation: group.generation, cause, step }];
    // Who holds something newer than the damaged ones needs none of them.
    let mut workers = core.presence().workers();
    if !workers.any(|(worker, _)| gang::holds_useful_state(core, job, worker)) {
        changes.extend(go_back(job, step));
    }
    let gatherings = core.presence().gatherings().filter(|((of, ..), _)| *of == job.id);
    let ended = gatherings.map(|((_, step, generation), _)| checkpoint::end_gathering(at, &job.id, *step, *generation));
    changes.into_iter().map(|change| at.record(&job.id, change)).chain(ended).collect()
}

/// Whether the group was to begin from a newer checkpoint than that of this step, and the job can go back to it now.
fn is_from_older(job: &Job, group: &Group, step: Step) -> bool {
    let is_from_storage = group.members.iter().all(|member| !member.has_state);
    // A manifest that is on its way to the store could not be called back.
    let may_go_back = !group.is_breaking() && job.committing.is_empty();
    is_from_storage && may_go_back && step < group.step && job.checkpoint(step).is_some()
}

/// Gives up what came after the checkpoint of a step, pinned or not.
fn go_back(job: &Job, step: Step) -> impl Iterator<Item = Change> {
    let damaged: Vec<&Checkpoint> = job.checkpoints.iter().filter(|checkpoint| checkpoint.step > step).collect();
    let steps: Vec<String> = damaged.iter().map(|checkpoint| checkpoint.step.to_string()).collect();
    let reason = format!("damaged checkpoints: {}", steps.join(", "));
    let back = Change::RolledBack { step, generation: job.generation, reason };
    let pinned = damaged.into_iter().filter(|checkpoint| checkpoint.pin.is_some());
    let unpinned = pinned.map(|&Checkpoint { step, generation, .. }| {
        let reason = "it is damaged".to_owned();
        Change::CheckpointUnpinned { step, generation, reason }
    });
    unpinned.chain([back])
}
