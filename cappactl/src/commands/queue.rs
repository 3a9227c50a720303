//! `cappactl queue`: why each job waits, and what would end that.

use cappa_proto::{self as wire, QueueRequest};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only the jobs of this namespace.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// The queue, and what every namespace uses.
#[derive(Debug, Serialize)]
struct Queue {
    jobs: Vec<Queued>,
    namespaces: Vec<Namespace>,
    free_workers: u32,
    connected_workers: u32,
}

/// A waiting job.
#[derive(Debug, Serialize)]
struct Queued {
    /// From 1, over all namespaces.
    place: u32,
    job: String,
    namespace: String,
    priority: i32,
    min_workers: u32,
    max_workers: u32,
    waits_since: Option<Timestamp>,
    /// A stable word.
    reason: String,
    explanation: String,
    ends_when: String,
    /// When that is a matter of time alone.
    ends_at: Option<Timestamp>,
    /// The jobs that the reason is about.
    jobs: Vec<String>,
}

/// What a namespace uses and may use; no limit where there is none.
#[derive(Debug, Serialize)]
struct Namespace {
    namespace: String,
    queued: u32,
    running: u32,
    workers: u32,
    worker_seconds: f64,
    weight: u32,
    max_workers: Option<u32>,
    max_running: Option<u32>,
    max_queued: Option<u32>,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let request = QueueRequest { namespace: arguments.namespace.clone().unwrap_or_default() };
    let reply = client.jobs.clone().queue(request).await;
    let queue = Queue::from(reply.map_err(|status| client.failure(&status))?.into_inner());
    output::print(global.output, &queue)?;
    Ok(Exit::Ok)
}

impl Present for Queue {
    fn table(&self) -> String {
        table(self, Timestamp::now())
    }

    fn names(&self) -> Vec<String> {
        self.jobs.iter().map(|job| job.job.clone()).collect()
    }
}

fn table(queue: &Queue, now: Timestamp) -> String {
    let rows = queue.jobs.iter().map(|job| {
        let ends = match job.ends_at {
            Some(then) if then > now => format!("in {}", units::age(now, then)),
            Some(_) => "any moment".to_owned(),
            None => job.ends_when.clone(),
        };
        vec![
            job.place.to_string(),
            job.job.clone(),
            job.namespace.clone(),
            job.priority.to_string(),
            workers(job.min_workers, job.max_workers),
            job.waits_since.map_or_else(|| "–".into(), |then| units::age(then, now)),
            job.explanation.clone(),
            ends,
        ]
    });
    let headers = [">PLACE", "JOB", "NAMESPACE", ">PRIORITY", ">WORKERS", ">WAITS", "WHY", "UNTIL"];
    let jobs = output::columns(&headers, rows);
    let rows = queue.namespaces.iter().map(|of| {
        vec![
            of.namespace.clone(),
            of.weight.to_string(),
            bounded(of.workers, of.max_workers),
            bounded(of.running, of.max_running),
            bounded(of.queued, of.max_queued),
            format!("{:.1}", of.worker_seconds / 3600.0),
        ]
    });
    let headers = ["NAMESPACE", ">WEIGHT", ">WORKERS", ">RUNNING", ">QUEUED", ">WORKER-HOURS"];
    let namespaces = output::columns(&headers, rows);
    let (free, connected) = (queue.free_workers, queue.connected_workers);
    format!("{jobs}\n\n{namespaces}\n\n{free} of {connected} connected workers are free")
}

fn workers(min: u32, max: u32) -> String {
    if min == max { min.to_string() } else { format!("{min}–{max}") }
}

fn bounded(used: u32, limit: Option<u32>) -> String {
    limit.map_or_else(|| used.to_string(), |limit| format!("{used}/{limit}"))
}

impl From<wire::QueueResponse> for Queue {
    fn from(reply: wire::QueueResponse) -> Self {
        Self {
            jobs: reply.jobs.into_iter().map(Queued::from).collect(),
            namespaces: reply.namespaces.into_iter().map(Namespace::from).collect(),
            free_workers: reply.free_workers,
            connected_workers: reply.connected_workers,
        }
    }
}

impl From<wire::QueuedJob> for Queued {
    fn from(job: wire::QueuedJob) -> Self {
        Self {
            place: job.place,
            job: job.job_id,
            namespace: job.namespace,
            priority: job.priority,
            min_workers: job.min_workers,
            max_workers: job.max_workers,
            waits_since: units::moment(job.waits_since_unix_ms),
            reason: job.reason,
            explanation: job.explanation,
            ends_when: job.ends_when,
            ends_at: units::moment(job.ends_at_unix_ms),
            jobs: job.jobs,
        }
    }
}

impl From<wire::NamespaceUse> for Namespace {
    fn from(of: wire::NamespaceUse) -> Self {
        Self {
            namespace: of.namespace,
            queued: of.queued,
            running: of.running,
            workers: of.workers,
            worker_seconds: of.worker_seconds,
            weight: of.weight,
            max_workers: of.max_workers,
            max_running: of.max_running,
            max_queued: of.max_queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(place: u32, job: &str, reason: &str, explanation: &str, ends_when: &str) -> wire::QueuedJob {
        wire::QueuedJob {
            place,
            job_id: job.into(),
            namespace: "vision".into(),
            priority: 10 - i32::try_from(place).unwrap(),
            min_workers: 2,
            max_workers: 1 + place,
            waits_since_unix_ms: 1_700_000_000_000,
            reason: reason.into(),
            explanation: explanation.into(),
            ends_when: ends_when.into(),
            ..wire::QueuedJob::default()
        }
    }

    #[test]
    fn the_queue_says_why_each_job_waits_and_until_when() {
        let mut backoff = queued(3, "retry-c", "backoff", "failed (data); new try 1 follows", "the time comes");
        backoff.ends_at_unix_ms = 1_700_000_100_000;
        let reply = wire::QueueResponse {
            jobs: vec![
                queued(1, "large-a", "workers", "needs 2 workers; 1 are free and reserved for it", "1 more are free"),
                queued(2, "small-b", "behind", "job large-a comes first", "large-a starts"),
                backoff,
            ],
            namespaces: vec![wire::NamespaceUse {
                namespace: "vision".into(),
                queued: 3,
                running: 1,
                workers: 6,
                worker_seconds: 9_000.0,
                weight: 1,
                max_workers: Some(8),
                ..wire::NamespaceUse::default()
            }],
            free_workers: 1,
            connected_workers: 7,
        };
        let now = Timestamp::from_millisecond(1_700_000_060_000).unwrap();
        insta::assert_snapshot!(table(&Queue::from(reply), now), @r"
        PLACE  JOB      NAMESPACE  PRIORITY  WORKERS  WAITS  WHY                                              UNTIL
            1  large-a  vision            9        2  1m00s  needs 2 workers; 1 are free and reserved for it  1 more are free
            2  small-b  vision            8      2–3  1m00s  job large-a comes first                          large-a starts
            3  retry-c  vision            7      2–4  1m00s  failed (data); new try 1 follows                 in 40.0 s

        NAMESPACE  WEIGHT  WORKERS  RUNNING  QUEUED  WORKER-HOURS
        vision          1      6/8        1       3           2.5

        1 of 7 connected workers are free
        ");
    }
}
