//! Jobs as the wire shows them.

use cappa_core::{Checkpoint, Ending, Group, Job, Member, Phase, Reason, Stage};
use cappa_proto as proto;
use cappa_proto::JobState;

use super::queue;
use crate::accounting::BUCKETS;
use crate::checkpoints::manifest_path;
use crate::curves::{Curves, Summary};
use crate::driver::View;
use crate::history::unix_ms;
use crate::indexing::Standing;

/// A job with everything that is known of it.
pub(crate) fn job(view: &View, curves: &Curves, job: &Job) -> proto::Job {
    let submission = &job.submission;
    let summary = curves.summary(&job.id);
    let step = current_step(view, job, &summary);
    let (message, error_code) = message(view, job);
    proto::Job {
        id: job.id.to_string(),
        name: submission.name.clone(),
        namespace: submission.namespace.clone(),
        state: state(job).into(),
        message,
        error_code,
        step,
        total_steps: submission.total_steps.0,
        generation: job.generation.0,
        members: job.group().map(|group| members(view, group)).unwrap_or_default(),
        submitted_unix_ms: unix_ms(job.submitted_at),
        started_unix_ms: job.started_at.map_or(0, unix_ms),
        ended_unix_ms: if job.has_ended() { unix_ms(job.phase_since) } else { 0 },
        latest: summary.latest,
        time: time(view, job, &summary),
        last_checkpoint_step: job.restore_step().0,
        folder: submission.folder.clone(),
        spec_json: submission.spec_json.clone(),
        quarantined: summary.quarantined,
        recoveries: job.recoveries,
        priority: job.priority,
        index: index(view, job),
    }
}

/// The state as people know it.
pub(crate) fn state(job: &Job) -> JobState {
    match &job.phase {
        Phase::Indexing => JobState::Indexing,
        Phase::Queued => JobState::Queued,
        Phase::Active(_) if job.pause.is_some() => JobState::Pausing,
        Phase::Active(group) => match group.stage {
            Stage::Forming | Stage::Breaking { .. } => JobState::Forming,
            Stage::Running { .. } => JobState::Running,
            Stage::Evaluating { .. } => JobState::Evaluating,
        },
        Phase::Paused { .. } => JobState::Paused,
        Phase::Ended(Ending::Succeeded { .. }) => JobState::Succeeded,
        Phase::Ended(Ending::Failed { .. }) => JobState::Failed,
        Phase::Ended(Ending::Cancelled { .. }) => JobState::Cancelled,
        Phase::Ended(Ending::Preempted { .. }) => JobState::Preempted,
    }
}

/// The highest step that anybody is known to have completed.
fn current_step(view: &View, job: &Job, summary: &Summary) -> u64 {
    if let Phase::Ended(Ending::Succeeded { step, .. }) = &job.phase {
        return step.0;
    }
    let members = job.group().into_iter().flat_map(|group| &group.members);
    let held = members.filter_map(|member| {
        let presence = view.core.presence().worker(&member.worker)?;
        Some(presence.holding_of(&job.id)?.step.0)
    });
    held.max().unwrap_or(0).max(summary.step).max(job.restore_step().0)
}

/// Seconds by bucket; they sum to the wall time since submission.
pub(crate) fn time(view: &View, job: &Job, summary: &Summary) -> Vec<proto::TimeBucket> {
    let Some(history) = view.history.job(&job.id) else {
        return Vec::new();
    };
    let seconds = history.ledger.seconds(view.now(), summary.time);
    BUCKETS
        .iter()
        .zip(seconds)
        .map(|(bucket, seconds)| proto::TimeBucket { bucket: (*bucket).to_owned(), seconds })
        .collect()
}

/// Why the job waits or how it ended, and the code of a failure.
fn message(view: &View, job: &Job) -> (String, String) {
    let plain = |text: String| (text, String::new());
    match &job.phase {
        Phase::Indexing => plain(indexing(view, job)),
        Phase::Queued => plain(waiting(view, job)),
        Phase::Active(group) => match &group.stage {
            Stage::Breaking { reason, .. } => plain(format!("re-forming: {reason}")),
            _ => {
                let stops = job.stopping.as_ref().map(ToString::to_string);
                let waits = store_wait(view, group).or_else(|| last_save(job, group));
                plain(stops.into_iter().chain(waits).collect::<Vec<_>>().join("; "))
            }
        },
        Phase::Paused { reason } => plain(reason.clone()),
        Phase::Ended(Ending::Succeeded { .. }) => plain(String::new()),
        Phase::Ended(Ending::Failed { code, message }) => (message.clone(), error_code(code).to_owned()),
        Phase::Ended(Ending::Cancelled { reason }) => plain(reason.clone()),
        Phase::Ended(Ending::Preempted { by }) => {
            let code = cappa_shared::code::Code::Preempted;
            (format!("gave its workers to {by}"), code.as_str().to_owned())
        }
    }
}

/// The published code for a class of failure that a worker reports.
fn error_code(class: &str) -> &'static str {
    use cappa_shared::code::Code;
    let code = match class {
        "collective" | "no_progress" => Code::CollectiveFailed,
        "spec" => Code::InvalidSpec,
        "data" => Code::DataUnreadable,
        "bad_samples" => Code::TooManyBadSamples,
        "numeric" => Code::NumericDivergence,
        "storage" => Code::StoreUnreachable,
        "checkpoint" => Code::CheckpointDamaged,
        "memory" => Code::OutOfMemory,
        "time_limit" => Code::TimeLimitReached,
        "queue_deadline" => Code::QueueDeadlineMissed,
        "dependency" => Code::DependencyFailed,
        class => class.parse().unwrap_or(Code::JobFailed),
    };
    code.as_str()
}

/// What keeps the group waiting: the store that a member has waited for longest.
fn store_wait(view: &View, group: &Group) -> Option<String> {
    let waits = (0..).zip(&group.members).filter_map(|(rank, member)| {
        let waiting = view.facts.waiting(&member.worker)?;
        Some((waiting.since, rank, member, waiting.url))
    });
    let (since, rank, member, url) = waits.min_by_key(|(since, rank, ..): &(_, u32, _, _)| (*since, *rank))?;
    let (worker, seconds) = (&member.worker, since.elapsed().as_secs());
    Some(format!("rank {rank} ({worker}) has waited {seconds} s for {url}: its store does not answer"))
}

/// What is missing yet where members have done their work, and it is not saved.
fn last_save(job: &Job, group: &Group) -> Option<String> {
    let step = job.unsaved()?;
    let (done, of) = (group.completed.len(), group.members.len());
    let is_written = job.committing.keys().any(|(committing, _)| *committing == step);
    Some(match is_written {
        true => {
            format!("the last checkpoint, of step {step}, is written; its manifest is tried until the store takes it")
        }
        false => format!("{done} of {of} members have written their parts of the last checkpoint, of step {step}"),
    })
}

/// How far the index of a job's data is, or why it does not go on.
fn indexing(view: &View, job: &Job) -> String {
    if let Some(backoff) = job.backoff.as_ref().filter(|backoff| backoff.until > view.now()) {
        let reason = Reason::Backoff { class: backoff.class, attempt: backoff.attempt };
        return queue::explanation(&reason);
    }
    let Standing { progress, trouble } = view.indexing.standing(&job.id);
    let progress = progress.map_or_else(
        || "looks for shards".to_owned(),
        |now| format!("{} of {} shards, {} samples", now.shards, now.of, now.samples),
    );
    trouble.map_or_else(
        || progress.clone(),
        |(since, error)| format!("{progress}; tried again for {} s: {error}", since.elapsed().as_secs()),
    )
}

fn index(view: &View, job: &Job) -> Option<proto::IndexProgress> {
    let progress = view.indexing.standing(&job.id).progress.filter(|_| job.phase == Phase::Indexing)?;
    Some(proto::IndexProgress {
        shards: progress.shards as u64,
        of_shards: progress.of as u64,
        samples: progress.samples,
        bytes: progress.bytes,
    })
}

fn waiting(view: &View, job: &Job) -> String {
    view.reason(&job.id).map_or_else(|| "was queued a moment ago".to_owned(), queue::explanation)
}

fn members(view: &View, group: &Group) -> Vec<proto::Member> {
    let pace = |member: &Member| view.core.presence().worker(&member.worker)?.pace_in(group.generation);
    let ranked = (0..).zip(&group.members);
    let member = |(rank, member): (u32, &Member)| proto::Member {
        worker_id: member.worker.to_string(),
        rank,
        pace: pace(member).map_or(0, |pace| pace.0),
    };
    ranked.map(member).collect()
}

/// A job's checkpoints, newest first: those that are kept, and those whose files retention is still deleting.
pub(crate) fn checkpoints(job: &Job) -> Vec<proto::CheckpointInfo> {
    let kept = job.checkpoints.iter().map(|one| checkpoint(job, one));
    let retired = job.retired.iter().map(|one| proto::CheckpointInfo { retired: true, ..checkpoint(job, one) });
    let mut all: Vec<_> = kept.chain(retired).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.step));
    all
}

/// A committed checkpoint.
fn checkpoint(job: &Job, checkpoint: &Checkpoint) -> proto::CheckpointInfo {
    let folder = job.submission.folder.trim_end_matches('/');
    proto::CheckpointInfo {
        step: checkpoint.step.0,
        manifest: format!("{folder}/{}", manifest_path(checkpoint.step)),
        bytes: checkpoint.bytes,
        committed_unix_ms: unix_ms(checkpoint.committed_at),
        parts: u32::try_from(checkpoint.parts).unwrap_or(u32::MAX),
        generation: checkpoint.generation.0,
        pinned: checkpoint.pin.clone(),
        retired: false,
    }
}
