//! What a look at the state may pass over: groups in which nothing can have happened, and workers that are in one.
//!
//! Nearly every worker steps in a whole group nearly all of the time, and nothing follows from that; nor from a group whose
//! members were all told what they are to do, and have yet to answer. A group that a review found so is calm until one of its
//! members may have fallen silent or its time is up, or until anything but a heartbeat is heard of its job or members. Like presence
//! this is a function of what was seen, and is gathered anew by every process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::Timings;
use crate::ids::{JobId, Time, WorkerId};
use crate::job::{Group, Job, Stage};
use crate::presence::{Presence, WorkerPresence};
use crate::state::State;

/// Where a look has found nothing, the next one is for what time brings: it need not come at once.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The groups and workers to look at: all that are not calm.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attention {
    /// Jobs with a calm group.
    calm: BTreeMap<JobId, Calm>,
    /// Jobs with another group of which nothing followed when it was looked at, and until when that is taken for granted.
    passed_over: BTreeMap<JobId, Time>,
    /// Workers that were seen and belong to no group.
    bystanders: BTreeSet<WorkerId>,
}

/// What is known of a calm group.
#[derive(Debug, Clone, Copy)]
struct Calm {
    until: Time,
    /// Members that are not there any more, or are about to end: none but of a group that breaks up.
    lost: usize,
}

impl Attention {
    /// Whether nothing can follow from the job's group, nor from what its members do.
    pub(crate) fn is_calm(&self, now: Time, job: &JobId) -> bool {
        self.lost_of_calm(now, job).is_some()
    }

    /// Whether a look need not come to the job: its group is calm, or was looked at a moment ago and nothing was heard of it since.
    pub(crate) fn may_pass_over(&self, now: Time, job: &JobId) -> bool {
        self.is_calm(now, job) || self.passed_over.get(job).is_some_and(|until| now < *until)
    }

    /// Whether it is taken for granted since an earlier time that nothing follows from the job's group.
    fn was_passed_over_before(&self, now: Time, job: &JobId) -> bool {
        self.passed_over.get(job).is_some_and(|until| now < *until && *until < now + LOOK_AGAIN)
    }

    /// A look at these has found nothing to do.
    pub(crate) fn passed_over(&mut self, now: Time, jobs: Vec<JobId>) {
        let until = now + LOOK_AGAIN;
        self.passed_over.extend(jobs.into_iter().map(|job| (job, until)));
    }

    /// How many members the job's calm group has lost; none of one that is not calm.
    pub(crate) fn lost_of_calm(&self, now: Time, job: &JobId) -> Option<usize> {
        self.calm.get(job).filter(|calm| now < calm.until).map(|calm| calm.lost)
    }

    /// Jobs that are taken for calm now.
    pub(crate) fn calm(&self, now: Time) -> impl Iterator<Item = &JobId> {
        self.calm.iter().filter(move |(_, calm)| now < calm.until).map(|(job, _)| job)
    }

    /// Workers that were seen and belong to no group, by id.
    pub(crate) fn bystanders(&self) -> impl Iterator<Item = &WorkerId> {
        self.bystanders.iter()
    }

    /// Something has happened to the job.
    pub(crate) fn rouse(&mut self, job: &JobId) {
        self.calm.remove(job);
        self.passed_over.remove(job);
    }

    /// Something has happened to everybody.
    pub(crate) fn rouse_all(&mut self) {
        self.calm.clear();
        self.passed_over.clear();
    }

    /// A worker was seen that may not have been before.
    pub(crate) fn seen(&mut self, worker: &WorkerId, state: &State) {
        if state.home_of(worker).is_none() {
            self.bystanders.insert(worker.clone());
        }
    }

    /// A group has come to an end, or another in its place.
    pub(crate) fn regrouped(&mut self, former: &[WorkerId], job: &JobId, state: &State, presence: &Presence) {
        for worker in former {
            if state.home_of(worker).is_none() && presence.worker(worker).is_some() {
                self.bystanders.insert(worker.clone());
            }
        }
        let group = state.job(job).and_then(Job::group);
        for member in group.into_iter().flat_map(|group| &group.members) {
            self.bystanders.remove(&member.worker);
        }
    }

    /// A review has found nothing to do: groups that are whole, or wait for their members' answers, are calm from here on.
    pub(crate) fn reviewed(&mut self, at: Time, state: &State, presence: &Presence, timings: &Timings) {
        for job in state.active_jobs() {
            if self.is_calm(at, &job.id) || self.was_passed_over_before(at, &job.id) {
                continue;
            }
            match job.group().and_then(|group| calm(at, job, group, presence, timings)) {
                Some(calm) => self.calm.insert(job.id.clone(), calm),
                None => self.calm.remove(&job.id),
            };
        }
        let state = |id: &JobId| state.job(id).is_some_and(|job| job.group().is_some());
        self.calm.retain(|id, calm| at < calm.until && state(id));
        self.passed_over.retain(|_, until| at < *until);
    }
}

/// Until when nothing follows from a group by itself; none if something may follow from it now.
fn calm(at: Time, job: &Job, group: &Group, presence: &Presence, timings: &Timings) -> Option<Calm> {
    if job.pause.is_some() || job.stopping.is_some() || !group.completed.is_empty() {
        return None;
    }
    let mut until = match group.stage {
        Stage::Running { .. } | Stage::Evaluating { .. } => Time(u64::MAX),
        _ if presence.in_grace(at, timings.grace, group) => return None,
        Stage::Forming => group.formed_at + timings.forming,
        Stage::Breaking { since, .. } => since + timings.detection,
    };
    if let Some(limit) = job.submission.scheduling.time_limit {
        until = until.min(at + limit.checked_sub(job.active_for(at))?);
    }
    let mut lost = 0;
    for member in &group.members {
        let seen = presence.worker(&member.worker).filter(|seen| seen.link.is_some());
        match (&group.stage, seen) {
            (Stage::Breaking { .. }, None) => lost += 1,
            (Stage::Breaking { .. }, Some(seen)) => {
                if !has_heard_that_it_breaks(seen) {
                    return None;
                }
                lost += usize::from(seen.is_leaving());
                until = until.min(seen.last_heard + timings.detection);
            }
            (stage, seen) => {
                let seen = seen.filter(|seen| seen.incarnation == member.incarnation && !seen.is_leaving())?;
                let is_awaited = matches!(stage, Stage::Forming) && is_about_to_join(job, group, seen);
                if !is_awaited && !is_in(job, group, seen) {
                    return None;
                }
                until = until.min(seen.last_heard + timings.detection);
            }
        }
    }
    (at < until).then_some(Calm { until, lost })
}

/// Whether a member is known to be in its group.
fn is_in(job: &Job, group: &Group, seen: &WorkerPresence) -> bool {
    seen.has_joined(&job.id, group.generation)
        && seen.at_work_on(&job.id) == Some(group.generation)
        && seen.holding_of(&job.id).is_some_and(|held| held.generation == group.generation && held.stepping)
}

/// Whether a member was told to form its group, and has not answered.
fn is_about_to_join(job: &Job, group: &Group, seen: &WorkerPresence) -> bool {
    seen.was_summoned(&job.id, group.generation) && !seen.has_joined(&job.id, group.generation)
}

/// Whether a worker is out of its group, or was told to leave it, and needs to be told nothing else.
fn has_heard_that_it_breaks(seen: &WorkerPresence) -> bool {
    let is_to_hear_that_it_ends = seen.asked_to_end.is_some() && seen.leaving.is_none();
    let has_heard = seen.at_work().is_none_or(|(job, generation)| seen.was_dismissed(job, generation));
    has_heard && !is_to_hear_that_it_ends
}
