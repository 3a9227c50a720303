//! What the log remembers of workers: which are lost or fail again and again, which are kept out of groups because of that or because
//! someone says so, and which are to end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, JobId, Time, WorkerId};
use crate::job::{Group, Member};
use crate::policy::Flapping;
use crate::record::{BreakCause, Change, Record, Sign};

/// Losses that are remembered of one worker at most.
const REMEMBERED: usize = 64;

/// The losses of workers, which of them are kept out of groups, and which are to end. A worker whose own machine is at fault for the
/// end of its group counts as one that was lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Flaps {
    losses: BTreeMap<WorkerId, Vec<(Time, JobId)>>,
    /// The newest error that a worker has reported of its own machine, also where it is not held against it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    faults: BTreeMap<WorkerId, (Time, String)>,
    quarantined: BTreeMap<WorkerId, Quarantine>,
    #[serde(default)]
    drained: BTreeMap<WorkerId, Drain>,
}

/// A process of a worker that someone has end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Drain {
    incarnation: Incarnation,
    at: Time,
    reason: String,
}

/// Why and for how long a worker is kept out of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The job that had the worker when it was lost last; none where someone has cordoned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Since when.
    pub since: Time,
    /// Until when, unless someone releases it before; none for as long as nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Why.
    pub reason: String,
}

impl Flaps {
    /// The worker's quarantine, if it is in one.
    pub fn quarantine(&self, worker: &WorkerId) -> Option<&Quarantine> {
        self.quarantined.get(worker)
    }

    /// All workers that are kept out of groups, by id.
    pub fn quarantined(&self) -> impl Iterator<Item = (&WorkerId, &Quarantine)> {
        self.quarantined.iter()
    }

    /// Workers that are not quarantined and were lost too often up to now: each with the job that had it last, and why it is not to be
    /// trusted.
    pub(crate) fn flapping(&self, now: Time, rules: Flapping) -> impl Iterator<Item = (&WorkerId, &JobId, String)> {
        let free = self.losses.iter().filter(|(worker, _)| !self.quarantined.contains_key(*worker));
        free.filter_map(move |(worker, losses)| {
            let is_recent = |at: Time| now.since(at) <= rules.within;
            let recent = losses.iter().filter(|(at, _)| is_recent(*at)).count();
            let (_, job) = losses.last()?;
            let is_held = |fault: Time| is_recent(fault) && losses.iter().any(|(at, _)| *at == fault);
            let fault = self.faults.get(worker).filter(|(at, _)| is_held(*at)).map(|(_, fault)| fault.as_str());
            (recent >= rules.losses as usize).then(|| (worker, job, told(recent, rules.within, fault)))
        })
    }

    /// A group has broken, or a member of one that breaks up says that its own machine is at fault.
    pub(crate) fn broken(&mut self, at: Time, job: &JobId, group: &Group, cause: &BreakCause) {
        match (cause, cause.own_fault()) {
            (_, Some((worker, fault))) => {
                self.faults.insert(worker.clone(), (at, fault));
                self.hold_against(worker, at, job);
                self.forgive_common_faults(group);
            }
            (BreakCause::Lost { workers, sign }, _) => {
                if is_common_fault(workers.len(), group.members.len()) || *sign == Some(Sign::PeerReport) {
                    return;
                }
                workers.iter().for_each(|(worker, _)| self.hold_against(worker, at, job));
            }
            _ => return,
        }
        let is_remembered = |(last, _): &(Time, JobId)| at.since(*last) <= Flapping::REMEMBERED;
        self.losses.retain(|_, losses| losses.last().is_some_and(is_remembered));
        self.faults.retain(|_, (last, _)| at.since(*last) <= Flapping::REMEMBERED);
    }

    fn hold_against(&mut self, worker: &WorkerId, at: Time, job: &JobId) {
        let losses = self.losses.entry(worker.clone()).or_default();
        losses.push((at, job.clone()));
        let surplus = losses.len().saturating_sub(REMEMBERED);
        losses.drain(..surplus);
    }

    /// Errors of their own machines that most of a group's members report, one after the other, are rather the job's fault.
    fn forgive_common_faults(&mut self, group: &Group) {
        let of_group = |member: &Member| {
            let (at, _) = self.faults.get(&member.worker).filter(|(at, _)| *at > group.formed_at)?;
            Some((member.worker.clone(), *at))
        };
        let failed: Vec<(WorkerId, Time)> = group.members.iter().filter_map(of_group).collect();
        if !is_common_fault(failed.len(), group.members.len()) {
            return;
        }
        for (worker, at) in failed {
            if let Some(losses) = self.losses.get_mut(&worker) {
                losses.retain(|(lost, _)| *lost != at);
            }
        }
    }

    /// Why this process of the worker is to end, if it is.
    pub(crate) fn drain(&self, worker: &WorkerId, incarnation: &Incarnation) -> Option<&str> {
        let drain = self.drained.get(worker).filter(|drain| drain.incarnation == *incarnation)?;
        Some(&drain.reason)
    }

    /// Folds in what a record says of a worker. A quarantine that is lifted takes with it all that was held against the worker.
    pub(crate) fn apply(&mut self, record: &Record) {
        let (since, job) = (record.at, record.job.clone());
        match &record.change {
            Change::WorkerQuarantined { worker, until, reason } => {
                let quarantine = Quarantine { job, since, until: Some(*until), reason: reason.clone() };
                self.quarantined.insert(worker.clone(), quarantine);
            }
            Change::WorkerCordoned { worker, reason } => {
                let quarantine = Quarantine { job, since, until: None, reason: reason.clone() };
                self.quarantined.insert(worker.clone(), quarantine);
            }
            Change::WorkerDrained { worker, incarnation, reason } => {
                self.drained.retain(|_, drain| since.since(drain.at) <= Flapping::REMEMBERED);
                let drain = Drain { incarnation: incarnation.clone(), at: since, reason: reason.clone() };
                self.drained.insert(worker.clone(), drain);
            }
            Change::WorkerReleased { worker, .. } => {
                self.quarantined.remove(worker);
                self.losses.remove(worker);
                self.faults.remove(worker);
            }
            _ => {}
        }
    }
}

/// Why a worker that was lost so often, or failed, is kept out of groups.
fn told(times: usize, within: Duration, fault: Option<&str>) -> String {
    let minutes = within.as_secs_f64() / 60.0;
    match fault {
        None => format!("lost {times} times within {minutes:.0} min"),
        Some(fault) => format!("lost or failed {times} times within {minutes:.0} min; its last error: {fault}"),
    }
}

/// Whether so many of a group's members were lost at once that it was rather the network's fault, or the coordinator's, than
/// theirs: else a partition would quarantine the whole cluster.
fn is_common_fault(lost: usize, members: usize) -> bool {
    lost > 1 && lost * 2 > members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hits_most_of_a_group_at_once_is_held_against_nobody() {
        assert!(!is_common_fault(1, 1) && !is_common_fault(1, 2) && !is_common_fault(2, 4));
        assert!(is_common_fault(2, 2) && is_common_fault(2, 3) && is_common_fault(60, 100));
    }
}
