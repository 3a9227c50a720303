//! Taking a place in a group, and agreeing with its other members on the state.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cappa_collective::{Group, Member, Op, Store, Timeouts};
use cappa_session::{Agreement, Assignment, agree};
use cappa_shared::ids::Step;
use tch::{Device, Tensor};

use super::outcome::Departure;
use super::state::TrainState;
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
                let (state, damaged) = self.restore(assignment, fresh()?, context)?;
                let step = held.insert(state).step;
                return match damaged.is_empty() {
                    true => Ok(held.as_mut().expect("it was just restored")),
                    false => Err(Departure::FellBack { step, damaged: damaged.join(", ") }),
                };
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
        gathered(&self.group, mine)
    }
}

/// A number of every rank of a group.
pub(super) fn gathered(group: &Group, mine: i64) -> Result<Vec<i64>, Departure> {
    let gathered = group.all_gather(&Tensor::from_slice(&[mine]))?;
    Ok(gathered.iter().map(|tensor| tensor.int64_value(&[0])).collect())
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
