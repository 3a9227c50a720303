//! Workers that are lost again and again: what the log remembers of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Time, WorkerId};
use crate::job::Group;
use crate::policy::Flapping;
use crate::record::{BreakCause, Sign};

/// Losses that are remembered of one worker at most.
const REMEMBERED: usize = 64;

/// The losses of workers, and which of them are kept out of groups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Flaps {
    losses: BTreeMap<WorkerId, Vec<(Time, JobId)>>,
    quarantined: BTreeMap<WorkerId, Quarantine>,
}

/// Why and for how long a worker is kept out of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The job that had the worker when it was lost last.
    pub job: JobId,
    /// Since when.
    pub since: Time,
    /// Until when, unless someone releases it before.
    pub until: Time,
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

    /// Workers that are not quarantined and were lost too often up to now: each with the job that had it last and how often.
    pub(crate) fn flapping(&self, now: Time, rules: Flapping) -> impl Iterator<Item = (&WorkerId, &JobId, usize)> {
        let free = self.losses.iter().filter(|(worker, _)| !self.quarantined.contains_key(*worker));
        free.filter_map(move |(worker, losses)| {
            let recent = losses.iter().filter(|(at, _)| now.since(*at) <= rules.within).count();
            let (_, job) = losses.last()?;
            (recent >= rules.losses as usize).then_some((worker, job, recent))
        })
    }

    /// A group has broken.
    pub(crate) fn broken(&mut self, at: Time, job: &JobId, group: &Group, cause: &BreakCause) {
        let BreakCause::Lost { workers, sign } = cause else { return };
        if is_common_fault(workers.len(), group.members.len()) || *sign == Some(Sign::PeerReport) {
            return;
        }
        for (worker, _) in workers {
            let losses = self.losses.entry(worker.clone()).or_default();
            losses.push((at, job.clone()));
            let surplus = losses.len().saturating_sub(REMEMBERED);
            losses.drain(..surplus);
        }
        let is_remembered = |(last, _): &(Time, JobId)| at.since(*last) <= Flapping::REMEMBERED;
        self.losses.retain(|_, losses| losses.last().is_some_and(is_remembered));
    }

    pub(crate) fn quarantine_worker(&mut self, worker: &WorkerId, quarantine: Quarantine) {
        self.quarantined.insert(worker.clone(), quarantine);
    }

    /// It begins anew: what was held against it is forgotten.
    pub(crate) fn release(&mut self, worker: &WorkerId) {
        self.quarantined.remove(worker);
        self.losses.remove(worker);
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
