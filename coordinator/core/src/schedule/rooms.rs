//! What is left of the namespaces' quotas, and for whom it is kept.

use super::explain::{EndsWhen, Reason};
use super::reclaim::Amount;
use crate::core::Core;
use crate::job::Job;
use crate::policy::{Bound, Quota};

/// What a namespace uses of its quota.
pub(super) struct Room<'a> {
    quota: Quota,
    workers: usize,
    running: usize,
    /// The first of its jobs that could start and has to wait: what it needs of the quota is kept for it.
    pub(super) first: Option<&'a Job>,
}

impl Room<'_> {
    pub(super) fn of(core: &Core, namespace: &str) -> Self {
        let (quota, usage) = (core.policy().quota(namespace), core.state().usage(namespace));
        Self { quota, workers: usage.workers as usize, running: usage.running as usize, first: None }
    }

    pub(super) fn use_more(&mut self, workers: usize, running: usize) {
        self.workers = self.workers.saturating_add(workers);
        self.running += running;
    }

    pub(super) fn workers_left(&self) -> usize {
        self.quota.max_workers.map_or(usize::MAX, |limit| (limit as usize).saturating_sub(self.workers))
    }

    /// Workers of the quota that are kept for the first.
    pub(super) fn kept(&self) -> usize {
        let first = self.first.filter(|_| self.quota.max_workers.is_some());
        first.map_or(0, |first| first.submission.min_world_size())
    }

    /// What is left beyond that.
    pub(super) fn workers_to_spare(&self) -> usize {
        self.workers_left().saturating_sub(self.kept())
    }

    /// What a job with so many workers would use too much.
    pub(super) fn lack(&self, workers: usize) -> Amount {
        let beyond = |used: usize, more, limit: Option<u32>| {
            limit.map_or(0, |limit| used.saturating_add(more).saturating_sub(limit as usize))
        };
        Amount {
            workers: 0,
            room: beyond(self.workers, workers, self.quota.max_workers),
            running: beyond(self.running, 1, self.quota.max_running),
        }
    }

    /// Why a job with so many workers can't start even as the only one.
    pub(super) fn too_small(&self, workers: usize) -> Option<(Reason, EndsWhen)> {
        let bounds = [(Bound::Workers, workers, self.quota.max_workers), (Bound::Running, 1, self.quota.max_running)];
        let missed = bounds.into_iter().find_map(|(bound, needed, limit)| {
            let limit = limit.filter(|limit| (*limit as usize) < needed)?;
            Some((bound, needed, limit))
        });
        let (bound, needed, limit) = missed?;
        Some((Reason::QuotaTooSmall { bound, needed, limit }, EndsWhen::QuotaAllows { bound, needed }))
    }

    /// Why a job that lacks so much of the quota waits.
    pub(super) fn explain(&self, lack: Amount) -> (Reason, EndsWhen) {
        let (bound, used, limit, by) = match lack.room {
            0 => (Bound::Running, self.running, self.quota.max_running, lack.running),
            _ => (Bound::Workers, self.workers, self.quota.max_workers, lack.room),
        };
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let reason = Reason::Quota { bound, used: small(used), limit: limit.unwrap_or(u32::MAX) };
        (reason, EndsWhen::NamespaceUsesLess { bound, by: small(by) })
    }
}
