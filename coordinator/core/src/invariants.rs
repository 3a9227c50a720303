//! What must hold of every state, by name. Checked after every event in tests and debug builds.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Generation, JobId, WorkerId};
use crate::job::{Job, Phase};
#[cfg(debug_assertions)]
use crate::policy::Policy;
#[cfg(debug_assertions)]
use crate::record::{Change, Event};
use crate::state::State;
#[cfg(debug_assertions)]
use crate::usage::Usage;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A group's number is not the job's newest.
    ActiveGenerationIsNewest(JobId),
    /// A group's lead is behind another member with state.
    LeadHasTheHighestStep(JobId),
    /// A group has no members, or one twice.
    MembersAreDistinct(JobId),
    /// A group has more ranks than lanes: some rank would own none.
    EveryRankOwnsALane(JobId),
    /// A worker belongs to two groups, or is listed for a job that it does not belong to.
    OneGroupPerWorker(WorkerId),
    /// A kept checkpoint is listed twice or out of order.
    CheckpointsAreOrdered(JobId),
    /// A paused, queued or ended job has a group, or a group has none to pause.
    PauseNeedsAGroup(JobId),
    /// Parts of the active group, or of one that is yet to come, count as swept.
    SweptIsOver(JobId),
    /// A generation was used twice.
    GenerationsAreNeverReused(JobId, Generation),
    /// A checkpoint disappeared without having been retired, or the newest was retired.
    CommittedStaysCommitted(JobId),
    /// A pinned checkpoint was given up.
    PinnedStays(JobId),
    /// A job went back to a step of which it has no checkpoint.
    RollbacksLandOnACheckpoint(JobId),
    /// A group went on from what a rollback had given up.
    RollbacksAreObeyed(JobId),
    /// A checkpoint was committed beside those of a branch that was given up.
    OneBranchIsCommitted(JobId),
    /// A quarantined worker was put into a group that could do without what it holds.
    QuarantinedStaysOut(WorkerId),
    /// Something happened to a job after its end that must not.
    EndedStaysEnded(JobId),
    /// A group is larger than its job may be, or started from the queue smaller.
    GangsAreWithinBounds(JobId),
    /// The counts of a namespace are not those of its jobs.
    UsageCountsAddUp(String),
    /// A job waits for workers, or has some, before its data is indexed; or it is indexed again.
    IndexComesFirst(JobId),
    /// A namespace came to use more than it may.
    QuotaIsNeverExceeded(String),
    /// A job gave way to one that has no right to that.
    VictimsYieldToTheirBetters(JobId),
    /// A job started before one that it is to come after had ended as asked for.
    DependenciesComeFirst(JobId),
}

/// Everything that is wrong with a state.
pub fn violations(state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut groups: BTreeMap<&WorkerId, &JobId> = BTreeMap::new();
    for job in state.live_jobs() {
        check_job(job, &mut found);
        for member in job.group().into_iter().flat_map(|group| &group.members) {
            let is_listed = state.job_of(&member.worker).is_some_and(|of| of.id == job.id);
            let is_second = groups.insert(&member.worker, &job.id).is_some();
            if is_second || !is_listed {
                found.push(Violation::OneGroupPerWorker(member.worker.clone()));
            }
        }
    }
    for (namespace, usage) in state.usages() {
        let jobs = state.live_jobs().filter(|job| job.submission.namespace == namespace);
        if !usage.counts(jobs) {
            found.push(Violation::UsageCountsAddUp(namespace.to_owned()));
        }
    }
    found
}

/// Namespaces that an event has brought over their quota. One whose quota was lowered keeps what it has, and a job that has
/// given its workers back is queued again however many wait: there only what people add is bounded.
#[cfg(debug_assertions)]
pub(crate) fn quota_violations(
    policy: &Policy,
    before: &BTreeMap<String, Usage>,
    after: &State,
    event: &Event,
) -> Vec<Violation> {
    let over = after.usages().filter(|(namespace, usage)| {
        let quota = policy.quota(namespace);
        let before = before.get(*namespace).copied().unwrap_or_default();
        let exceeds = |limit: Option<u32>, before, now| now > before && limit.is_some_and(|limit| now > limit);
        exceeds(quota.max_workers, before.workers, usage.workers)
            || exceeds(quota.max_running, before.running, usage.running)
            || adds_to(event, after).is_some_and(|added| added == *namespace)
                && quota.max_queued.is_some_and(|limit| after.waiting(namespace) > limit)
    });
    over.map(|(namespace, _)| Violation::QuotaIsNeverExceeded(namespace.to_owned())).collect()
}

/// The namespace to which someone has added a job that waits.
#[cfg(debug_assertions)]
fn adds_to<'a>(event: &Event, after: &'a State) -> Option<&'a str> {
    let Event::Record(record) = event else { return None };
    let adds = matches!(record.change, Change::Submitted { .. } | Change::Revived { .. });
    let job = record.job.as_ref().filter(|_| adds)?;
    after.job(job).map(|job| job.submission.namespace.as_str())
}

fn check_job(job: &Job, found: &mut Vec<Violation>) {
    let mut require = |holds: bool, violation: fn(JobId) -> Violation| {
        if !holds {
            found.push(violation(job.id.clone()));
        }
    };
    let steps = job.checkpoints.windows(2);
    require(steps.into_iter().all(|pair| pair[0].step < pair[1].step), Violation::CheckpointsAreOrdered);
    let newest_over = job.generation.0.saturating_sub(u64::from(job.group().is_some()));
    require(job.swept.0 <= newest_over, Violation::SweptIsOver);
    let fits_index = match job.phase {
        Phase::Indexing => job.submission.needs_index,
        Phase::Queued | Phase::Active(_) => !job.submission.needs_index,
        Phase::Paused { .. } | Phase::Ended(_) => true,
    };
    require(fits_index, Violation::IndexComesFirst);
    let Phase::Active(group) = &job.phase else {
        require(job.pause.is_none() && job.stopping.is_none(), Violation::PauseNeedsAGroup);
        return;
    };
    require(group.generation == job.generation, Violation::ActiveGenerationIsNewest);
    let workers: BTreeSet<_> = group.members.iter().map(|member| &member.worker).collect();
    require(!workers.is_empty() && workers.len() == group.members.len(), Violation::MembersAreDistinct);
    require(group.members.len() <= job.submission.lanes as usize, Violation::EveryRankOwnsALane);
    require(group.members.len() <= job.submission.max_world_size(), Violation::GangsAreWithinBounds);
    let lead = group.members.get(group.lead.0 as usize);
    let highest = group.members.iter().filter(|m| m.has_state).map(|m| m.step).max();
    let leads = lead.is_some_and(|lead| match highest {
        Some(highest) => lead.has_state && lead.step == highest && highest == group.step,
        None => group.step <= job.submission.total_steps,
    });
    require(leads, Violation::LeadHasTheHighestStep);
}
