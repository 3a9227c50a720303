//! The history of each job as people read it, and where its time went: folds of the log.

use std::collections::HashMap;

use cappa_core::{
    BreakCause, CHECKPOINT_DAMAGED, Change, Command, Ending, Generation, IndexedSource, JobId, Member, Record, Report,
    Step, Time,
};
use cappa_proto::JobEvent;
use serde::{Deserialize, Serialize};

use crate::accounting::{Ledger, State};
use crate::log::Entry;

/// Entries of a job's history that are kept in memory; the oldest go first.
const KEPT: usize = 2_000;

/// What happened to every job.
#[derive(Debug, Default)]
pub(crate) struct History {
    jobs: HashMap<JobId, JobHistory>,
}

/// What happened to one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobHistory {
    /// Its events, oldest first.
    #[serde(with = "as_tuples")]
    pub(crate) events: Vec<JobEvent>,
    /// Where its time went.
    pub(crate) ledger: Ledger,
    /// When it ended.
    pub(crate) ended_at: Option<Time>,
    /// The members of its newest group, by rank.
    pub(crate) members: Vec<Member>,
    /// Updates that were reported and that a later group had to make again.
    pub(crate) steps_lost: u64,
    /// What it does without workers: it is indexed, and after that it is queued.
    waits: State,
    generation: Generation,
    /// The furthest step that the newest group, or what it started from, was seen at.
    furthest: Step,
}

impl History {
    /// Folds a log entry in.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        let Record { at, job: Some(job), change } = &entry.record else { return };
        let history = self.jobs.entry(job.clone()).or_insert_with(|| JobHistory {
            events: Vec::new(),
            ledger: Ledger::starting(*at),
            ended_at: None,
            members: Vec::new(),
            steps_lost: 0,
            waits: State::Queued,
            generation: Generation::default(),
            furthest: Step::default(),
        });
        history.advance(change);
        if let Some(state) = state_after(change, history.waits) {
            history.ledger.enter(*at, state);
        }
        match change {
            Change::Ended { .. } => history.ended_at = Some(*at),
            Change::Revived { .. } => history.ended_at = None,
            _ => {}
        }
        if let Some((kind, message)) = describe(change) {
            if history.events.len() == KEPT {
                history.events.remove(0);
            }
            history.events.push(JobEvent {
                sequence: entry.sequence,
                unix_ms: unix_ms(*at),
                kind: kind.to_owned(),
                message,
            });
        }
    }

    /// Notes the step of an accepted command. The log has such steps only when something comes of
    /// them: what was heard since then is lost to the count of a coordinator that takes over.
    pub(crate) fn heard(&mut self, command: &Command) {
        let Command::Worker(said) = command else { return };
        let (job, generation, step) = match &said.report {
            Report::Hello { holding: Some(held), .. } => (&held.job, held.generation, held.step),
            Report::Heartbeat { at: Some((job, generation, step)), .. } => (job, *generation, *step),
            Report::Entered { job, generation, step }
            | Report::Left { job, generation, step, .. }
            | Report::Completed { job, generation, step, .. } => (job, *generation, *step),
            _ => return,
        };
        // What an older group had reached was counted when the newest one formed.
        if let Some(history) = self.jobs.get_mut(job).filter(|history| history.generation == generation) {
            history.furthest = history.furthest.max(step);
        }
    }

    /// The histories that a snapshot holds.
    pub(crate) fn of(jobs: impl IntoIterator<Item = (JobId, JobHistory)>) -> Self {
        Self { jobs: jobs.into_iter().collect() }
    }

    /// A job's history.
    pub(crate) fn job(&self, id: &JobId) -> Option<&JobHistory> {
        self.jobs.get(id)
    }
}

impl JobHistory {
    /// How far the job is after a change, and what a group that begins further back has lost.
    fn advance(&mut self, change: &Change) {
        match change {
            Change::Submitted { submission } if submission.needs_index => self.waits = State::Indexing,
            Change::Indexed { .. } => self.waits = State::Queued,
            Change::GroupFormed { generation, members, step, .. } => {
                self.steps_lost += self.furthest.0.saturating_sub(step.0);
                self.furthest = *step;
                self.generation = *generation;
                self.members.clone_from(members);
            }
            // It began from further back than it was to.
            Change::GroupBroken { cause: BreakCause::Failure { code, .. }, step, .. } if code == CHECKPOINT_DAMAGED => {
                self.steps_lost += self.furthest.0.saturating_sub(step.0);
                self.furthest = *step;
            }
            Change::GroupBroken { step, .. } | Change::MemberCompleted { step, .. } => {
                self.furthest = self.furthest.max(*step);
            }
            Change::CheckpointCommitted { step, .. } => self.furthest = self.furthest.max(*step),
            // Steps that someone gave up are not lost; what the old group is still heard of counts for nothing.
            Change::RolledBack { step, .. } => (self.furthest, self.generation) = (*step, Generation::default()),
            _ => {}
        }
    }
}

/// Events as they lie in snapshots: sequence, time, kind and message.
mod as_tuples {
    use cappa_proto::JobEvent;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(events: &[JobEvent], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(events.iter().map(|event| (event.sequence, event.unix_ms, &event.kind, &event.message)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<JobEvent>, D::Error> {
        let tuples = Vec::<(u64, i64, String, String)>::deserialize(deserializer)?;
        let event = |(sequence, unix_ms, kind, message)| JobEvent { sequence, unix_ms, kind, message };
        Ok(tuples.into_iter().map(event).collect())
    }
}

/// Milliseconds since the epoch as the wire has them.
pub(crate) fn unix_ms(at: Time) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// What the job's time counts as from here on.
fn state_after(change: &Change, waits: State) -> Option<State> {
    match change {
        Change::Submitted { .. }
        | Change::Indexed { .. }
        | Change::Requeued { .. }
        | Change::Retried { .. }
        | Change::Revived { .. }
        | Change::Preempted { .. }
        | Change::Resumed => Some(waits),
        Change::GroupFormed { .. } => Some(State::Forming),
        Change::GroupRunning { .. } => Some(State::Running),
        Change::EvaluationStarted { .. } => Some(State::Evaluating),
        Change::GroupBroken { .. } => Some(State::Recovering),
        Change::Paused { .. } => Some(State::Paused),
        Change::Ended { .. } => Some(State::Ended),
        _ => None,
    }
}

/// The kind of the event and what it says; none for what only the coordinator cares about.
fn describe(change: &Change) -> Option<(&'static str, String)> {
    Some(match change {
        Change::Submitted { submission } if submission.needs_index => {
            ("submitted", "its shards are indexed, then it is queued".to_owned())
        }
        Change::Submitted { .. } => ("submitted", "queued".to_owned()),
        Change::Indexed { indexed } => {
            ("indexed", indexed.sources.iter().map(describe_source).collect::<Vec<_>>().join("; "))
        }
        Change::GroupFormed { generation, members, lead, step, is_loan } => {
            let (members, loan) = (list(members), if *is_loan { ", on workers lent by the queue's head" } else { "" });
            let text = format!("generation {generation} of {members} from step {step}, lead is rank {lead}{loan}");
            ("group_formed", text)
        }
        Change::GroupRunning { generation } => {
            ("group_running", format!("every member of generation {generation} has made its first step"))
        }
        Change::EvaluationStarted { .. } => ("evaluation_started", "all steps are done".to_owned()),
        Change::GroupBroken { generation, cause, step } => {
            let kind = match cause {
                BreakCause::Lost { .. } => "worker_lost",
                BreakCause::Failure { code, .. } if code == CHECKPOINT_DAMAGED => "checkpoint_damaged",
                BreakCause::Failure { .. } => "group_failed",
                BreakCause::Departure { .. } => "worker_leaves",
                BreakCause::Growth { .. } => "group_grows",
                BreakCause::Shrink { .. } => "group_shrinks",
                BreakCause::Straggler { .. } => "straggler_replaced",
                BreakCause::Rollback { .. } => "group_goes_back",
            };
            (kind, format!("generation {generation} at step {step}: {cause}"))
        }
        Change::Requeued { reason } => ("requeued", reason.clone()),
        Change::Retried { class, code, message, attempt, .. } => {
            ("retried", format!("{class} failure, new try {attempt}: {code}: {message}"))
        }
        Change::Revived { reason } => ("revived", reason.clone()),
        Change::PriorityChanged { priority } => ("priority_changed", format!("to {priority}")),
        Change::StopRequested { cause } => ("stop_requested", cause.to_string()),
        Change::Preempted { by } => ("preempted", format!("gave its workers to {by}; queued again")),
        Change::PauseRequested { reason } => ("pause_requested", reason.clone()),
        Change::Paused { reason } => ("paused", reason.clone()),
        Change::Resumed => ("resumed", "queued again".to_owned()),
        Change::CheckpointCommitted { step, generation } => {
            ("checkpoint_committed", format!("step {step}, written by generation {generation}"))
        }
        Change::CheckpointFailed { step, error, .. } => ("checkpoint_failed", format!("step {step}: {error}")),
        Change::CheckpointRetired { step, .. } => ("checkpoint_retired", format!("step {step}: newer ones are kept")),
        Change::CheckpointPinned { step, reason, .. } => ("checkpoint_pinned", format!("step {step}: {reason}")),
        Change::CheckpointUnpinned { step, reason, .. } => ("checkpoint_unpinned", format!("step {step}: {reason}")),
        Change::UpdateSkipped { step, reason, .. } => {
            ("update_skipped", format!("step {step}: the update was not made, {reason}"))
        }
        Change::Rewound { step, to, reason, .. } => {
            let (first, state) =
                (to.next(), if to.0 == 0 { "the beginning".into() } else { format!("the checkpoint of step {to}") });
            (
                "rewound",
                format!("step {step}: back to {state}, the samples of steps {first} to {step} are skipped: {reason}"),
            )
        }
        Change::RolledBack { step, generation, reason } => (
            "rolled_back",
            format!("to step {step}, what generations up to {generation} made after it is given up: {reason}"),
        ),
        Change::BranchAbandoned { .. } => {
            ("branch_abandoned", "the checkpoints that were given up are moved aside".to_owned())
        }
        Change::WorkerQuarantined { worker, reason, .. } => ("worker_quarantined", format!("{worker}: {reason}")),
        Change::WorkerReleased { worker, reason } => ("worker_released", format!("{worker}: {reason}")),
        Change::Ended { ending } => return Some(describe_ending(ending)),
        Change::LeaderChanged { leader, reason } => {
            ("coordinator_changed", format!("the coordinator at {leader} decides from here on: {reason}"))
        }
        // They are no job's.
        Change::WorkerCordoned { .. } | Change::WorkerDrained { .. } => return None,
        Change::MemberCompleted { .. }
        | Change::CheckpointWritten { .. }
        | Change::CheckpointDeleted { .. }
        | Change::Swept => return None,
    })
}

fn describe_source(source: &IndexedSource) -> String {
    let IndexedSource { source, manifest, digest, shards, samples, problems } = source;
    let problems: String = problems.iter().map(|problem| format!("; {problem}")).collect();
    format!("{samples} samples in {shards} shards of {source}: {manifest}, sha256 {digest}{problems}")
}

fn describe_ending(ending: &Ending) -> (&'static str, String) {
    match ending {
        Ending::Succeeded { step, .. } => ("succeeded", format!("finished at step {step}")),
        Ending::Failed { code, message } => ("failed", format!("{code}: {message}")),
        Ending::Cancelled { reason } => ("cancelled", reason.clone()),
        Ending::Preempted { by } => ("preempted", format!("gave its workers to {by}, and was to end then")),
    }
}

fn list(members: &[Member]) -> String {
    let names: Vec<&str> = members.iter().map(|member| member.worker.as_str()).collect();
    names.join(", ")
}
