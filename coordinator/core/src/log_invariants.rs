//! What must hold of every log: what only shows over time.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Generation, JobId, Step};
use crate::invariants::Violation;
use crate::job::{Member, Phase};
use crate::policy::StopCause;
use crate::record::{Change, Record};
use crate::schedule;
use crate::state::State;

/// Everything that is wrong with a log.
pub fn log_violations(records: &[Record]) -> Vec<Violation> {
    let (mut check, mut state) = (Check::default(), State::default());
    let mut found = Vec::new();
    for record in records {
        found.extend(check.next(&state, record));
        state.apply(record);
    }
    found
}

/// What the state doesn't remember of the log so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Check {
    generations: BTreeMap<JobId, Generation>,
    ended: BTreeSet<JobId>,
    kept: BTreeMap<JobId, BTreeSet<(Step, Generation)>>,
    pinned: BTreeSet<(JobId, Step)>,
    /// Jobs that went back to a step and had no group since.
    going_back: BTreeMap<JobId, Step>,
    /// Jobs with a branch that is still to be moved aside.
    branched: BTreeSet<JobId>,
    found: Vec<Violation>,
}

impl Check {
    /// What is wrong with the next record, given the state before it.
    pub(crate) fn next(&mut self, before: &State, record: &Record) -> Vec<Violation> {
        self.history(record);
        self.rollbacks(record);
        self.decision(before, record);
        std::mem::take(&mut self.found)
    }

    /// What a record must not do to what came before it.
    fn history(&mut self, record: &Record) {
        let Record { job: Some(job), change, .. } = record else { return };
        let kept = self.kept.entry(job.clone()).or_default();
        let housekeeping = matches!(
            change,
            Change::CheckpointCommitted { .. }
                | Change::CheckpointFailed { .. }
                | Change::CheckpointRetired { .. }
                | Change::CheckpointDeleted { .. }
                | Change::CheckpointPinned { .. }
                | Change::CheckpointUnpinned { .. }
                | Change::RolledBack { .. }
                | Change::BranchAbandoned { .. }
                | Change::WorkerQuarantined { .. }
                | Change::WorkerReleased { .. }
                | Change::Swept
        );
        match change {
            Change::Revived { .. } if self.ended.remove(job) => {}
            _ if self.ended.contains(job) && !housekeeping => {
                self.found.push(Violation::EndedStaysEnded(job.clone()));
            }
            _ => {}
        }
        match change {
            Change::GroupFormed { generation, .. } => {
                let before = self.generations.insert(job.clone(), *generation);
                if before.is_some_and(|before| before >= *generation) {
                    let violation = Violation::GenerationsAreNeverReused;
                    self.found.push(violation(job.clone(), *generation));
                }
            }
            Change::CheckpointCommitted { step, generation } => {
                kept.insert((*step, *generation));
            }
            Change::CheckpointRetired { step, generation } => {
                let is_newest = kept.last() == Some(&(*step, *generation));
                if is_newest || !kept.remove(&(*step, *generation)) {
                    self.found.push(Violation::CommittedStaysCommitted(job.clone()));
                }
            }
            Change::Ended { .. } => {
                self.ended.insert(job.clone());
            }
            _ => {}
        }
    }

    /// What pins and rollbacks forbid.
    fn rollbacks(&mut self, record: &Record) {
        let Record { job: Some(job), change, .. } = record else { return };
        let mut broken: Vec<fn(JobId) -> Violation> = Vec::new();
        match change {
            Change::CheckpointPinned { step, .. } => {
                self.pinned.insert((job.clone(), *step));
            }
            Change::CheckpointUnpinned { step, .. } => {
                self.pinned.remove(&(job.clone(), *step));
            }
            Change::CheckpointRetired { step, .. } if self.pinned.contains(&(job.clone(), *step)) => {
                broken.push(Violation::PinnedStays);
            }
            Change::CheckpointCommitted { .. } if self.branched.contains(job) => {
                broken.push(Violation::OneBranchIsCommitted);
            }
            Change::RolledBack { step, .. } => {
                let kept = self.kept.entry(job.clone()).or_default();
                if !kept.iter().any(|(of, _)| of == step) {
                    broken.push(Violation::RollbacksLandOnACheckpoint);
                }
                kept.retain(|(of, _)| of <= step);
                if self.pinned.iter().any(|(of, pinned)| of == job && pinned > step) {
                    broken.push(Violation::PinnedStays);
                }
                self.going_back.insert(job.clone(), *step);
                self.branched.insert(job.clone());
            }
            Change::BranchAbandoned { .. } => {
                self.branched.remove(job);
            }
            Change::GroupFormed { step, members, .. } => {
                if let Some(to) = self.going_back.remove(job)
                    && (*step != to || members.iter().any(|member| member.has_state))
                {
                    broken.push(Violation::RollbacksAreObeyed);
                }
            }
            _ => {}
        }
        self.found.extend(broken.into_iter().map(|violation| violation(job.clone())));
    }

    /// What a decision must be, given the state that it was made in.
    fn decision(&mut self, state: &State, record: &Record) {
        let Some(job) = record.job.as_ref().and_then(|job| state.job(job)) else { return };
        if let Change::GroupFormed { members, .. } = &record.change {
            let is_sound = |member: &&Member| state.flaps().quarantine(&member.worker).is_none();
            let step = |member: &Member| member.has_state.then_some(member.step);
            let best = members.iter().filter(is_sound).filter_map(step).max();
            let needless = members.iter().filter(|member| !is_sound(member) && step(member) <= best);
            self.found.extend(needless.map(|member| Violation::QuarantinedStaysOut(member.worker.clone())));
        }
        match &record.change {
            Change::GroupFormed { members, .. } if job.phase == Phase::Queued => {
                if members.len() < job.submission.min_world_size() {
                    self.found.push(Violation::GangsAreWithinBounds(job.id.clone()));
                }
                if schedule::unmet(state, job).is_some() {
                    self.found.push(Violation::DependenciesComeFirst(job.id.clone()));
                }
            }
            Change::StopRequested { cause } => {
                let by = cause.by().and_then(|by| state.job(by));
                let is_right = match (cause, by) {
                    (StopCause::TimeLimit, _) => true,
                    (StopCause::Preemption { .. }, Some(by)) => by.priority > job.priority,
                    (StopCause::Reclaim { .. }, Some(by)) => job.is_loan && by.priority >= job.priority,
                    (_, None) => false,
                };
                if !is_right {
                    self.found.push(Violation::VictimsYieldToTheirBetters(job.id.clone()));
                }
            }
            _ => {}
        }
    }
}
