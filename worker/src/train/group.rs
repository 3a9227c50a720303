//! Taking a place in a group, and agreeing with its other members on the state.

use std::sync::Arc;

use cappa_collective::{Group, Member, Op, Store, Timeouts};
use cappa_session::{Agreement, Assignment, agree};
use cappa_shared::causes::with_causes;
use cappa_shared::ids::Step;
use tch::{Device, Tensor};

use super::outcome::Departure;
use super::state::TrainState;
use crate::checkpoint::Restore;
use crate::context::Context;

/// A formed group, from one member's place.
pub(crate) struct Place {
    /// The ranks.
    pub group: Arc<Group>,
    /// Where tensors live.
    pub device: Device,
}

impl Place {
    /// Meets the other members at the lead's store, under the generation's own prefix.
    pub(crate) fn take(assignment: &Assignment, context: &Context) -> Result<Self, Departure> {
        let abort = context.interrupt.enter(&assignment.job, assignment.generation)?;
        let (host, port) = assignment.lead_store()?;
        let store = match assignment.rank == assignment.lead {
            true => context.store.clone(),
            false => Store::connect_until(&abort, host, port, assignment.forming)?,
        };
        let store = store.prefix(&format!("{}/{}", assignment.job, assignment.generation))?;
        let rank = assignment.rank.0 as usize;
        let member = Member { rank, size: assignment.world_size(), host: &context.host };
        let timeouts = Timeouts { form: assignment.forming, operation: assignment.operation };
        let group = context.backend.form(&store, member, timeouts, &abort)?;
        Ok(Self { group: Arc::new(group), device: context.device })
    }

    /// Brings all members to one state: that of whoever is furthest; where nobody has any, the newest
    /// manifest that every member can read; where there is none, the seed's. A member that is furthest
    /// keeps its state even if the group breaks meanwhile: it may be the last copy.
    pub(super) fn agree<'s>(
        &self,
        assignment: &Assignment,
        held: &'s mut Option<TrainState>,
        context: &Context,
    ) -> Result<&'s mut TrainState, Departure> {
        let steps = self.gather(held.as_ref().map_or(-1, |state| state.step.0 as i64))?;
        let steps: Vec<Option<Step>> = steps.into_iter().map(|step| u64::try_from(step).ok().map(Step)).collect();
        let fresh = || TrainState::initialise(&assignment.job, &assignment.spec, assignment.total_steps, self.device);
        let (source, furthest) = match agree(&steps) {
            Agreement::Restore => {
                let state = self.restore(assignment, fresh()?, context)?;
                return Ok(held.insert(state));
            }
            Agreement::Equal => return Ok(held.as_mut().expect("its step was just gathered")),
            Agreement::Broadcast { source, step } => (source, step),
        };
        // What is behind is given up before it is overwritten; half of each would be worse than nothing.
        let behind = held.take_if(|state| state.step < furthest);
        let mut received = match (held.is_none(), behind) {
            (true, None) => Some(fresh()?),
            (_, behind) => behind,
        };
        let state = received.as_mut().or(held.as_mut()).expect("one of them is there");
        self.broadcast(state, furthest, source.0 as usize)?;
        if let Some(state) = received {
            *held = Some(state);
        }
        Ok(held.as_mut().expect("it was received or there"))
    }

    /// Gives every member the state of one of them.
    fn broadcast(&self, state: &mut TrainState, step: Step, source: usize) -> Result<(), Departure> {
        let tensors = state.named().into_iter().map(|(_, tensor)| tensor);
        let (on_host, on_gpu): (Vec<_>, Vec<_>) = tensors.partition(|tensor| tensor.device() == Device::Cpu);
        for tensors in [on_host, on_gpu] {
            self.group.broadcast_all(&tensors, source)?;
        }
        state.step = step;
        tracing::info!(%step, source, "the state was received from the member that was furthest");
        Ok(())
    }

    /// Every member reads the same manifest; one that somebody can't read is passed over by all.
    fn restore(
        &self,
        assignment: &Assignment,
        mut state: TrainState,
        context: &Context,
    ) -> Result<TrainState, Departure> {
        for manifest in &assignment.restore {
            let restore = Restore { folder: &assignment.folder, manifest };
            let outcome = context.wait(assignment, restore.read(&mut state))?;
            if let Err(error) = &outcome {
                let error = with_causes(error);
                tracing::error!(manifest, error, "a checkpoint can't be restored; the one before it is tried");
            }
            let failures = Tensor::from_slice(&[i64::from(outcome.is_err())]);
            self.group.all_reduce(&failures, Op::Sum)?;
            if failures.int64_value(&[0]) == 0 {
                tracing::info!(manifest, step = %state.step, "restored");
                return Ok(state);
            }
        }
        if assignment.restore.is_empty() {
            return Ok(state);
        }
        Err(crate::checkpoint::CheckpointError::NoneUsable { tried: assignment.restore.len() }.into())
    }

    /// A number of every rank.
    fn gather(&self, mine: i64) -> Result<Vec<i64>, Departure> {
        let gathered = self.group.all_gather(&Tensor::from_slice(&[mine]))?;
        Ok(gathered.iter().map(|tensor| tensor.int64_value(&[0])).collect())
    }
}
