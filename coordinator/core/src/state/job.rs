//! How records change a job.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::{Indexed, Submission};
use crate::config::{FRUITLESS_FAILURE, FRUITLESS_LOSS};
use crate::ids::{Generation, JobId, Step, Time};
use crate::job::{Attempt, Backoff, Branch, Checkpoint, Ending, Group, GroupStart, Job, Phase, Rewind, Stage};
use crate::record::{BreakCause, Change};

impl Job {
    pub(super) fn new(id: JobId, submission: Submission, at: Time) -> Self {
        let needs_index = submission.needs_index;
        Self {
            id,
            priority: submission.priority,
            submission,
            submitted_digest: None,
            stopping: None,
            shrink_to: None,
            replacing: None,
            reshaped_at: None,
            admitted_at: None,
            is_loan: false,
            active: Duration::ZERO,
            retries: BTreeMap::new(),
            backoff: None,
            discarded: Generation(0),
            submitted_at: at,
            started_at: None,
            phase_since: at,
            phase: if needs_index { Phase::Indexing } else { Phase::Queued },
            generation: Generation(0),
            groups: Vec::new(),
            pause: None,
            fruitless: 0,
            recoveries: 0,
            checkpoints: Vec::new(),
            committing: BTreeMap::new(),
            last_failed: None,
            retired: Vec::new(),
            litter_since: None,
            swept: Generation(0),
            rolled_back: None,
            abandoned: None,
            refused: None,
            skipped: 0,
            rewinds: Vec::new(),
        }
    }

    pub(super) fn needs_attention(&self) -> bool {
        !self.has_ended()
            || !self.committing.is_empty()
            || !self.retired.is_empty()
            || self.abandoned.is_some()
            || self.litter_since.is_some()
    }

    fn enter(&mut self, at: Time, phase: Phase) {
        let (had, has) = (matches!(self.phase, Phase::Active(_)), matches!(phase, Phase::Active(_)));
        if had && !has {
            self.litter_since = Some(at);
            self.active = self.active_for(at);
            self.stopping = None;
            self.shrink_to = None;
            self.replacing = None;
            self.is_loan = false;
        }
        if !had && has {
            self.admitted_at = Some(at);
            self.backoff = None;
        }
        self.phase = phase;
        self.phase_since = at;
    }

    fn group_mut(&mut self) -> Option<&mut Group> {
        match &mut self.phase {
            Phase::Active(group) => Some(group),
            _ => None,
        }
    }

    pub(super) fn apply(&mut self, at: Time, change: &Change) {
        match change {
            Change::Submitted { .. }
            | Change::LeaderChanged { .. }
            | Change::WorkerQuarantined { .. }
            | Change::WorkerCordoned { .. }
            | Change::WorkerDrained { .. }
            | Change::WorkerReleased { .. } => {}
            Change::Indexed { indexed } => self.take_index(at, indexed),
            Change::GroupFormed { .. } => self.form(at, change),
            Change::GroupRunning { .. } => self.set_stage(Stage::Running { since: at }),
            Change::EvaluationStarted { .. } => self.set_stage(Stage::Evaluating { since: at }),
            Change::MemberCompleted { worker, step, outcome, summary, .. } => {
                if let Some(group) = self.group_mut() {
                    group.completed.insert(worker.clone(), *outcome);
                    group.completed_step = group.completed_step.max(*step);
                    group.summary = summary.clone().or(group.summary.take());
                }
            }
            Change::GroupBroken { cause, step, .. } => self.break_up(at, cause, *step),
            Change::Requeued { .. } | Change::Preempted { .. } => self.enter(at, Phase::Queued),
            Change::Retried { class, attempt, not_before, .. } => {
                self.retries.insert(*class, *attempt);
                self.start_over(at);
                self.backoff = Some(Backoff { until: *not_before, class: *class, attempt: *attempt });
            }
            Change::Revived { .. } => {
                self.retries.clear();
                self.active = Duration::ZERO;
                self.start_over(at);
            }
            Change::PriorityChanged { priority } => self.priority = *priority,
            Change::StopRequested { cause } => self.stopping = Some(cause.clone()),
            Change::PauseRequested { reason } => self.pause = Some(reason.clone()),
            Change::Paused { reason } => {
                let reason = reason.clone();
                self.pause = None;
                self.enter(at, Phase::Paused { reason });
            }
            Change::Resumed => self.wait(at),
            Change::Ended { ending } => self.end(at, ending),
            Change::Swept => self.sweep(),
            Change::CheckpointWritten { .. }
            | Change::CheckpointCommitted { .. }
            | Change::CheckpointFailed { .. }
            | Change::CheckpointRetired { .. }
            | Change::CheckpointDeleted { .. } => self.apply_checkpoint(at, change),
            Change::CheckpointPinned { step, generation, reason } => self.pin(*step, *generation, Some(reason.clone())),
            Change::CheckpointUnpinned { step, generation, .. } => self.pin(*step, *generation, None),
            Change::UpdateSkipped { step, generation, .. } => {
                self.refused = Some((*generation, *step));
                self.skipped += 1;
            }
            Change::Rewound { step, to, generation, .. } => {
                self.refused = Some((*generation, *step));
                self.rewinds.push(Rewind { step: *step, to: *to, generation: *generation });
            }
            Change::RolledBack { step, generation, .. } => self.roll_back(*step, *generation),
            Change::BranchAbandoned { .. } => self.abandoned = None,
        }
    }

    /// It waits: for its index as long as it has none, else for workers.
    fn wait(&mut self, at: Time) {
        let phase = if self.submission.needs_index { Phase::Indexing } else { Phase::Queued };
        self.enter(at, phase);
    }

    fn take_index(&mut self, at: Time, indexed: &Indexed) {
        let Indexed { spec_json, spec_digest, data_digest, total_steps, sources: _ } = indexed.clone();
        let submission = &mut self.submission;
        self.submitted_digest = Some(std::mem::replace(&mut submission.spec_digest, spec_digest));
        submission.spec_json = spec_json;
        (submission.data_digest, submission.total_steps) = (data_digest, total_steps);
        submission.needs_index = false;
        self.backoff = None;
        self.wait(at);
    }

    fn form(&mut self, at: Time, change: &Change) {
        let Change::GroupFormed { generation, members, lead, step, is_loan } = change else {
            return;
        };
        self.generation = *generation;
        let world_size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        self.groups.push(GroupStart { generation: *generation, world_size, step: *step });
        self.is_loan |= is_loan;
        self.shrink_to = None;
        self.replacing = None;
        self.started_at.get_or_insert(at);
        self.enter(
            at,
            Phase::Active(Group {
                generation: *generation,
                members: members.clone(),
                lead: *lead,
                step: *step,
                formed_at: at,
                stage: Stage::Forming,
                completed: BTreeMap::new(),
                completed_step: Step(0),
                summary: None,
            }),
        );
    }

    /// It is queued again, and goes on from its newest checkpoint rather than from what workers still hold.
    fn start_over(&mut self, at: Time) {
        self.pause = None;
        self.fruitless = 0;
        self.discarded = self.newest_generation();
        self.wait(at);
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(group) = self.group_mut() {
            group.stage = stage;
        }
    }

    fn break_up(&mut self, at: Time, cause: &BreakCause, step: Step) {
        if let Some(reason) = self.reason_of_breaking()
            && matches!(cause, BreakCause::Failure { .. })
        {
            *reason = cause.to_string(); // it broke because of that
            return;
        }
        let started_from = self.group().map_or(Step(0), |group| group.step);
        self.set_stage(Stage::Breaking { since: at, reason: cause.to_string() });
        self.litter_since = Some(at);
        if step > started_from {
            self.fruitless = 0;
        }
        let weight = match cause {
            BreakCause::Growth { .. } => {
                self.reshaped_at = Some(at);
                return;
            }
            BreakCause::Shrink { to, .. } => {
                self.reshaped_at = Some(at);
                self.shrink_to = Some(*to);
                return;
            }
            BreakCause::Straggler { worker, .. } => {
                self.reshaped_at = Some(at);
                self.replacing = Some(worker.clone());
                return;
            }
            BreakCause::Departure { .. } | BreakCause::Rollback { .. } => return,
            BreakCause::Failure { .. } => FRUITLESS_FAILURE,
            BreakCause::Lost { .. } => FRUITLESS_LOSS,
        };
        self.recoveries += 1;
        if step <= started_from {
            self.fruitless += weight;
        }
    }

    fn reason_of_breaking(&mut self) -> Option<&mut String> {
        match &mut self.group_mut()?.stage {
            Stage::Breaking { reason, .. } => Some(reason),
            _ => None,
        }
    }

    fn end(&mut self, at: Time, ending: &Ending) {
        self.pause = None;
        self.enter(at, Phase::Ended(ending.clone()));
    }

    fn sweep(&mut self) {
        self.litter_since = None;
        let is_active = self.group().is_some();
        self.swept = Generation(self.generation.0 - u64::from(is_active));
    }

    fn apply_checkpoint(&mut self, at: Time, change: &Change) {
        match change {
            Change::CheckpointWritten { step, generation, ranks } => {
                let ranks = ranks.clone();
                self.committing.insert((*step, *generation), Attempt { written_at: at, ranks });
            }
            Change::CheckpointCommitted { step, generation } => {
                if let Some(attempt) = self.committing.remove(&(*step, *generation)) {
                    self.checkpoints.push(Checkpoint {
                        step: *step,
                        generation: *generation,
                        bytes: attempt.bytes(),
                        committed_at: at,
                        parts: attempt.ranks.iter().map(|rank| rank.parts.len()).sum(),
                        pin: None,
                    });
                    self.checkpoints.sort_by_key(|checkpoint| checkpoint.step);
                }
            }
            Change::CheckpointFailed { step, generation, .. } => {
                self.committing.remove(&(*step, *generation));
                self.last_failed = Some((*step, *generation));
                self.litter_since = Some(at);
            }
            Change::CheckpointRetired { step, generation } => {
                let at = self.checkpoint_at(*step, *generation);
                let retired = at.map(|place| self.checkpoints.remove(place));
                self.retired.extend(retired);
            }
            Change::CheckpointDeleted { step, generation } => {
                self.retired.retain(|checkpoint| (checkpoint.step, checkpoint.generation) != (*step, *generation));
            }
            _ => {}
        }
    }

    fn pin(&mut self, step: Step, generation: Generation, pin: Option<String>) {
        if let Some(place) = self.checkpoint_at(step, generation) {
            self.checkpoints[place].pin = pin;
        }
    }

    fn roll_back(&mut self, step: Step, generation: Generation) {
        self.checkpoints.retain(|checkpoint| checkpoint.step <= step);
        self.rewinds.retain(|rewind| rewind.step <= step);
        self.discarded = generation;
        let branch = Some(Branch { after: step, through: generation });
        (self.rolled_back, self.abandoned) = (branch, branch);
        self.fruitless = 0;
        if let Some(group) = self.group_mut() {
            group.completed.clear();
            group.completed_step = Step(0);
        }
    }

    fn checkpoint_at(&self, step: Step, generation: Generation) -> Option<usize> {
        self.checkpoints.iter().position(|checkpoint| (checkpoint.step, checkpoint.generation) == (step, generation))
    }
}
