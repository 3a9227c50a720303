//! What workers say.

use super::{At, checkpoint, fallback, last_save, limits};
use crate::command::{Failure, Report, WorkerReport};
use crate::config::SKIPS_LOGGED;
use crate::core::{Core, Refusal};
use crate::ids::{Generation, JobId, Link, Step, WorkerId};
use crate::job::{Group, Stage};
use crate::presence::{Holding, Seen};
use crate::record::{BreakCause, Change, Event, is_own_fault};

type Decision = Result<Vec<Event>, Refusal>;

/// A worker has opened a stream. Its newest process owns the id, unless another one is still heard.
pub(super) fn hello(core: &Core, at: At, said: &WorkerReport) -> Decision {
    let Report::Hello { incarnation, host, store_address, holding } = &said.report else {
        return Err(Refusal::StaleLink);
    };
    let known = core.presence().worker(&said.worker);
    let taken =
        known.is_some_and(|known| known.incarnation != *incarnation && known.is_live(at.0, core.timings().detection));
    if taken {
        return Err(Refusal::WorkerIdTaken);
    }
    // A slow hello of an older stream must not shut out the stream that its worker speaks on now.
    let overtaken = known.is_some_and(|known| known.incarnation == *incarnation && known.newest_link > said.link);
    if overtaken {
        return Err(Refusal::StaleLink);
    }
    let worker = said.worker.clone();
    let connected = at.seen(Seen::Connected {
        worker: worker.clone(),
        link: said.link,
        incarnation: incarnation.clone(),
        host: host.clone(),
        store_address: store_address.clone(),
        holding: holding.clone(),
    });
    // Another coordinator may have been asked for that.
    let drain = core.state().flaps().drain(&worker, incarnation).map(str::to_owned);
    let asked = drain.map(|reason| at.seen(Seen::AskedToEnd { worker, reason }));
    Ok(std::iter::once(connected).chain(asked).collect())
}

/// A worker with a stream says anything but hello.
pub(super) fn report(core: &Core, at: At, said: &WorkerReport) -> Decision {
    let worker = &said.worker;
    expect_link(core, worker, said.link)?;
    match &said.report {
        Report::Hello { .. } => Err(Refusal::StaleLink),
        Report::Heartbeat { at: place, pace } => {
            Ok(vec![at.seen(Seen::At { worker: worker.clone(), place: place.clone(), pace: *pace })])
        }
        Report::Entered { job, generation, step } => Ok(vec![at.seen(Seen::Entered {
            worker: worker.clone(),
            job: job.clone(),
            generation: *generation,
            step: *step,
        })]),
        Report::Left { job, generation, step, has_state, failure } => {
            let holding = Holding {
                job: job.clone(),
                generation: *generation,
                step: *step,
                has_state: *has_state,
                stepping: false,
            };
            Ok(left(core, at, worker, holding, failure.as_ref()))
        }
        Report::EvaluationStarted { job, generation } => Ok(evaluation_started(core, at, worker, job, *generation)),
        Report::Completed { .. } => Ok(completed(core, at, worker, &said.report)),
        Report::PartsWritten { .. } => Ok(checkpoint::parts_written(core, at, worker, &said.report)),
        Report::CheckpointFailed { .. } => Ok(checkpoint::failed(core, at, worker, &said.report)),
        Report::UpdateRefused { .. } => Ok(update_refused(core, at, worker, &said.report)),
        Report::Goodbye { reason } => {
            Ok(vec![at.seen(Seen::Leaving { worker: worker.clone(), reason: reason.clone() })])
        }
    }
}

/// The stream must be the worker's newest: what an old one still delivers means nothing.
pub(super) fn expect_link(core: &Core, worker: &WorkerId, link: Link) -> Result<(), Refusal> {
    let known = core.presence().worker(worker);
    match known.and_then(|known| known.link) {
        Some(newest) if newest == link => Ok(()),
        _ => Err(Refusal::StaleLink),
    }
}

/// The group with this generation, if it is the job's active one, its work counts and the worker belongs to it.
fn group_of<'a>(core: &'a Core, worker: &WorkerId, job: &JobId, generation: Generation) -> Option<&'a Group> {
    let group = core.state().job(job)?.group()?;
    let is_given_up = core.state().job(job).is_some_and(|job| job.gave_up(generation));
    let belongs = group.generation == generation && group.member(worker).is_some() && !is_given_up;
    belongs.then_some(group)
}

fn left(core: &Core, at: At, worker: &WorkerId, holding: Holding, failure: Option<&Failure>) -> Vec<Event> {
    let job = holding.job.clone();
    let group = group_of(core, worker, &job, holding.generation);
    let step = holding.step;
    let mut events = vec![at.seen(Seen::Left { worker: worker.clone(), holding })];
    let (Some(group), Some(failure), Some(known)) = (group, failure, core.state().job(&job)) else {
        return events;
    };
    let fallback = fallback::of(core, at, (known, group), worker, step, failure);
    if !fallback.is_empty() {
        events.extend(fallback);
        return events;
    }
    if let Some(change) = failure_change(core, at, group, worker, &job, step, failure) {
        events.push(at.record(&job, change));
    }
    events
}

/// A permanent failure ends the job, or this try of it, with it as the cause, even when its fallout was heard first. Likewise a member
/// that says that its own machine is at fault is named, and it is held against it, in whatever order the errors come.
fn failure_change(
    core: &Core,
    at: At,
    group: &Group,
    worker: &WorkerId,
    job: &JobId,
    step: Step,
    failure: &Failure,
) -> Option<Change> {
    let (rank, _) = group.member(worker)?;
    if failure.permanent {
        let message = format!("rank {rank} ({worker}): {}", failure.message);
        let job = core.state().job(job)?;
        return Some(limits::failed(at, job, &failure.code, message));
    }
    let is_fallout = group.is_breaking() && !is_own_fault(&failure.code);
    if is_fallout || group.completed.contains_key(worker) {
        return None;
    }
    Some(Change::GroupBroken {
        generation: group.generation,
        cause: BreakCause::Failure {
            rank,
            worker: worker.clone(),
            code: failure.code.clone(),
            message: failure.message.clone(),
        },
        step: step.max(super::group::heard_step(core, job, group)),
    })
}

/// An update was not made. It is told once, also where another member repeats it after the group is over; of many skipped ones the
/// first.
fn update_refused(core: &Core, at: At, worker: &WorkerId, report: &Report) -> Vec<Event> {
    let Report::UpdateRefused { job, generation, step, reason, rewound_to } = report else {
        return Vec::new();
    };
    let (generation, step, reason) = (*generation, *step, reason.clone());
    let mut events = vec![at.heard(worker)];
    let known = core.state().job(job).filter(|job| {
        let is_of_group = job.groups.iter().any(|group| group.generation == generation);
        let is_news = job.refused.is_none_or(|told| (generation, step) > told);
        is_of_group && is_news && !job.has_ended() && !job.gave_up(generation)
    });
    let change = match (known, *rewound_to) {
        (Some(_), Some(to)) => Change::Rewound { step, to, generation, reason },
        (Some(known), None) if known.skipped < SKIPS_LOGGED => Change::UpdateSkipped { step, generation, reason },
        _ => return events,
    };
    events.push(at.record(job, change));
    events
}

fn evaluation_started(core: &Core, at: At, worker: &WorkerId, job: &JobId, generation: Generation) -> Vec<Event> {
    let mut events = vec![at.heard(worker)];
    if let Some(group) = group_of(core, worker, job, generation)
        && matches!(group.stage, Stage::Forming | Stage::Running { .. })
    {
        events.push(at.record(job, Change::EvaluationStarted { generation }));
    }
    events
}

fn completed(core: &Core, at: At, worker: &WorkerId, report: &Report) -> Vec<Event> {
    let Report::Completed { job, generation, step, outcome, summary } = report else {
        return Vec::new();
    };
    let mut events = vec![at.seen(Seen::Left {
        worker: worker.clone(),
        holding: Holding { job: job.clone(), generation: *generation, step: *step, has_state: true, stepping: false },
    })];
    if let Some(group) = group_of(core, worker, job, *generation)
        && !group.completed.contains_key(worker)
    {
        let change = Change::MemberCompleted {
            generation: *generation,
            worker: worker.clone(),
            step: *step,
            outcome: *outcome,
            summary: summary.clone(),
        };
        events.push(at.record(job, change));
    }
    events.extend(last_save::without_part(core, at, worker, (job, *generation), *step));
    events
}
