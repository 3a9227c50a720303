//! Jobs and workers as JSON, for the web page and for scripts.

use cappa_core::JobId;
use cappa_proto as proto;
use serde_json::{Map, Value, json};

use crate::curves::Curves;
use crate::driver::View;
use crate::history::unix_ms;
use crate::leadership::Role;
use crate::services::views;

/// Points of a curve that are sent at most; a longer one is thinned evenly.
const POINTS: usize = 1_500;

/// Jobs that the overview lists, newest first.
const JOBS: usize = 200;

/// What the loop says of the newest jobs. All else is made of it where nobody waits for the loop.
pub(super) struct Overview {
    now_unix_ms: i64,
    jobs: Vec<proto::Job>,
}

impl Overview {
    pub(super) fn of(view: &View, curves: &Curves) -> Self {
        let jobs = view.core.state().jobs_by_age(None).take(JOBS).map(|job| views::job(view, curves, job));
        Self { now_unix_ms: unix_ms(view.now()), jobs: jobs.collect() }
    }

    /// All that the page shows first; workers that nobody can tell of are null.
    pub(super) fn json(&self, workers: Option<&[proto::Worker]>, role: &Role) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "leads": role.leads(),
            "leader": role.leader().map(|leader| &leader.at.http),
            "now_unix_ms": self.now_unix_ms,
            "jobs": self.jobs.iter().map(job_json).collect::<Vec<_>>(),
            "workers": workers.map(workers_json),
        })
    }
}

/// What the loop says of one job.
pub(super) struct Detail {
    now_unix_ms: i64,
    job: proto::Job,
    events: Vec<proto::JobEvent>,
    checkpoints: Vec<proto::CheckpointInfo>,
}

impl Detail {
    /// None when there is no such job.
    pub(super) fn of(view: &View, curves: &Curves, id: &JobId) -> Option<Self> {
        let job = view.core.state().job(id)?;
        Some(Self {
            now_unix_ms: unix_ms(view.now()),
            job: views::job(view, curves, job),
            events: view.history.job(id).map(|history| history.events.clone()).unwrap_or_default(),
            checkpoints: views::checkpoints(job),
        })
    }

    /// The job with its curve, events and workers.
    pub(super) fn json(&self, points: &[proto::StepMetrics], workers: Option<&[proto::Worker]>) -> Value {
        let checkpoints = self.checkpoints.iter().rev().filter(|checkpoint| !checkpoint.retired);
        json!({
            "now_unix_ms": self.now_unix_ms,
            "job": job_json(&self.job),
            "curve": thinned(points),
            "events": self.events.iter().map(event_json).collect::<Vec<_>>(),
            "workers": workers.map(workers_json),
            "checkpoints": checkpoints.map(|c| json!({
                "step": c.step, "manifest": c.manifest, "bytes": c.bytes, "committed_unix_ms": c.committed_unix_ms,
                "parts": c.parts, "pinned": c.pinned,
            })).collect::<Vec<_>>(),
        })
    }
}

/// The curve, with so many points as can be seen.
fn thinned(points: &[proto::StepMetrics]) -> Vec<Value> {
    let stride = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let is_shown = |place: usize, point: &proto::StepMetrics| {
        place.is_multiple_of(stride) || place == last || point.update() != proto::Update::Made
    };
    let thinned = points.iter().enumerate().filter(|(place, point)| is_shown(*place, point));
    thinned.map(|(_, point)| point_json(point)).collect()
}

fn job_json(job: &proto::Job) -> Value {
    let state = job.state().as_str_name().trim_start_matches("JOB_STATE_").to_ascii_lowercase();
    let time: Map<String, Value> =
        job.time.iter().map(|bucket| (bucket.bucket.clone(), json!(bucket.seconds))).collect();
    let members = job
        .members
        .iter()
        .map(|member| json!({"worker_id": member.worker_id, "rank": member.rank, "pace": member.pace}));
    json!({
        "id": job.id,
        "name": job.name,
        "namespace": job.namespace,
        "state": state,
        "message": job.message,
        "error_code": job.error_code,
        "step": job.step,
        "total_steps": job.total_steps,
        "generation": job.generation,
        "members": members.collect::<Vec<_>>(),
        "submitted_unix_ms": job.submitted_unix_ms,
        "started_unix_ms": job.started_unix_ms,
        "ended_unix_ms": job.ended_unix_ms,
        "latest": job.latest.as_ref().map(point_json),
        "time": time,
        "last_checkpoint_step": job.last_checkpoint_step,
        "folder": job.folder,
        "quarantined": job.quarantined,
        "recoveries": job.recoveries,
    })
}

fn point_json(point: &proto::StepMetrics) -> Value {
    json!({
        "step": point.step,
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "grad_norm": point.grad_norm,
        "examples": point.examples,
        "seconds": point.seconds,
        "world_size": point.world_size,
        "unix_ms": point.unix_ms,
        "update": point.update().as_str_name().trim_start_matches("UPDATE_").to_ascii_lowercase(),
    })
}

fn event_json(event: &proto::JobEvent) -> Value {
    json!({
        "sequence": event.sequence,
        "unix_ms": event.unix_ms,
        "kind": event.kind,
        "message": event.message,
    })
}

fn workers_json(workers: &[proto::Worker]) -> Vec<Value> {
    let workers = workers.iter();
    workers
        .map(|worker| {
            json!({
                "id": worker.id,
                "host": worker.host,
                "state": worker.state,
                "job_id": worker.job_id,
                "rank": worker.rank,
                "step": worker.step,
                "version": worker.version,
                "device": worker.device,
                "metrics_address": worker.metrics_address,
                "last_heard_unix_ms": worker.last_heard_unix_ms,
                "note": worker.note,
                "quarantined_until_unix_ms": worker.quarantined_until_unix_ms,
            })
        })
        .collect()
}
