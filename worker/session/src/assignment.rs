//! Orders as the coordinator sends them, checked field by field before anybody acts on one.

use std::time::Duration;

use cappa_proto as wire;
use cappa_shared::ids::{Generation, JobId, Rank, Step};
use cappa_shared::spec::JobSpec;
use thiserror::Error;

/// A place in a group, and everything needed to take it.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// The group's generation.
    pub generation: Generation,
    /// This member's rank.
    pub rank: Rank,
    /// Whose store the group meets at.
    pub lead: Rank,
    /// By rank.
    pub members: Vec<Peer>,
    /// What to train.
    pub spec: JobSpec,
    /// URL of the job's folder.
    pub folder: String,
    /// Committed manifests, newest first, for when no member holds state.
    pub restore: Vec<String>,
    /// Limit for forming the group.
    pub forming: Duration,
    /// Limit of one collective.
    pub operation: Duration,
    /// Updates until training is complete.
    pub total_steps: Step,
    /// State that was last in a group of this generation, or of one before it, is not gone on from.
    pub discarded: Generation,
}

/// Another member.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `host:port` of its store.
    pub store_address: String,
}

/// A `Form` that can't be meant.
#[derive(Debug, Error)]
pub enum BadForm {
    /// A field is missing or out of range.
    #[error("{0} of the order to form a group is unusable; do coordinator and worker have the same version?")]
    Field(&'static str),
    /// The spec does not parse, though the coordinator validated it.
    #[error("the spec of the order to form a group is unusable; do coordinator and worker have the same version?")]
    Spec(#[source] serde_json::Error),
}

impl Assignment {
    /// Ranks in the group.
    pub fn world_size(&self) -> usize {
        self.members.len()
    }

    /// Members that share this one's machine, itself among them.
    pub fn members_on_host(&self) -> usize {
        let host = |peer: &Peer| peer.store_address.rsplit_once(':').map(|(host, _)| host.to_owned());
        let ours = host(&self.members[self.rank.0 as usize]);
        self.members.iter().filter(|peer| host(peer) == ours).count()
    }

    /// The lead's store, as host and port.
    ///
    /// # Errors
    /// [`BadForm::Field`] when its address is none.
    pub fn lead_store(&self) -> Result<(&str, u16), BadForm> {
        let address = &self.members[self.lead.0 as usize].store_address;
        address
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)))
            .ok_or(BadForm::Field("store_address"))
    }
}

impl TryFrom<wire::Form> for Assignment {
    type Error = BadForm;

    fn try_from(form: wire::Form) -> Result<Self, BadForm> {
        let seconds = |value: f64, name| Duration::try_from_secs_f64(value).map_err(|_| BadForm::Field(name));
        let world = form.members.len();
        let place = |rank: u32, name| match (rank as usize) < world {
            true => Ok(Rank(rank)),
            false => Err(BadForm::Field(name)),
        };
        Ok(Self {
            job: form.job_id.parse().map_err(|_| BadForm::Field("job_id"))?,
            generation: Generation(form.generation),
            rank: place(form.rank, "rank")?,
            lead: place(form.lead, "lead")?,
            members: form.members.into_iter().map(|p| Peer { store_address: p.store_address }).collect(),
            spec: serde_json::from_str(&form.spec_json).map_err(BadForm::Spec)?,
            folder: form.folder,
            restore: form.restore,
            forming: seconds(form.forming_seconds, "forming_seconds")?,
            operation: seconds(form.operation_seconds, "operation_seconds")?,
            total_steps: Step(form.total_steps),
            discarded: Generation(form.discarded),
        })
    }
}

/// What the training thread is told.
#[derive(Debug)]
pub enum Order {
    /// Take a place in a group.
    Form(Box<Assignment>),
    /// Be out of this generation and all before it.
    Leave {
        /// Of which job.
        job: JobId,
        /// Up to which generation.
        generation: Generation,
    },
    /// Drop the job's state.
    Release(JobId),
    /// The process ends.
    Exit,
}
