//! What a group begins with whose members hold no state: the newest checkpoint that all of them can read, or what the spec starts from.
//!
//! Only damage makes a group pass a checkpoint over. Where a store fails for one of the members, none of them goes on.

use cappa_collective::{Group, Op};
use cappa_data::corpus;
use cappa_session::Assignment;
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::{committed, manifest_path, vocabulary_difference};
use cappa_shared::ids::{Rank, Step};
use cappa_shared::storage::{self, Location};
use tch::Tensor;

use super::device;
use super::group::{Place, gathered};
use super::outcome::Departure;
use super::state::TrainState;
use crate::checkpoint::{CheckpointError, Restore, Weights, from_store, read_weights};
use crate::context::Context;

impl Place {
    /// Every member reads the same manifest; one that is damaged for somebody is passed over by all. Gives those as well.
    pub(super) fn restore(
        &self,
        assignment: &Assignment,
        mut state: TrainState,
        context: &Context,
    ) -> Result<(TrainState, Vec<String>), Departure> {
        let stats = context.metrics.data();
        let mut damaged = Vec::new();
        for manifest in &assignment.restore {
            let restore = Restore { folder: &assignment.folder, manifest };
            let outcome = self.read(assignment, context, restore.read(&mut state, context.patience(&stats)))?;
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
                return Ok((state, damaged));
            }
            damaged.push(manifest.clone());
        }
        if assignment.restore.is_empty() {
            return Ok((self.begin(assignment, state, context)?, damaged));
        }
        Err(CheckpointError::NoneUsable { tried: assignment.restore.len() }.into())
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
        let stats = context.metrics.data();
        let read = self.read(assignment, context, read_weights(&from, context.patience(&stats)))?;
        let Weights { tensors, vocabulary } = read.map_err(refused)?;
        if assignment.spec.init_knows_words() {
            let tokenizer = corpus::tokenizer(&assignment.spec, context.fetch.patience, &stats);
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
        let steps = self.committed(assignment, context, &folder)?.map_err(refused)?;
        let newest = steps.first().map_or(-1, |step| step.0 as i64);
        let seen_by_all = self.gather(newest)?.into_iter().min().and_then(|step| u64::try_from(step).ok());
        let step = seen_by_all.ok_or_else(|| refused(CheckpointError::NoneUsable { tried: 0 }))?;
        Ok(format!("{}/{}", folder.url().trim_end_matches('/'), manifest_path(Step(step))))
    }

    /// The steps of which this member sees a committed checkpoint, newest first.
    pub(super) fn committed(
        &self,
        assignment: &Assignment,
        context: &Context,
        folder: &Location,
    ) -> Result<Result<Vec<Step>, CheckpointError>, Departure> {
        let stats = context.metrics.data();
        let list = || async { Ok(committed(folder).await?) };
        self.read(assignment, context, from_store(folder.url(), context.patience(&stats), list))
    }

    /// Reads something of checkpoints together with the other members. Where a store fails for one of them, all leave the group and
    /// say so; what remains of errors is damage, and this member's.
    pub(super) fn read<T>(
        &self,
        assignment: &Assignment,
        context: &Context,
        read: impl Future<Output = Result<T, CheckpointError>>,
    ) -> Result<Result<T, CheckpointError>, Departure> {
        let outcome = self.wait(assignment, context, read)?;
        unless_unread(&self.group, outcome)
    }
}

/// What this member read, unless a store failed for it or for another one.
fn unless_unread<T>(
    group: &Group,
    outcome: Result<T, CheckpointError>,
) -> Result<Result<T, CheckpointError>, Departure> {
    let is_unread = matches!(outcome, Err(CheckpointError::Unread(_)));
    let votes = gathered(group, i64::from(is_unread))?;
    let without = (0..).map(Rank).zip(votes).find(|(_, vote)| *vote != 0);
    match (outcome, without) {
        (Err(CheckpointError::Unread(unread)), _) => Err(unread.into()),
        (_, Some((rank, _))) => Err(Departure::UnreadElsewhere(rank)),
        (outcome, None) => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cappa_collective::{AbortHandle, Member, Store, Timeouts};
    use cappa_shared::storage::StorageError;

    use super::*;
    use crate::checkpoint::Unread;

    /// What becomes of two ranks, the first of which has read the checkpoint, and the second has met this.
    fn read_by_two(second: impl Fn() -> CheckpointError + Sync) -> Vec<Result<Result<(), CheckpointError>, Departure>> {
        cappa_collective::init();
        let limit = Duration::from_secs(10);
        let (store, _) = Store::serve("127.0.0.1", 0, limit).unwrap();
        let read = |rank: usize| {
            let member = Member { rank, size: 2, host: "127.0.0.1" };
            let timeouts = Timeouts { form: limit, operation: limit };
            let group = Group::gloo(&store, member, timeouts, &AbortHandle::new()).unwrap();
            let outcome = unless_unread(&group, if rank == 1 { Err(second()) } else { Ok(()) });
            // Nobody leaves before the other has heard.
            gathered(&group, 0).unwrap();
            outcome
        };
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..2).map(|rank| scope.spawn(move || read(rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn where_a_store_fails_for_one_member_all_leave_and_may_try_again() {
        let url = "s3://b/jobs/demo-1/checkpoints/000000000300/MANIFEST.json";
        let outcomes = read_by_two(|| {
            let source = StorageError::unreachable(url, "refused".into());
            Unread { url: url.into(), waited: Duration::from_secs(600), source }.into()
        });
        let failures: Vec<_> =
            outcomes.into_iter().map(|outcome| outcome.unwrap_err().failure().expect("it is told")).collect();
        for failure in &failures {
            assert_eq!((failure.code.as_str(), failure.permanent), ("STORE_UNREACHABLE", false), "{failure:?}");
        }
        assert!(failures[0].message.contains("rank 1"), "{}", failures[0].message);
        assert!(failures[1].message.contains(url) && failures[1].message.contains("600 s"), "{}", failures[1].message);
    }

    #[test]
    fn what_one_member_finds_damaged_is_no_failure_of_a_store() {
        let outcomes = read_by_two(|| CheckpointError::GivenUp);
        assert!(matches!(outcomes[..], [Ok(Ok(())), Ok(Err(CheckpointError::GivenUp))]), "{outcomes:?}");
    }
}
