//! The order in which queued jobs are served: priority, then the namespace's share, then age.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::core::Core;
use crate::ids::Time;
use crate::job::{Job, Phase};

/// The queue in its order.
pub(super) fn queue(core: &Core, now: Time) -> Vec<&Job> {
    let queued = core.state().live_jobs().filter(|job| job.phase == Phase::Queued);
    in_order(core, now, queued.collect(), |job| *job)
}

/// Things of jobs in the order in which the jobs are served.
pub(super) fn in_order<'a, T>(core: &'a Core, now: Time, things: Vec<T>, job_of: impl Fn(&T) -> &'a Job) -> Vec<T> {
    let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
    for thing in &things {
        let namespace = job_of(thing).submission.namespace.as_str();
        shares.entry(namespace).or_insert_with(|| share(core, namespace, now));
    }
    let mut keyed: Vec<(f64, &Job, T)> = things
        .into_iter()
        .map(|thing| (job_of(&thing), thing))
        .map(|(job, thing)| (shares.get(job.submission.namespace.as_str()).copied().unwrap_or(0.0), job, thing))
        .collect();
    keyed.sort_by(|(a_share, a, _), (b_share, b, _)| compare((*a_share, a), (*b_share, b)));
    keyed.into_iter().map(|(.., thing)| thing).collect()
}

/// Whether a job is, or would be, served before another.
pub(super) fn precedes(core: &Core, now: Time, job: &Job, other: &Job) -> bool {
    let share_of = |job: &Job| share(core, &job.submission.namespace, now);
    compare((share_of(job), job), (share_of(other), other)) == Ordering::Less
}

fn compare((a_share, a): (f64, &Job), (b_share, b): (f64, &Job)) -> Ordering {
    let priority: Ordering = b.priority.cmp(&a.priority);
    let age = || (a.submitted_at, &a.id).cmp(&(b.submitted_at, &b.id));
    priority.then(a_share.total_cmp(&b_share)).then_with(age)
}

/// Decayed worker-seconds over weight: less comes first.
fn share(core: &Core, namespace: &str, now: Time) -> f64 {
    let spent = core.state().usage(namespace).spent(now);
    spent / f64::from(core.policy().quota(namespace).weight.max(1))
}
