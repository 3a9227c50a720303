//! Taking a place in a group, and agreeing with its other members on the state.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cappa_collective::{Group, Member, Op, Store, Timeouts};
use cappa_data::corpus;
use cappa_session::{Agreement, Assignment, agree};
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::vocabulary_difference;
use cappa_shared::ids::Step;
use cappa_shared::{checkpoint, storage};
use tch::{Device, Tensor};

use super::device;
use super::outcome::Departure;
use super::state::TrainState;
use crate::checkpoint::{CheckpointError, Restore, Weights, read_weights};
use crate::context::Context;

/// How often members that wait for one's store hear of each other.
const VOTE: Duration = Duration::from_secs(1);

/// How long a member waits by itself before it tells the others that it does: well below the limit of an operation.
pub(crate) fn patience(assignment: &Assignment) -> Duration {
    VOTE.min(assignment.operation / 4)
}

/// Tries until every member has succeeded. All of them try equally often, so an attempt must end well within the time limit of an
/// operation.
fn together<T>(group: &Group, mut attempt: impl FnMut() -> Result<Option<T>, Departure>) -> Result<T, Departure> {
    let mut mine = None;
    loop {
        if mine.is_none() {
            mine = attempt()?;
        }
        let late = Tensor::from_slice(&[i64::from(mine.is_none())]);
        group.all_reduce(&late, Op::Sum)?;
        match mine {
            Some(mine) if late.int64_value(&[0]) == 0 => return Ok(mine),
            waiting => mine = waiting,
        }
    }
}

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
    /// manifest that every member can read; where there is none, that which the spec starts from. A member that is furthest
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

    /// The state that nobody has trained yet: the seed's, or with the spec's `init` a checkpoint's, which every member reads.
    pub(super) fn begin(
        &self,
        assignment: &Assignment,
        mut state: TrainState,
        context: &Context,
    ) -> Result<TrainState, Departure> {
        let Some(init) = &assignment.spec.init else { return Ok(state) };
        let refused = |source| Departure::Init { from: init.from.clone(), source };
        let from = match init.job() {
            Some(job) => self.newest_of(assignment, context, job)?,
            None => init.from.clone(),
        };
        let Weights { tensors, vocabulary } = self.wait(assignment, context, read_weights(&from))?.map_err(refused)?;
        if assignment.spec.init_knows_words() {
            let (patience, stats) = (context.fetch.patience, context.metrics.data());
            let tokenizer = corpus::tokenizer(&assignment.spec, patience, &stats);
            let of_job = self.wait(assignment, context, tokenizer)??.vocabulary_digest();
            let differs = vocabulary_difference(vocabulary.as_deref(), &of_job);
            differs.map_or(Ok(()), |what| Err(refused(CheckpointError::Vocabulary(what))))?;
        }
        state.start_from(&assignment.spec, init, &tensors).map_err(|error| refused(error.into()))?;
        tracing::info!(from, "starting from a checkpoint");
        Ok(state)
    }

    /// The URL of the newest checkpoint of another job of the same store, the same for all members.
    fn newest_of(&self, assignment: &Assignment, context: &Context, job: &str) -> Result<String, Departure> {
        let refused = |source| Departure::Init { from: job.to_owned(), source };
        let own = storage::open(&assignment.folder).map_err(|error| refused(error.into()))?;
        let folder = own.parent().join(job).map_err(|error| refused(error.into()))?;
        let steps = self.wait(assignment, context, checkpoint::committed(&folder))?;
        let newest = steps.map_err(|error| refused(error.into()))?.first().map_or(-1, |step| step.0 as i64);
        let seen_by_all = self.gather(newest)?.into_iter().min().and_then(|step| u64::try_from(step).ok());
        let step = seen_by_all.ok_or_else(|| refused(CheckpointError::NoneUsable { tried: 0 }))?;
        Ok(format!("{}/{}", folder.url().trim_end_matches('/'), checkpoint::manifest_path(Step(step))))
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
            let outcome = self.wait(assignment, context, restore.read(&mut state))?;
            if let Err(error) = &outcome {
                let error = with_causes(error);
                if let Some(fault) = device::fault(&error, || device::answers(self.device)) {
                    return Err(Departure::Device(fault)); // the checkpoint is not to blame, nor is the one before it
                }
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
            return self.begin(assignment, state, context);
        }
        Err(CheckpointError::NoneUsable { tried: assignment.restore.len() }.into())
    }

    /// Waits for something of a store together with the other members. A member whose store does not answer says so in time, and the
    /// others wait for it: inside a collective it would count as hanging.
    pub(crate) fn wait<T>(
        &self,
        assignment: &Assignment,
        context: &Context,
        read: impl Future<Output = T>,
    ) -> Result<T, Departure> {
        let mut read = pin!(read);
        let limit = patience(assignment);
        together(&self.group, || Ok(context.wait_within(assignment, read.as_mut(), limit)?))
    }

    /// A number of every rank.
    pub(super) fn gather(&self, mine: i64) -> Result<Vec<i64>, Departure> {
        let gathered = self.group.all_gather(&Tensor::from_slice(&[mine]))?;
        Ok(gathered.iter().map(|tensor| tensor.int64_value(&[0])).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cappa_collective::AbortHandle;

    use super::*;

    /// Two ranks with this limit for an operation, one of which gets what it waits for only after `late`.
    fn wait_for_one(operation: Duration, late: Duration) -> Vec<Result<u32, Departure>> {
        cappa_collective::init();
        let (store, _) = Store::serve("127.0.0.1", 0, Duration::from_secs(10)).unwrap();
        let wait = |rank: usize| {
            let member = Member { rank, size: 2, host: "127.0.0.1" };
            let timeouts = Timeouts { form: Duration::from_secs(10), operation };
            let group = Group::gloo(&store, member, timeouts, &AbortHandle::new()).unwrap();
            let begun = Instant::now();
            together(&group, || {
                if rank == 1 && begun.elapsed() < late {
                    std::thread::sleep(operation / 20);
                    return Ok(None);
                }
                Ok(Some(7))
            })
        };
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..2).map(|rank| scope.spawn(move || wait(rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn a_member_that_waits_for_longer_than_an_operation_may_take_is_waited_for() {
        let operation = Duration::from_secs(3);
        for waited in wait_for_one(operation, operation + Duration::from_secs(1)) {
            assert_eq!(waited.unwrap(), 7);
        }
    }
}
