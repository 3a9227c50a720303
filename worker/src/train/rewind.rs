//! Going back to an earlier state inside the group: every member reads the same checkpoint, and nobody overwrites anything before all
//! have read it.

use std::time::{Duration, Instant};

use cappa_collective::Op;
use cappa_data::patience::Patience;
use cappa_session::Assignment;
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::{committed, manifest_path};
use cappa_shared::ids::Step;
use cappa_shared::storage::{self, Location};
use tch::{Device, Tensor};

use super::group::Place;
use super::outcome::Departure;
use super::state::TrainState;
use crate::checkpoint::{CheckpointError, Restore, from_store};
use crate::context::Context;

/// How long a checkpoint is waited for that the schedule has had made, and how often the store is asked for it.
const COMMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// An earlier state.
pub(super) struct Earlier {
    /// Its step.
    pub step: Step,
    /// Its tensors, by name.
    pub tensors: Vec<(String, Tensor)>,
}

impl Place {
    /// The state of a step, whose checkpoint was begun; where that came to nothing, of the one before that every member can read, and
    /// at last what the job began with.
    pub(super) fn earlier(&self, assignment: &Assignment, context: &Context, step: Step) -> Result<Earlier, Departure> {
        let folder = storage::open(&assignment.folder).map_err(CheckpointError::from)?;
        let stats = context.metrics.data();
        if step > Step(0) {
            let wait = || until_committed(&folder, step);
            self.read(assignment, context, from_store(folder.url(), context.patience(&stats), wait))??;
        }
        let mut before = step.next();
        while let Some(step) = self.newest_before(assignment, context, &folder, before)? {
            let read = self.read(assignment, context, read_own(assignment, step, context.patience(&stats)))?;
            if let Err(error) = &read {
                let error = with_causes(error);
                tracing::error!(%step, error, "a checkpoint can't be gone back to; the one before it is tried");
            }
            let failures = Tensor::from_slice(&[i64::from(read.is_err())]);
            self.group.all_reduce(&failures, Op::Sum)?;
            match read {
                Ok(tensors) if failures.int64_value(&[0]) == 0 => return Ok(Earlier { step, tensors }),
                _ => before = step,
            }
        }
        let Assignment { job, spec, total_steps, .. } = assignment;
        let fresh = TrainState::initialise(job, spec, *total_steps, Device::Cpu)?;
        Ok(Earlier { step: Step(0), tensors: self.begin(assignment, fresh, context)?.named() })
    }

    /// The newest checkpoint before a step that every member sees.
    fn newest_before(
        &self,
        assignment: &Assignment,
        context: &Context,
        folder: &Location,
        before: Step,
    ) -> Result<Option<Step>, Departure> {
        let steps = self.committed(assignment, context, folder)??;
        let newest = steps.into_iter().find(|step| *step < before).map_or(-1, |step| step.0 as i64);
        let seen_by_all = self.gather(newest)?.into_iter().min();
        Ok(seen_by_all.and_then(|step| u64::try_from(step).ok()).map(Step))
    }
}

/// Waits until a checkpoint is committed, but no longer than a commit should take.
async fn until_committed(folder: &Location, step: Step) -> Result<(), CheckpointError> {
    let begun = Instant::now();
    while !committed(folder).await?.contains(&step) && begun.elapsed() < COMMIT {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The tensors of a checkpoint of this run: one that was there when the group formed, or that the run has made since it last went back.
async fn read_own(
    assignment: &Assignment,
    step: Step,
    patience: Patience<'_>,
) -> Result<Vec<(String, Tensor)>, CheckpointError> {
    let path = manifest_path(step);
    let (tensors, manifest) = Restore { folder: &assignment.folder, manifest: &path }.tensors(patience).await?;
    let is_own = assignment.restore.contains(&path) || manifest.contents().generation > assignment.discarded;
    if is_own { Ok(tensors) } else { Err(CheckpointError::GivenUp) }
}
