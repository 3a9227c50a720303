//! Corrupted decisions: what a broken core would decide. They show that the checks can fail.

use cappa_core::{BreakCause, Change, Core, Ending, Event, Holding, Policy, Rank, Record, Seen, Step, StopCause};

/// How the core's decisions are corrupted on their way to the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tamper {
    /// Not at all.
    #[default]
    Nothing,
    /// The lead is the last rank, not one that is furthest.
    LeadIsLast,
    /// A group starts from the newest checkpoint, though members hold more.
    ForgetsMemory,
    /// A generation's number is used again.
    ReusesGeneration,
    /// Retention gives up the newest checkpoint.
    RetiresNewest,
    /// A checkpoint is committed when its first rank has written.
    CommitsHalf,
    /// A worker that left is thought to hold the step before.
    ForgetsAStep,
    /// Lost members are never noticed.
    IgnoresLosses,
    /// A job goes back to a step of which it has no checkpoint.
    RollsBackToNowhere,
    /// Something happens to a job after its end.
    RevivesEnded,
    /// A job is over when its members are done, before that is saved.
    EndsUnsaved,
    /// Namespaces have no quotas.
    IgnoresQuotas,
    /// A job comes after no other.
    ForgetsDependencies,
    /// A job gives way to one that has no right to that.
    YieldsToAnybody,
}

impl Tamper {
    /// All corruptions.
    pub const ALL: [Self; 13] = [
        Self::LeadIsLast,
        Self::ForgetsMemory,
        Self::ReusesGeneration,
        Self::RetiresNewest,
        Self::CommitsHalf,
        Self::ForgetsAStep,
        Self::IgnoresLosses,
        Self::RollsBackToNowhere,
        Self::RevivesEnded,
        Self::EndsUnsaved,
        Self::IgnoresQuotas,
        Self::ForgetsDependencies,
        Self::YieldsToAnybody,
    ];

    /// The operator's rules as a broken coordinator would read them.
    pub(crate) fn policy(self, policy: &Policy) -> Policy {
        match self {
            Self::IgnoresQuotas => Policy { namespaces: std::collections::BTreeMap::new(), ..policy.clone() },
            _ => policy.clone(),
        }
    }

    /// The decision as a broken core would have made it.
    pub(crate) fn corrupt(self, core: &Core, event: Event) -> Vec<Event> {
        match event {
            Event::Record(record) => self.record(core, record),
            Event::Observation(mut observation) => {
                if let (Self::ForgetsAStep, Seen::Left { holding: Holding { step, .. }, .. }) =
                    (self, &mut observation.seen)
                {
                    step.0 = step.0.saturating_sub(1);
                }
                vec![Event::Observation(observation)]
            }
        }
    }

    fn record(self, core: &Core, mut record: Record) -> Vec<Event> {
        let (at, id) = (record.at, record.job.clone());
        let job = id.as_ref().and_then(|id| core.state().job(id));
        let mut more = None;
        match (self, &mut record.change) {
            (Self::LeadIsLast, Change::GroupFormed { members, lead, .. }) => {
                *lead = Rank(u32::try_from(members.len()).unwrap() - 1);
            }
            (Self::ForgetsMemory, Change::GroupFormed { members, lead, step, .. }) => {
                members.iter_mut().for_each(|member| (member.has_state, member.step) = (false, Step(0)));
                (*lead, *step) = (Rank(0), job.map_or(Step(0), cappa_core::Job::restore_step));
            }
            (Self::ReusesGeneration, Change::GroupFormed { generation, .. }) => {
                generation.0 = generation.0.saturating_sub(1).max(1);
            }
            (Self::RetiresNewest, Change::CheckpointRetired { step, generation }) => {
                if let Some(newest) = job.and_then(cappa_core::Job::newest_checkpoint) {
                    (*step, *generation) = (newest.step, newest.generation);
                }
            }
            (Self::CommitsHalf, Change::CheckpointWritten { ranks, .. }) => ranks.truncate(1),
            (Self::IgnoresLosses, Change::GroupBroken { cause: BreakCause::Lost { .. }, .. }) => return Vec::new(),
            (Self::RollsBackToNowhere, Change::RolledBack { step, .. }) => step.0 += 1,
            (Self::EndsUnsaved, Change::MemberCompleted { step, .. }) => {
                let group = job.and_then(cappa_core::Job::group);
                let is_last = group.is_some_and(|group| group.completed.len() + 1 == group.members.len());
                let ending = Ending::Succeeded { step: *step, summary: None };
                more = is_last.then_some(Change::Ended { ending });
            }
            (Self::ForgetsDependencies, Change::Submitted { submission }) => submission.scheduling.after.clear(),
            (Self::YieldsToAnybody, Change::StopRequested { cause: StopCause::Preemption { by } }) => {
                by.clone_from(id.as_ref().unwrap());
            }
            (Self::RevivesEnded, Change::Ended { .. }) => more = Some(Change::Resumed),
            _ => {}
        }
        let more = more.map(|change| Event::Record(Record { at, job: id, change }));
        std::iter::once(Event::Record(record)).chain(more).collect()
    }
}
