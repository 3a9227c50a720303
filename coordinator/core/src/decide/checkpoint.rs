//! Checkpoints: from parts to a committed manifest, and from there to retention.

use super::{At, last_save};
use crate::command::Report;
use crate::core::{Core, Refusal};
use crate::ids::{Generation, JobId, Step, Time, WorkerId};
use crate::job::Job;
use crate::presence::Seen;
use crate::record::{Change, Event};

type Decision = Result<Vec<Event>, Refusal>;

/// A rank has written its parts. When it is the last one of its attempt, the attempt is complete
/// and its manifest is to be committed.
pub(super) fn parts_written(core: &Core, at: At, worker: &WorkerId, report: &Report) -> Vec<Event> {
    let Report::PartsWritten { job, generation, step, rank, world_size, parts } = report else {
        return Vec::new();
    };
    let (step, generation) = (*step, *generation);
    let key = (job.clone(), step, generation);
    let gathering = core.presence().gathering(&key);
    let fits = rank.0 < *world_size && gathering.is_none_or(|g| g.world_size == *world_size);
    let known = core.state().job(job);
    let is_wanted = fits && known.is_some_and(|job| wants(core, at, job, step, generation));
    let others = gathering.map_or(0, |g| g.ranks.len() - usize::from(g.ranks.contains_key(rank)));
    let is_complete = is_wanted && others + 1 == *world_size as usize;
    let reported = Seen::PartsWritten {
        worker: worker.clone(),
        job: job.clone(),
        step,
        generation,
        parts: (is_wanted && !is_complete).then(|| (*rank, *world_size, parts.clone())),
    };
    let mut events = vec![at.seen(reported)];
    if is_complete {
        let mut ranks = gathering.map(|g| g.ranks.clone()).unwrap_or_default();
        ranks.insert(*rank, parts.clone());
        let ranks = ranks.into_values().collect();
        let written = Change::CheckpointWritten { step, generation, ranks };
        events.push(at.record(job, written));
        events.push(end_gathering(at, job, step, generation));
    }
    events
}

/// Whether the attempt may still become a checkpoint.
fn wants(core: &Core, at: At, job: &Job, step: Step, generation: Generation) -> bool {
    let newest = job.newest_checkpoint().map(|checkpoint| checkpoint.step);
    let is_current = job.group().is_some_and(|group| group.generation == generation);
    // What is swept, or is being swept, has lost its files.
    let has_files = is_current || generation > job.swept && !sweep_is_due(core, at.0, job);
    !job.has_ended()
        && has_files
        && newest.is_none_or(|newest| step > newest)
        && generation <= job.generation
        && !job.gave_up(generation)
        && !job.committing.keys().any(|(committing, _)| *committing == step)
        && job.last_failed != Some((step, generation))
}

/// A rank could not write its parts: the attempt comes to nothing, the run goes on.
pub(super) fn failed(core: &Core, at: At, worker: &WorkerId, report: &Report) -> Vec<Event> {
    let Report::CheckpointFailed { job, generation, step, rank, error } = report else {
        return Vec::new();
    };
    let (step, generation) = (*step, *generation);
    let reported = Seen::PartsWritten { worker: worker.clone(), job: job.clone(), step, generation, parts: None };
    let mut events = vec![at.seen(reported)];
    if core.state().job(job).is_some_and(|job| wants(core, at, job, step, generation)) {
        let error = format!("rank {rank} ({worker}): {error}");
        let change = Change::CheckpointFailed { step, generation, error };
        events.push(at.record(job, change));
        events.push(end_gathering(at, job, step, generation));
    }
    events
}

/// The manifest exists. Older attempts that are still incomplete are given up, and retention
/// takes what is too much.
pub(super) fn committed(core: &Core, at: At, id: &JobId, step: Step, generation: Generation) -> Decision {
    let job = committing(core, id, step, generation)?;
    let change = Change::CheckpointCommitted { step, generation };
    let mut events = vec![at.record(id, change)];
    let overtaken = core.presence().gatherings().filter(|((of, s, _), _)| of == id && *s <= step);
    events.extend(overtaken.map(|((_, s, g), _)| end_gathering(at, id, *s, *g)));

    events.extend(retire(at, job, (step, generation)));
    Ok(events)
}

/// What retention gives up once `another` is left to it as well: all but the newest that it keeps. Pinned ones are
/// not its business, and don't count.
pub(super) fn retire(at: At, job: &Job, another: (Step, Generation)) -> impl Iterator<Item = Event> {
    let unpinned = job.checkpoints.iter().filter(|checkpoint| checkpoint.pin.is_none());
    let mut left: Vec<_> = unpinned.map(|checkpoint| (checkpoint.step, checkpoint.generation)).collect();
    left.push(another);
    left.sort_unstable();
    let surplus = left.len().saturating_sub(job.submission.keep.max(1) as usize);
    left.into_iter()
        .take(surplus)
        .map(move |(step, generation)| at.record(&job.id, Change::CheckpointRetired { step, generation }))
}

pub(super) fn manifest_failed(
    core: &Core,
    at: At,
    id: &JobId,
    step: Step,
    generation: Generation,
    error: &str,
) -> Decision {
    let job = committing(core, id, step, generation)?;
    let error = format!("the manifest could not be written: {error}");
    let broken = last_save::without_manifest(job, step, &error);
    let failed = Change::CheckpointFailed { step, generation, error };
    Ok(std::iter::once(failed).chain(broken).map(|change| at.record(id, change)).collect())
}

pub(super) fn deleted(core: &Core, at: At, id: &JobId, step: Step, generation: Generation) -> Decision {
    let job = core.state().job(id).ok_or(Refusal::NotOutstanding)?;
    let mut retired = job.retired.iter();
    if !retired.any(|checkpoint| (checkpoint.step, checkpoint.generation) == (step, generation)) {
        return Err(Refusal::NotOutstanding);
    }
    Ok(vec![at.record(id, Change::CheckpointDeleted { step, generation })])
}

pub(super) fn swept(core: &Core, at: At, id: &JobId) -> Decision {
    match core.state().job(id) {
        Some(job) if job.litter_since.is_some() => Ok(vec![at.record(id, Change::Swept)]),
        _ => Err(Refusal::NotOutstanding),
    }
}

/// Whether the parts that no manifest names have lain long enough, and this process has watched for as long: what
/// it was not told of yet is no litter.
pub(crate) fn sweep_is_due(core: &Core, now: Time, job: &Job) -> bool {
    let watching = core.presence().watching_since;
    job.litter_since.is_some_and(|since| now.since(since.max(watching)) > core.timings().sweep)
}

/// Attempts that nobody can complete any more: their group is over, and no part has come for long.
pub(super) fn given_up(core: &Core, at: At) -> Option<Event> {
    let mut gatherings = core.presence().gatherings();
    let ((job, step, generation), _) = gatherings.find(|((id, _, generation), gathering)| {
        let job = core.state().job(id);
        let is_current = job.and_then(Job::group).is_some_and(|group| group.generation == *generation);
        let is_over = job.is_none_or(Job::has_ended);
        is_over || !is_current && at.0.since(gathering.last_at) > core.timings().grace
    })?;
    Some(end_gathering(at, job, *step, *generation))
}

fn committing<'a>(core: &'a Core, id: &JobId, step: Step, generation: Generation) -> Result<&'a Job, Refusal> {
    let job = core.state().job(id).ok_or(Refusal::NotOutstanding)?;
    let is_committing = job.committing.contains_key(&(step, generation));
    is_committing.then_some(job).ok_or(Refusal::NotOutstanding)
}

pub(super) fn end_gathering(at: At, job: &JobId, step: Step, generation: Generation) -> Event {
    let job = job.clone();
    at.seen(Seen::GatheringEnded { job, step, generation })
}
