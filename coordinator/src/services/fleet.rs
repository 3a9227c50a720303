//! Workers as the wire shows them. A list of all of them is made in pieces, between which the loop hears others.

use std::collections::HashMap;

use cappa_core::{Group, Holding, Job, JobId, Stage, WorkerId, WorkerPresence};
use cappa_proto as proto;

use crate::driver::{Handle, Stopped, View};
use crate::facts::Facts;
use crate::history::unix_ms;

/// Workers of a piece.
const PIECE: usize = 1_000;

/// All workers that this process has seen, and those that are quarantined or cordoned, by id: each as it was when its piece
/// was made.
pub(crate) async fn all(handle: &Handle, facts: &Facts) -> Result<Vec<proto::Worker>, Stopped> {
    let mut ids = handle.read(known).await?;
    ids.sort_unstable();
    let mut all = Vec::with_capacity(ids.len());
    for piece in ids.chunks(PIECE) {
        let (piece, facts) = (piece.to_vec(), facts.clone());
        all.extend(handle.read(move |view| shown(view, &facts, &piece)).await?);
    }
    Ok(all)
}

/// One of them, if there is such a worker.
pub(crate) async fn one(handle: &Handle, facts: &Facts, id: WorkerId) -> Result<Vec<proto::Worker>, Stopped> {
    let facts = facts.clone();
    handle.read(move |view| shown(view, &facts, &[id])).await
}

fn known(view: &View) -> Vec<WorkerId> {
    let presence = view.core.presence();
    let quarantined = view.core.state().flaps().quarantined().map(|(id, _)| id);
    let unseen = quarantined.filter(|id| presence.worker(id).is_none());
    presence.workers().map(|(id, _)| id).chain(unseen).cloned().collect()
}

fn shown(view: &View, facts: &Facts, ids: &[WorkerId]) -> Vec<proto::Worker> {
    let mut ranks: HashMap<&JobId, HashMap<&WorkerId, u32>> = HashMap::new();
    let mut rank = |id: &WorkerId| {
        let Some(job) = view.core.state().job_of(id) else { return 0 };
        let of_job = ranks.entry(&job.id).or_insert_with(|| job.group().map(ranks_of).unwrap_or_default());
        of_job.get(id).copied().unwrap_or(0)
    };
    let shown = ids.iter().filter_map(|id| match view.core.presence().worker(id) {
        Some(presence) => Some(seen(view, facts, id, presence, rank(id))),
        None => unseen(view, id),
    });
    shown.collect()
}

fn ranks_of(group: &Group) -> HashMap<&WorkerId, u32> {
    group.members.iter().map(|member| &member.worker).zip(0..).collect()
}

/// A worker that is kept out of groups, and that this process has not seen.
fn unseen(view: &View, id: &WorkerId) -> Option<proto::Worker> {
    let quarantine = view.core.state().flaps().quarantine(id)?;
    Some(proto::Worker {
        id: id.to_string(),
        state: "lost".to_owned(),
        note: quarantine.reason.clone(),
        quarantined_until_unix_ms: quarantine.until.map_or(0, unix_ms),
        ..proto::Worker::default()
    })
}

fn seen(view: &View, facts: &Facts, id: &WorkerId, presence: &WorkerPresence, rank: u32) -> proto::Worker {
    let job = view.core.state().job_of(id);
    let facts = facts.of(id);
    let holding = presence.holding.as_ref();
    let quarantine = view.core.state().flaps().quarantine(id);
    let leaves = presence.leaving.as_ref().or(presence.asked_to_end.as_ref());
    let at = job.map(|job| job.id.to_string()).or_else(|| holding.map(|holding| holding.job.to_string()));
    proto::Worker {
        id: id.to_string(),
        host: presence.host.clone(),
        state: worker_state(view, id, presence, job).to_owned(),
        job_id: at.unwrap_or_default(),
        rank,
        step: holding.map_or(0, |holding| holding.step.0),
        version: facts.version,
        device: facts.device,
        metrics_address: facts.metrics_address,
        last_heard_unix_ms: unix_ms(presence.last_heard),
        note: quarantine.map(|quarantine| &quarantine.reason).or(leaves).cloned().unwrap_or_default(),
        quarantined_until_unix_ms: quarantine.and_then(|quarantine| quarantine.until).map_or(0, unix_ms),
    }
}

/// One of the words of `Worker.state`.
pub(crate) fn worker_state(view: &View, id: &WorkerId, presence: &WorkerPresence, job: Option<&Job>) -> &'static str {
    if !presence.is_live(view.now(), view.core.timings().detection) {
        return "lost";
    }
    if let (None, Some(quarantine)) = (job, view.core.state().flaps().quarantine(id)) {
        return if quarantine.until.is_some() { "quarantined" } else { "cordoned" };
    }
    if job.is_none() && presence.is_leaving() {
        return "leaving";
    }
    let stage = job.and_then(Job::group).map(|group| &group.stage);
    match (stage, &presence.holding) {
        (Some(Stage::Forming | Stage::Breaking { .. }), _) => "forming",
        (Some(Stage::Running { .. } | Stage::Evaluating { .. }), _) => "training",
        (None, Some(Holding { .. })) => "holding",
        (None, None) => "idle",
    }
}
