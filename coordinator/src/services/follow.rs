//! Streams that follow a job: its updates and its log.

use std::time::Duration;

use cappa_core::JobId;
use cappa_proto as proto;
use cappa_proto::job_update::Update;
use tokio::sync::mpsc;
use tonic::Status;

use super::views;
use crate::curves::Curves;
use crate::driver::{Handle, View};
use crate::logs::Logs;

/// A fresh view of a followed job is sent so often at most.
const PACE: Duration = Duration::from_millis(300);

/// Sends what has happened to the job after an event and what happens, until it has ended.
pub(super) async fn watch(
    handle: Handle,
    curves: Curves,
    job: JobId,
    mut after: u64,
    to: mpsc::Sender<Result<proto::JobUpdate, Status>>,
) {
    let mut last = None;
    let mut changes = handle.changes(&job);
    let mut view_is_due = tokio::time::Instant::now();
    loop {
        changes.looks();
        let (id, curves, wants_view) = (job.clone(), curves.clone(), view_is_due <= tokio::time::Instant::now());
        let seen = handle.read(move |view| news(view, &curves, &id, after, wants_view)).await;
        let (events, view) = match seen {
            Ok(Some(news)) => news,
            Ok(None) => return,
            Err(stopped) => {
                // The client may have gone as well.
                let _ = to.send(Err(stopped.into())).await;
                return;
            }
        };
        for event in events {
            after = event.sequence;
            if send(&to, Update::Event(event)).await.is_err() {
                return;
            }
        }
        if let Some(view) = view {
            view_is_due = tokio::time::Instant::now() + PACE;
            let has_ended = view.ended_unix_ms != 0;
            if last.as_ref() != Some(&view) {
                last = Some(view.clone());
                if send(&to, Update::Job(view)).await.is_err() {
                    return;
                }
            }
            if has_ended {
                return;
            }
        }
        tokio::select! {
            () = to.closed() => return,
            () = tokio::time::sleep_until(view_is_due) => {}
            () = changes.changed() => {}
        }
    }
}

/// The job's events after one, and the job as it is now where that is wanted or there are any.
fn news(
    view: &View,
    curves: &Curves,
    job: &JobId,
    after: u64,
    wants_view: bool,
) -> Option<(Vec<proto::JobEvent>, Option<proto::Job>)> {
    let job = view.core.state().job(job)?;
    let events = &view.history.job(&job.id)?.events;
    let events = events[events.partition_point(|event| event.sequence <= after)..].to_vec();
    let view = (wants_view || !events.is_empty()).then(|| views::job(view, curves, job));
    Some((events, view))
}

async fn send(to: &mpsc::Sender<Result<proto::JobUpdate, Status>>, update: Update) -> Result<(), ()> {
    to.send(Ok(proto::JobUpdate { update: Some(update) })).await.map_err(|_| ())
}

/// Sends the newest lines of the job's log and, when asked to follow, what comes until it has ended.
pub(super) async fn lines(
    handle: Handle,
    logs: Logs,
    request: proto::LogsRequest,
    to: mpsc::Sender<Result<proto::LogLine, Status>>,
) {
    let job = JobId::from(request.job_id);
    let is_wanted = |line: &proto::LogLine| request.rank.is_none_or(|rank| line.rank == rank);
    let (lines, mut next) = logs.read(&job, 0);
    let mut lines: Vec<_> = lines.into_iter().filter(is_wanted).collect();
    if request.tail > 0 {
        let surplus = lines.len().saturating_sub(request.tail as usize);
        lines.drain(..surplus);
    }
    loop {
        for line in lines {
            if to.send(Ok(line)).await.is_err() {
                return;
            }
        }
        if !request.follow {
            return;
        }
        let id = job.clone();
        let has_ended =
            handle.read(move |view| view.core.state().job(&id).is_none_or(cappa_core::Job::has_ended)).await;
        tokio::select! {
            () = to.closed() => return,
            () = tokio::time::sleep(PACE) => {}
        }
        // Read after asking: what was logged before the end is not missed.
        let (new, after) = logs.read(&job, next);
        lines = new.into_iter().filter(is_wanted).collect();
        next = after;
        if lines.is_empty() && has_ended.unwrap_or(true) {
            return;
        }
    }
}
