//! What must hold of every state, by name. Checked after every event in tests and debug builds.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Generation, JobId, WorkerId};
use crate::job::{Job, Phase};
use crate::record::{Change, Record};
use crate::state::State;

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
    /// A generation was used twice.
    GenerationsAreNeverReused(JobId, Generation),
    /// A checkpoint disappeared without having been retired, or the newest was retired.
    CommittedStaysCommitted(JobId),
    /// Something happened to a job after its end that must not.
    EndedStaysEnded(JobId),
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
    found
}

fn check_job(job: &Job, found: &mut Vec<Violation>) {
    let mut require = |holds: bool, violation: fn(JobId) -> Violation| {
        if !holds {
            found.push(violation(job.id.clone()));
        }
    };
    let steps = job.checkpoints.windows(2);
    require(steps.into_iter().all(|pair| pair[0].step < pair[1].step), Violation::CheckpointsAreOrdered);
    let Phase::Active(group) = &job.phase else {
        require(job.pause.is_none(), Violation::PauseNeedsAGroup);
        return;
    };
    require(group.generation == job.generation, Violation::ActiveGenerationIsNewest);
    let workers: BTreeSet<_> = group.members.iter().map(|member| &member.worker).collect();
    require(!workers.is_empty() && workers.len() == group.members.len(), Violation::MembersAreDistinct);
    require(group.members.len() <= job.submission.lanes as usize, Violation::EveryRankOwnsALane);
    let lead = group.members.get(group.lead.0 as usize);
    let highest = group.members.iter().filter(|m| m.has_state).map(|m| m.step).max();
    let leads = lead.is_some_and(|lead| match highest {
        Some(highest) => lead.has_state && lead.step == highest && highest == group.step,
        None => group.step <= job.submission.total_steps,
    });
    require(leads, Violation::LeadHasTheHighestStep);
}

/// Everything that is wrong with a log: what only shows over time.
pub fn log_violations(records: &[Record]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut generations: BTreeMap<&JobId, Generation> = BTreeMap::new();
    let mut ended: BTreeSet<&JobId> = BTreeSet::new();
    let mut kept: BTreeMap<&JobId, BTreeSet<_>> = BTreeMap::new();
    for Record { job, change, .. } in records {
        let kept = kept.entry(job).or_default();
        let storage = matches!(
            change,
            Change::CheckpointCommitted { .. }
                | Change::CheckpointFailed { .. }
                | Change::CheckpointRetired { .. }
                | Change::CheckpointDeleted { .. }
                | Change::Swept
        );
        if ended.contains(job) && !storage {
            found.push(Violation::EndedStaysEnded(job.clone()));
        }
        match change {
            Change::GroupFormed { generation, .. } => {
                let before = generations.insert(job, *generation);
                if before.is_some_and(|before| before >= *generation) {
                    let violation = Violation::GenerationsAreNeverReused;
                    found.push(violation(job.clone(), *generation));
                }
            }
            Change::CheckpointCommitted { step, generation } => {
                kept.insert((*step, *generation));
            }
            Change::CheckpointRetired { step, generation } => {
                let is_newest = kept.last() == Some(&(*step, *generation));
                if is_newest || !kept.remove(&(*step, *generation)) {
                    found.push(Violation::CommittedStaysCommitted(job.clone()));
                }
            }
            Change::Ended { .. } => {
                ended.insert(job);
            }
            _ => {}
        }
    }
    found
}
