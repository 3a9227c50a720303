//! From the core to the wire.

use std::time::Duration;

use cappa_core::{Core, Generation, JobId, Link, Member, Work, WorkerId};
use cappa_proto as proto;
use cappa_proto::coordinator_message::Message;
use cappa_shared::checkpoint::manifest_path;
use cappa_shared::ids;

/// What a group is told about its time limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For forming.
    pub forming: Duration,
    /// For one collective.
    pub operation: Duration,
}

/// The message that tells a worker of the work, and its stream; nothing for work on the store, or when the
/// state has moved on. `metrics_after` is the last step whose metrics have arrived.
pub fn message(
    core: &Core,
    work: &Work,
    limits: Limits,
    metrics_after: impl Fn(&JobId) -> u64,
) -> Option<(Link, Message)> {
    Some(match work {
        Work::Form { worker, link, job, generation } => {
            let form = form(core, job, *generation, limits, metrics_after(job))?;
            (*link, Message::Form(proto::Form { rank: rank(core, job, worker)?, ..form }))
        }
        Work::Abort { link, job, generation, reason, .. } => {
            let (job_id, generation, reason) = (job.to_string(), generation.0, reason.clone());
            (*link, Message::Abort(proto::Abort { job_id, generation, reason }))
        }
        Work::Stop { link, job, generation, reason, .. } => {
            let (job_id, generation, reason) = (job.to_string(), generation.0, reason.clone());
            (*link, Message::Stop(proto::Stop { job_id, generation, reason }))
        }
        Work::Drain { link, reason, .. } => (*link, Message::Drain(proto::Drain { reason: reason.clone() })),
        Work::Release { link, job, .. } => {
            let reason = release_reason(core, job);
            (*link, Message::Release(proto::Release { job_id: job.to_string(), reason }))
        }
        Work::Acknowledge { link, job, step, generation, .. } => {
            let committed = proto::Committed { job_id: job.to_string(), generation: generation.0, step: step.0 };
            (*link, Message::Committed(committed))
        }
        _ => return None,
    })
}

/// What all members of a group are told alike when they are to form it, with rank 0: it grows with the group, and is made
/// once for all of them. None when the group is over.
pub fn form(
    core: &Core,
    job: &JobId,
    generation: Generation,
    limits: Limits,
    metrics_after: u64,
) -> Option<proto::Form> {
    let job = core.state().job(job)?;
    let group = job.group().filter(|group| group.generation == generation)?;
    let restore = job.checkpoints.iter().rev().map(|checkpoint| manifest_path(ids::Step(checkpoint.step.0)));
    Some(proto::Form {
        job_id: job.id.to_string(),
        generation: generation.0,
        members: group.members.iter().map(peer).collect(),
        rank: 0,
        lead: group.lead.0,
        spec_json: job.submission.spec_json.clone(),
        folder: job.submission.folder.clone(),
        restore: restore.collect(),
        metrics_after,
        forming_seconds: limits.forming.as_secs_f64(),
        operation_seconds: limits.operation.as_secs_f64(),
        total_steps: job.submission.total_steps.0,
        discarded: job.discarded.0,
    })
}

/// The worker's rank in the job's group.
pub fn rank(core: &Core, job: &JobId, worker: &WorkerId) -> Option<u32> {
    let (rank, _) = core.state().job(job)?.group()?.member(worker)?;
    Some(rank.0)
}

fn peer(member: &Member) -> proto::Peer {
    proto::Peer {
        worker_id: member.worker.to_string(),
        store_address: member.store_address.clone(),
        step: member.step.0,
        has_state: member.has_state,
    }
}

fn release_reason(core: &Core, job: &JobId) -> String {
    let reason = match core.state().job(job) {
        None => "the job is unknown",
        Some(job) if job.has_ended() => "the job is over",
        Some(_) => "the job does not need this worker now",
    };
    reason.to_owned()
}
