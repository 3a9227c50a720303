//! What a look at the state may pass over: groups in which nothing can have happened, and workers that are in one.
//!
//! Nearly every worker steps in a whole group nearly all of the time, and nothing follows from that. A group that a review
//! found whole is calm until one of its members may have fallen silent, or until anything but a heartbeat is heard of its
//! job or members. Like presence this is a function of what was seen, and is gathered anew by every process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{JobId, Time, WorkerId};
use crate::job::{Group, Job, Stage};
use crate::presence::Presence;
use crate::state::State;

/// The groups and workers to look at: all that are not calm.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attention {
    /// Jobs with a calm group, and until when it is.
    calm: BTreeMap<JobId, Time>,
    /// Workers that were seen and belong to no group.
    bystanders: BTreeSet<WorkerId>,
}

impl Attention {
    /// Whether nothing can follow from the job's group, nor from what its members do.
    pub(crate) fn is_calm(&self, now: Time, job: &JobId) -> bool {
        self.calm.get(job).is_some_and(|until| now < *until)
    }

    /// Jobs that are taken for calm now.
    pub(crate) fn calm(&self, now: Time) -> impl Iterator<Item = &JobId> {
        self.calm.iter().filter(move |(_, until)| now < **until).map(|(job, _)| job)
    }

    /// Workers that were seen and belong to no group, by id.
    pub(crate) fn bystanders(&self) -> impl Iterator<Item = &WorkerId> {
        self.bystanders.iter()
    }

    /// Something has happened to the job.
    pub(crate) fn rouse(&mut self, job: &JobId) {
        self.calm.remove(job);
    }

    /// Something has happened to everybody.
    pub(crate) fn rouse_all(&mut self) {
        self.calm.clear();
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

    /// A review has found nothing to do: groups that are whole are calm from here on.
    pub(crate) fn reviewed(&mut self, at: Time, state: &State, presence: &Presence, detection: Duration) {
        for job in state.active_jobs() {
            if self.is_calm(at, &job.id) {
                continue;
            }
            match job.group().and_then(|group| calm_until(at, job, group, presence, detection)) {
                Some(until) => self.calm.insert(job.id.clone(), until),
                None => self.calm.remove(&job.id),
            };
        }
        let state = |id: &JobId| state.job(id).is_some_and(|job| job.group().is_some());
        self.calm.retain(|id, until| at < *until && state(id));
    }
}

/// Until when nothing follows from a group by itself; none if something may follow from it now.
fn calm_until(at: Time, job: &Job, group: &Group, presence: &Presence, detection: Duration) -> Option<Time> {
    let runs = matches!(group.stage, Stage::Running { .. } | Stage::Evaluating { .. });
    if !runs || job.pause.is_some() || job.stopping.is_some() || !group.completed.is_empty() {
        return None;
    }
    let active = job.active_for(at);
    let mut until = match job.submission.scheduling.time_limit {
        Some(limit) => at + limit.checked_sub(active)?,
        None => Time(u64::MAX),
    };
    for member in &group.members {
        let presence = presence.worker(&member.worker)?;
        let is_in = presence.has_joined(&job.id, group.generation)
            && presence.at_work_on(&job.id) == Some(group.generation)
            && presence.holding_of(&job.id).is_some_and(|held| held.generation == group.generation && held.stepping);
        if !is_in || presence.incarnation != member.incarnation || presence.link.is_none() || presence.is_leaving() {
            return None;
        }
        until = until.min(presence.last_heard + detection);
    }
    (at < until).then_some(until)
}
