//! The queue as the wire shows it: the plan's reasons in words.

use cappa_core::{Bound, Condition, EndsWhen, JobId, Reason, Wait};
use cappa_proto as proto;

use crate::driver::View;
use crate::history::unix_ms;

/// The waiting jobs of a namespace, or of all when it is empty.
pub(crate) fn queue(view: &View, namespace: &str) -> proto::QueueResponse {
    let is_shown = |of: &str| namespace.is_empty() || of == namespace;
    let plan = view.plan();
    let places = (1..).zip(&plan.waits);
    let jobs = places.filter_map(|(place, wait)| queued(view, place, wait)).filter(|job| is_shown(&job.namespace));
    let (free, connected) = view.core.workers_free(view.now());
    proto::QueueResponse {
        jobs: jobs.collect(),
        namespaces: namespaces(view).into_iter().filter(|of| is_shown(&of.namespace)).collect(),
        free_workers: u32::try_from(free).unwrap_or(u32::MAX),
        connected_workers: u32::try_from(connected).unwrap_or(u32::MAX),
    }
}

fn queued(view: &View, place: u32, wait: &Wait) -> Option<proto::QueuedJob> {
    let job = view.core.state().job(&wait.job)?;
    let (ends_when, ends_at) = ending(&wait.ends_when);
    Some(proto::QueuedJob {
        place,
        job_id: job.id.to_string(),
        namespace: job.submission.namespace.clone(),
        priority: job.priority,
        min_workers: job.submission.min_workers,
        max_workers: job.submission.max_workers,
        waits_since_unix_ms: unix_ms(job.phase_since),
        reason: word(&wait.reason).to_owned(),
        explanation: explanation(&wait.reason),
        ends_when,
        ends_at_unix_ms: ends_at,
        jobs: others(&wait.reason),
    })
}

fn namespaces(view: &View) -> Vec<proto::NamespaceUse> {
    let use_of = |(namespace, usage): (&str, &cappa_core::Usage)| {
        let quota = view.core.policy().quota(namespace);
        proto::NamespaceUse {
            namespace: namespace.to_owned(),
            queued: usage.queued,
            running: usage.running,
            workers: usage.workers,
            worker_seconds: usage.spent(view.now()),
            weight: quota.weight,
            max_workers: quota.max_workers,
            max_running: quota.max_running,
            max_queued: quota.max_queued,
        }
    };
    view.core.state().usages().map(use_of).collect()
}

/// The stable word for a reason.
fn word(reason: &Reason) -> &'static str {
    match reason {
        Reason::Starting => "starting",
        Reason::Settling { .. } => "settling",
        Reason::Workers { .. } => "workers",
        Reason::TooFewConnected { .. } => "too_few_connected",
        Reason::Freeing { .. } => "freeing",
        Reason::Behind { .. } | Reason::BehindSibling { .. } => "behind",
        Reason::Quota { .. } | Reason::QuotaTooSmall { .. } => "quota",
        Reason::Dependency { .. } => "dependency",
        Reason::Backoff { .. } => "backoff",
    }
}

/// The reason in words.
pub(crate) fn explanation(reason: &Reason) -> String {
    match reason {
        Reason::Starting => "is about to start".to_owned(),
        Reason::Settling { free } => format!("{free} workers are free; waits a moment for more to arrive"),
        Reason::Workers { free, needed } => format!("needs {needed} workers; {free} are free and reserved for it"),
        Reason::TooFewConnected { connected, needed } => {
            format!("needs {needed} workers; only {connected} are connected")
        }
        Reason::Freeing { from } => format!("gets the workers of {} as soon as they are saved", list(from)),
        Reason::Behind { head } => format!("job {head} comes first, and the free workers are reserved for it"),
        Reason::BehindSibling { head } => {
            format!("job {head} comes first, and what is left of the namespace's quota is kept for it")
        }
        Reason::Quota { bound, used, limit } => {
            format!("the namespace uses {used} of {limit} {}; what is given back is kept for this job", noun(*bound))
        }
        Reason::QuotaTooSmall { bound, needed, limit } => {
            format!("needs {needed} {0}; the namespace may use {limit} {0} at most", noun(*bound))
        }
        Reason::Dependency { job, condition: Condition::Succeeded } => format!("waits for job {job} to succeed"),
        Reason::Dependency { job, condition: Condition::Ended } => format!("waits for job {job} to end"),
        Reason::Backoff { class, attempt } => format!("failed ({class}); new try {attempt} follows"),
    }
}

/// What would end a wait, in words, and the time when that is all it takes.
fn ending(ends: &EndsWhen) -> (String, i64) {
    let words = match ends {
        EndsWhen::Now => "nothing more is needed".to_owned(),
        EndsWhen::At(time) => return ("the time comes".to_owned(), unix_ms(*time)),
        EndsWhen::WorkersConnect { more } => format!("{more} more connect"),
        EndsWhen::WorkersFree { more } => format!("{more} more are free"),
        EndsWhen::Stopped(jobs) => format!("{} has stopped", list(jobs)),
        EndsWhen::Starts(job) => format!("{job} starts"),
        EndsWhen::NamespaceUsesLess { bound, by } => format!("the namespace uses {by} {} less", noun(*bound)),
        EndsWhen::QuotaAllows { bound, needed } => {
            format!("the operator allows the namespace {needed} {}", noun(*bound))
        }
        EndsWhen::Ends(job, Condition::Succeeded) => format!("{job} succeeds"),
        EndsWhen::Ends(job, Condition::Ended) => format!("{job} ends"),
    };
    (words, 0)
}

/// What a bound counts.
pub(crate) fn noun(bound: Bound) -> &'static str {
    match bound {
        Bound::Workers => "workers",
        Bound::Running => "running jobs",
        Bound::Queued => "queued jobs",
    }
}

fn others(reason: &Reason) -> Vec<String> {
    match reason {
        Reason::Freeing { from } => from.iter().map(ToString::to_string).collect(),
        Reason::Behind { head: job } | Reason::BehindSibling { head: job } | Reason::Dependency { job, .. } => {
            vec![job.to_string()]
        }
        _ => Vec::new(),
    }
}

fn list(jobs: &[JobId]) -> String {
    jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ")
}
