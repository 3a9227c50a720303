//! How a turn in a group ends, and whose fault it was.

use cappa_collective::Error as CollectiveError;
use cappa_data::corpus::OpenError;
use cappa_data::loader::DataError;
use cappa_data::shards::FetchError;
use cappa_model::ModelError;
use cappa_proto as wire;
use cappa_session::{BadForm, Barred};
use cappa_shared::causes::with_causes;
use cappa_shared::code::Code;
use thiserror::Error;

use crate::checkpoint::CheckpointError;

/// What a group was brought to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All steps are done, all evaluations too; their summary on rank 0.
    Finished(Option<String>),
    /// The group checkpointed and stopped, as it was asked to.
    Stopped,
    /// The group checkpointed and dissolved, because a member's process is to end.
    Drained,
}

/// Why a member left its group before an [`Ending`].
#[derive(Debug, Error)]
pub(crate) enum Departure {
    /// It was told to.
    #[error(transparent)]
    Barred(#[from] Barred),
    /// A collective failed: a peer is gone, or the group was aborted.
    #[error("the group broke")]
    Collective(#[source] CollectiveError),
    /// libtorch refused something: the job's or the program's fault.
    #[error("libtorch failed")]
    Torch(#[source] CollectiveError),
    /// The network can't be built or run.
    #[error("the model can't be run")]
    Model(#[from] ModelError),
    /// Samples can't be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The manifest, the tokenizer or their stores.
    #[error("the job's data can't be opened")]
    Open(#[from] OpenError),
    /// More samples are bad than the job allows.
    #[error(
        "{bad} of {seen} samples are bad, more than data.max_bad_fraction ({allowed}) allows; see the quarantined samples in the job's events, and repair the shards or raise the limit"
    )]
    TooManyBad {
        /// Quarantined so far.
        bad: i64,
        /// Met so far.
        seen: i64,
        /// The configured share.
        allowed: f64,
    },
    /// There is nothing to begin with.
    #[error(
        "no sample of the first step can be used, {seen} of {seen}; see the quarantined samples in the workers' logs{hint}"
    )]
    NoGoodSample {
        /// How many there were.
        seen: i64,
        /// The first reason that this rank met.
        hint: String,
    },
    /// The loss is not a number any more, or a spike.
    #[error(
        "the update of step {step} was not made: {fault}; lower optimizer.learning_rate, resume from an earlier checkpoint, or see on_bad_loss"
    )]
    Diverged {
        /// The update that was not applied.
        step: u64,
        /// What is wrong with it.
        fault: String,
    },
    /// This rank's parameters are not those of the majority.
    #[error("{0}")]
    ReplicaDiverged(String),
    /// No manifest could be restored.
    #[error("no committed checkpoint can be restored")]
    Checkpoint(#[from] CheckpointError),
    /// The network can't start from the checkpoint that the spec names.
    #[error("the job can't start from init.from, {from}")]
    Init {
        /// Its URL.
        from: String,
        /// Why.
        #[source]
        source: CheckpointError,
    },
    /// The group was asked to end before its work was done.
    #[error("the group was asked to end")]
    Asked(Ending),
    /// The order to form the group makes no sense.
    #[error(transparent)]
    Order(#[from] BadForm),
    /// An evaluation can't be done.
    #[error("evaluation `{name}` can't be done")]
    Evaluation {
        /// Its name in the spec.
        name: String,
        /// Why.
        #[source]
        source: Box<Departure>,
    },
    /// A sample can't take part in an evaluation.
    #[error("{0}")]
    Unsuitable(String),
}

impl From<CollectiveError> for Departure {
    fn from(error: CollectiveError) -> Self {
        if error.is_group_lost() { Self::Collective(error) } else { Self::Torch(error) }
    }
}

impl Departure {
    /// Whether the state that this rank holds is at fault, and must not be gone on from.
    pub(crate) fn is_of_own_state(&self) -> bool {
        matches!(self, Self::ReplicaDiverged(_))
    }

    /// What the coordinator is told; nothing where it gave the order.
    pub(crate) fn failure(&self) -> Option<wire::Failure> {
        let (code, permanent) = match self {
            Self::Barred(_) | Self::Asked(_) | Self::Collective(CollectiveError::Aborted) => return None,
            Self::Collective(_) => (Code::CollectiveFailed, false),
            Self::Torch(error) if is_out_of_memory(error) => (Code::OutOfMemory, true),
            Self::Torch(_) | Self::Model(_) | Self::Order(_) => (Code::Internal, true),
            Self::Data(DataError::UnknownClass(_)) => (Code::InvalidSpec, true),
            Self::Data(DataError::Shard(error)) => (shard_code(error), true),
            Self::Open(OpenError::Storage { source, .. }) => (source.code(), true),
            Self::Data(_) | Self::Open(_) | Self::Unsuitable(_) => (Code::DataUnreadable, true),
            Self::TooManyBad { .. } | Self::NoGoodSample { .. } => (Code::TooManyBadSamples, true),
            Self::Diverged { .. } => (Code::NumericDivergence, true),
            Self::ReplicaDiverged(_) => (Code::ReplicaDiverged, false),
            Self::Checkpoint(CheckpointError::Storage(source))
            | Self::Init { source: CheckpointError::Storage(source), .. } => (source.code(), true),
            Self::Init { source: CheckpointError::Model(_) | CheckpointError::Vocabulary(_), .. } => {
                (Code::InvalidSpec, true)
            }
            Self::Checkpoint(_) | Self::Init { .. } => (Code::CheckpointDamaged, true),
            Self::Evaluation { source, .. } => {
                let inner = source.failure()?;
                return Some(wire::Failure { message: with_causes(self), ..inner });
            }
        };
        Some(wire::Failure { code: code.as_str().into(), message: with_causes(self), permanent })
    }
}

/// What people look up: an absent store is another matter than an absent shard.
fn shard_code(error: &FetchError) -> Code {
    match error {
        FetchError::Remote { source, .. } => source.code(),
        _ => Code::DataUnreadable,
    }
}

fn is_out_of_memory(error: &CollectiveError) -> bool {
    let text = error.to_string();
    ["out of memory", "can't allocate memory"].iter().any(|phrase| text.contains(phrase))
}
