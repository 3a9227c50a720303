//! The active group of a job: who is lost, when it runs, when it is done, who survives.

use super::At;
use super::{gang, last_save, limits};
use crate::config::FRUITLESS_LIMIT;
use crate::core::Core;
use crate::ids::{JobId, Step, WorkerId};
use crate::job::{Ending, Group, Job, Member, Outcome, Stage};
use crate::policy::{OnPreemption, StopCause};
use crate::presence::WorkerPresence;
use crate::record::{BreakCause, Change, Event, Sign};

/// The next transition of the job's group, if there is one.
pub(super) fn review(core: &Core, at: At, job: &Job) -> Option<Event> {
    let group = job.group()?;
    let change = if is_done(core, at, job, group) {
        finish(job, group)
    } else if let Some(change) = limits::overdue(core, at, job, group) {
        change
    } else if let Stage::Breaking { since, reason } = &group.stage {
        if job.fruitless >= FRUITLESS_LIMIT {
            no_progress(at, job, reason)
        } else {
            let patience = *since + core.timings().detection;
            let deadline = if in_grace(core, at, group) { patience.max(core.grace_ends()) } else { patience };
            reform(core, at, job, group, deadline)?
        }
    } else if !is_undisturbed(core, at, job, group)
        && let Some(cause) = departure(core, job, group).or_else(|| loss(core, at, job, group))
    {
        Change::GroupBroken { generation: group.generation, cause, step: heard_step(core, &job.id, group) }
    } else if matches!(group.stage, Stage::Forming) && is_running(core, job, group) {
        let generation = group.generation;
        Change::GroupRunning { generation }
    } else {
        return None;
    };
    Some(at.record(&job.id, change))
}

/// Whether nobody departs and nobody is lost: what nearly every look at nearly every group finds, in one pass over its
/// members.
fn is_undisturbed(core: &Core, at: At, job: &Job, group: &Group) -> bool {
    group.members.iter().all(|member| {
        let presence = core.presence().worker(&member.worker);
        last_save::can_spare(core, job, group, member)
            || !presence.is_some_and(|presence| has_left(job, group, presence))
                && loss_of(core, at, job, group, member, presence).is_none()
    })
}

/// Whether a member was in the group and is not any more.
fn has_left(job: &Job, group: &Group, presence: &WorkerPresence) -> bool {
    presence.has_joined(&job.id, group.generation) && presence.at_work_on(&job.id).is_none()
}

/// The highest step that a member was heard to have completed.
pub(super) fn heard_step(core: &Core, job: &JobId, group: &Group) -> Step {
    let members = group.members.iter();
    let heard = members.filter_map(|member| {
        let presence = core.presence().worker(&member.worker)?;
        Some(presence.holding_of(job)?.step)
    });
    heard.max().unwrap_or_default().max(group.step)
}

/// Whether a group still forms, and begins from a checkpoint or from the seed: nobody has to make a step before it can stop.
pub(super) fn has_nothing_to_save(core: &Core, job: &Job, group: &Group) -> bool {
    let mut members = group.members.iter();
    matches!(group.stage, Stage::Forming)
        && members.all(|member| {
            let held = core.presence().worker(&member.worker).and_then(|seen| seen.holding_of(&job.id));
            !member.has_state && held.is_none_or(|held| !held.has_state)
        })
}

/// Every member has said that it is done, what they have done is saved, and no checkpoint is under way any more.
fn is_done(core: &Core, at: At, job: &Job, group: &Group) -> bool {
    let mut members = group.members.iter();
    let gathers = || {
        core.presence().gatherings().any(|((id, _, generation), gathering)| {
            *id == job.id
                && *generation == group.generation
                && at.0.since(gathering.last_at) <= core.timings().detection
        })
    };
    let is_complete = members.all(|member| group.completed.contains_key(&member.worker));
    is_complete && job.unsaved().is_none() && job.committing.is_empty() && !gathers()
}

fn finish(job: &Job, group: &Group) -> Change {
    let finished = group.completed.values().all(|outcome| *outcome == Outcome::Finished);
    if finished {
        let ending = Ending::Succeeded { step: job.submission.total_steps, summary: group.summary.clone() };
        return Change::Ended { ending };
    }
    without_workers(job, "its workers stopped after a checkpoint")
}

/// What becomes of a job that has given its workers back, or lost them.
fn without_workers(job: &Job, reason: &str) -> Change {
    let scheduling = &job.submission.scheduling;
    match (&job.stopping, &job.pause) {
        (Some(StopCause::TimeLimit), _) => limits::time_is_up(job),
        (_, Some(reason)) => Change::Paused { reason: reason.clone() },
        (Some(StopCause::Preemption { by }), _) if scheduling.on_preemption == OnPreemption::Cancel => {
            let ending = Ending::Preempted { by: by.clone() };
            Change::Ended { ending }
        }
        (Some(StopCause::Preemption { by } | StopCause::Reclaim { by }), _) => Change::Preempted { by: by.clone() },
        (None, None) => Change::Requeued { reason: reason.to_owned() },
    }
}

fn no_progress(at: At, job: &Job, reason: &str) -> Change {
    let message = format!("several groups in a row made no step; the last: {reason}");
    limits::failed(at, job, "no_progress", message)
}

fn is_running(core: &Core, job: &Job, group: &Group) -> bool {
    group.members.iter().all(|member| {
        let presence = core.presence().worker(&member.worker);
        group.completed.contains_key(&member.worker)
            || presence.is_some_and(|presence| {
                presence.has_entered(&job.id, group.generation)
                    || presence
                        .holding_of(&job.id)
                        .is_some_and(|h| h.generation == group.generation && h.step > group.step)
            })
    })
}

/// A member ends on purpose, and the group has saved its state and falls apart because of that.
fn departure(core: &Core, job: &Job, group: &Group) -> Option<BreakCause> {
    let present = |member: &Member| core.presence().worker(&member.worker);
    let is_gone = |member: &Member| present(member).is_some_and(|presence| has_left(job, group, presence));
    let mut members = group.members.iter();
    if !members.any(|member| !group.completed.contains_key(&member.worker) && is_gone(member)) {
        return None;
    }
    group.members.iter().find_map(|member| leaves(present(member)?, &member.worker))
}

/// The departure of a worker that ends on purpose.
fn leaves(presence: &WorkerPresence, worker: &WorkerId) -> Option<BreakCause> {
    let reason = presence.leaving.clone().or_else(|| presence.asked_to_end.clone())?;
    Some(BreakCause::Departure { worker: worker.clone(), reason })
}

/// What gives away that members are lost; none when all are there or may still come back. Who has said that it ends is
/// not lost, and who left because others are gone is not named.
fn loss(core: &Core, at: At, job: &Job, group: &Group) -> Option<BreakCause> {
    let needed = group.members.iter().filter(|member| !last_save::can_spare(core, job, group, member));
    let gone = needed.filter_map(|member| {
        let presence = core.presence().worker(&member.worker);
        let (sign, reason) = loss_of(core, at, job, group, member, presence)?;
        let departure = presence.and_then(|presence| leaves(presence, &member.worker));
        Some((sign, (member.worker.clone(), reason), departure))
    });
    let (mut departures, mut losses) = (Vec::new(), Vec::new());
    for (sign, loss, departure) in gone {
        match departure {
            Some(departure) => departures.push(departure),
            None => losses.push((sign, loss)),
        }
    }
    if losses.iter().any(|(sign, _)| *sign != Sign::PeerReport) {
        losses.retain(|(sign, _)| *sign != Sign::PeerReport);
    }
    let (signs, workers): (Vec<_>, Vec<_>) = losses.into_iter().unzip();
    match signs.first() {
        Some(sign) => Some(BreakCause::Lost { workers, sign: Some(*sign) }),
        None => departures.into_iter().next(),
    }
}

/// Whether members that are not heard may still be about to come back.
fn in_grace(core: &Core, at: At, group: &Group) -> bool {
    core.presence().in_grace(at.0, core.timings().grace, group)
}

/// What gives away that a member, of which this is seen, is lost.
fn loss_of(
    core: &Core,
    at: At,
    job: &Job,
    group: &Group,
    member: &Member,
    presence: Option<&WorkerPresence>,
) -> Option<(Sign, String)> {
    let timings = core.timings();
    let in_grace = in_grace(core, at, group);
    let told = |sign, reason: &str| Some((sign, reason.to_owned()));
    let Some(presence) = presence else {
        return told(Sign::Absence, "has not come back").filter(|_| !in_grace);
    };
    if presence.incarnation != member.incarnation {
        return told(Sign::ProcessExit, "was replaced by a new process");
    }
    if presence.link.is_none() {
        return told(Sign::StreamEnd, "ended its stream").filter(|_| !in_grace);
    }
    let silence = at.0.since(presence.last_heard);
    if silence > timings.detection {
        return Some((Sign::Heartbeat, format!("was silent for {:.1} s", silence.as_secs_f64())));
    }
    if !presence.has_joined(&job.id, group.generation) {
        let waited = at.0.since(group.formed_at);
        let is_late = !in_grace && waited > timings.forming;
        return told(Sign::Absence, "did not begin to form").filter(|_| is_late);
    }
    let holding = presence.holding_of(&job.id);
    let is_in = holding.is_some_and(|h| h.generation == group.generation && h.stepping);
    let has_left = !is_in && !group.completed.contains_key(&member.worker);
    told(Sign::PeerReport, "has left the group").filter(|_| has_left)
}

/// What became of a member of a group that breaks up.
enum Fate {
    /// It may still answer.
    Awaited,
    /// It is out of the old group and can be in the next one.
    Available,
    /// It is not waited for any longer.
    Gone,
}

fn fate(core: &Core, at: At, job: &Job, group: &Group, worker: &WorkerId, is_late: bool) -> Fate {
    let presence = core.presence().worker(worker);
    let in_grace = in_grace(core, at, group);
    match presence {
        Some(presence) if presence.is_live(at.0, core.timings().detection) => {
            match presence.at_work_on(&job.id).is_some() {
                // Also of one that ends: it has yet to say why it left.
                true if !is_late => Fate::Awaited,
                false if !presence.is_leaving() => Fate::Available,
                _ => Fate::Gone,
            }
        }
        Some(presence) if presence.is_leaving() => Fate::Gone,
        _ if in_grace => Fate::Awaited,
        _ => Fate::Gone,
    }
}

/// The next group, from the survivors and who is free; back to the queue when no state is left
/// and there are too few to begin anew. None while a survivor may still answer.
fn reform(core: &Core, at: At, job: &Job, group: &Group, deadline: crate::ids::Time) -> Option<Change> {
    let is_late = at.0 >= deadline;
    let mut survivors = Vec::new();
    for (rank, member) in group.members.iter().enumerate() {
        match fate(core, at, job, group, &member.worker, is_late) {
            Fate::Awaited => return None,
            Fate::Available => survivors.push(gang::Candidate::survivor(&member.worker, rank)),
            Fate::Gone => {}
        }
    }
    gang::include_furthest(core, at, job, group.members.len(), &mut survivors);
    gang::leave_out_quarantined(core, job, &mut survivors);
    let has_state = survivors.iter().any(|survivor| gang::holds_useful_state(core, job, &survivor.worker));
    let replaced = gang::replaced(core, job, &survivors);
    let staying = survivors.len() - usize::from(replaced.is_some());
    let mut free = gang::joiners(core, at, job, staying, usize::from(replaced.is_some()));
    free.retain(|joiner| survivors.iter().all(|survivor| survivor.worker != joiner.worker));
    if let Some(place) = replaced.filter(|_| !free.is_empty()) {
        survivors.remove(place);
    }
    if has_state || survivors.len() + free.len() >= job.submission.min_world_size() {
        survivors.extend(free);
        return Some(gang::form(core, job, survivors));
    }
    Some(without_workers(job, "too few of its workers are left"))
}
