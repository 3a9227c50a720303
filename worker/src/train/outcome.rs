//! How a turn in a group ends, and whose fault it was.

use std::any::Any;
use std::panic::resume_unwind;

use cappa_collective::Error as CollectiveError;
use cappa_data::corpus::OpenError;
use cappa_data::loader::DataError;
use cappa_data::shards::FetchError;
use cappa_model::ModelError;
use cappa_proto as wire;
use cappa_session::{BadForm, Barred};
use cappa_shared::causes::with_causes;
use cappa_shared::code::Code;
use cappa_shared::ids::{Rank, Step};
use thiserror::Error;

use super::device;
use crate::checkpoint::{CheckpointError, Unread, Unsaved};

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
    /// The device failed, so that the process can't go on.
    #[error("the device failed: {0}")]
    Device(String),
    /// libtorch refused something: the job's or the program's fault.
    #[error("libtorch failed")]
    Torch(#[source] CollectiveError),
    /// A step or an evaluation needs more memory than there is.
    #[error(
        "there is not enough memory: {0}; set a smaller micro_batch_size, gradient_checkpointing or precision bf16, or use more workers"
    )]
    OutOfMemory(String),
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
        "{bad} of {seen} samples are bad, more than data.max_bad_fraction ({allowed}) allows; the workers' logs name them: repair the shards, or raise the limit"
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
    /// The last checkpoint of the group.
    #[error(transparent)]
    Unsaved(#[from] Unsaved),
    /// What the group is to start from, or to go back to, may be whole, and its store does not let us have it.
    #[error("the group can't have its state")]
    Unread(#[from] Unread),
    /// The same of another member.
    #[error("the group can't have its state: rank {0} got nothing from its store")]
    UnreadElsewhere(Rank),
    /// Newer checkpoints than that of this step, whose state this member has now, are damaged for somebody.
    #[error(
        "the newest checkpoint that every member can read is that of step {step}; damaged, see the workers' logs: {damaged}"
    )]
    FellBack {
        /// Its step.
        step: Step,
        /// The manifests of those that are newer.
        damaged: String,
    },
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
    /// What a panic of the training thread means where libtorch ran out of memory, or its device failed, which its operators have no
    /// other way to say.
    ///
    /// # Panics
    /// With the same panic where it is another one.
    pub(crate) fn of_panic(panic: Box<dyn Any + Send>, answers: impl FnOnce() -> bool) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        match text {
            Some(text) if says_out_of_memory(text) => Self::OutOfMemory(first_sentences(text)),
            text => match text.and_then(|text| device::fault(text, answers)) {
                Some(fault) => Self::Device(fault),
                None => resume_unwind(panic),
            },
        }
    }

    /// The same, or where it comes of a device that failed just that. Where its text does not tell, it depends on whether the device
    /// still `answers`.
    pub(crate) fn or_of_device(self, answers: impl FnOnce() -> bool) -> Self {
        let fault = self.may_be_of_device().then(|| device::fault(&with_causes(&self), answers)).flatten();
        fault.map_or(self, Self::Device)
    }

    fn may_be_of_device(&self) -> bool {
        match self {
            Self::Collective(error) => *error != CollectiveError::Aborted,
            Self::Torch(_) | Self::Model(_) | Self::Checkpoint(_) | Self::Init { .. } => true,
            Self::Evaluation { source, .. } => source.may_be_of_device(),
            _ => false,
        }
    }

    /// Whether the state that this rank holds is at fault, or may be half updated, and must not be gone on from.
    pub(crate) fn is_of_own_state(&self) -> bool {
        matches!(self, Self::ReplicaDiverged(_) | Self::OutOfMemory(_) | Self::Device(_))
    }

    /// What the coordinator is told; nothing where it gave the order.
    pub(crate) fn failure(&self) -> Option<wire::Failure> {
        let (code, permanent) = match self {
            Self::Barred(_) | Self::Asked(_) | Self::Collective(CollectiveError::Aborted) => return None,
            Self::Collective(_) => (Code::CollectiveFailed, false),
            Self::Device(_) => (Code::DeviceFailed, false),
            Self::OutOfMemory(_) => (Code::OutOfMemory, true),
            Self::Torch(error) if says_out_of_memory(&error.to_string()) => (Code::OutOfMemory, true),
            Self::Torch(_) | Self::Model(_) | Self::Order(_) => (Code::Internal, true),
            Self::Data(DataError::UnknownClass(_)) => (Code::InvalidSpec, true),
            Self::Data(DataError::Shard(error)) => (shard_code(error), true),
            Self::Open(OpenError::Storage { source, .. }) => (source.code(), true),
            Self::Data(_) | Self::Open(_) | Self::Unsuitable(_) => (Code::DataUnreadable, true),
            Self::TooManyBad { .. } | Self::NoGoodSample { .. } => (Code::TooManyBadSamples, true),
            Self::Diverged { .. } => (Code::NumericDivergence, true),
            Self::ReplicaDiverged(_) => (Code::ReplicaDiverged, false),
            // The checkpoint is as good as before once the store is back.
            Self::Unread(Unread { source, .. }) => (source.code(), !source.is_transient()),
            Self::UnreadElsewhere(_) => (Code::StoreUnreachable, false),
            // With the others, the coordinator goes back to it.
            Self::FellBack { .. } => (Code::CheckpointDamaged, false),
            Self::Checkpoint(CheckpointError::Storage(source))
            | Self::Unsaved(Unsaved(CheckpointError::Storage(source)))
            | Self::Init { source: CheckpointError::Storage(source), .. } => (source.code(), true),
            Self::Init { source: CheckpointError::Model(_) | CheckpointError::Vocabulary(_), .. } => {
                (Code::InvalidSpec, true)
            }
            Self::Checkpoint(_) | Self::Unsaved(_) | Self::Init { .. } => (Code::CheckpointDamaged, true),
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

pub(super) fn says_out_of_memory(text: &str) -> bool {
    ["out of memory", "can't allocate memory"].iter().any(|phrase| text.contains(phrase))
}

/// What libtorch says of an allocation, without its stack of C++ calls and its hints for Python.
fn first_sentences(text: &str) -> String {
    let text = text.split_once("Torch(\"").map_or(text, |(_, said)| said);
    let end = ["\\n", "\n", " If reserved", " Error code"].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_end_matches(['.', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tch::{Device, Kind, TchError, Tensor};

    use super::*;

    #[test]
    fn an_operator_that_finds_no_memory_fails_the_job_and_leaves_the_worker() {
        let panic = catch_unwind(|| Tensor::zeros([1 << 50], (Kind::Float, Device::Cpu))).unwrap_err();
        let departure = Departure::of_panic(panic, || true);
        let message = departure.to_string();
        assert!(message.contains("you tried to allocate 4503599627370496 bytes"), "{message}");
        assert!(!message.contains("frame"), "{message}");
        assert!(departure.is_of_own_state());
        assert_eq!(departure.failure().unwrap().code, "OUT_OF_MEMORY");
    }

    #[test]
    fn a_gpu_says_how_much_was_wanted_and_what_there_is() {
        let said = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB. \
                    GPU 0 has a total capacity of 79.18 GiB of which 1.2 GiB is free. If reserved but unallocated memory is \
                    large try setting PYTORCH_CUDA_ALLOC_CONF\\nException raised from malloc\")";
        let message = Departure::of_panic(Box::new(said.to_owned()), || true).to_string();
        assert!(
            message.contains("Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which"),
            "{message}"
        );
        assert!(!message.contains("PYTORCH") && !message.contains("unwrap"), "{message}");
    }

    #[test]
    fn any_other_panic_stays_one() {
        let panic = catch_unwind(|| panic!("index out of bounds")).unwrap_err();
        let again = catch_unwind(AssertUnwindSafe(|| Departure::of_panic(panic, || true))).unwrap_err();
        assert_eq!(again.downcast_ref::<&str>(), Some(&"index out of bounds"));
    }

    #[test]
    fn a_device_that_failed_is_told_as_such_wherever_it_was_met_and_does_not_end_the_job() {
        let said = "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in https://docs.nvidia.com";
        let torch = || ModelError::Torch(TchError::Torch(said.to_owned()));
        let collective = || CollectiveError::Torch(said.lines().next().unwrap().to_owned());
        let met = [
            Departure::of_panic(
                Box::new(format!("called `Result::unwrap()` on an `Err` value: Torch({said:?})")),
                || true,
            ),
            collective().into(),
            torch().into(),
            ModelError::List(collective()).into(),
            CheckpointError::Model(torch()).into(),
            Departure::Evaluation { name: "captions".into(), source: Box::new(torch().into()) },
            Departure::Collective(CollectiveError::Collective(said.to_owned())),
        ];
        for departure in met {
            let departure = departure.or_of_device(|| true);
            assert!(departure.is_of_own_state(), "{departure}");
            let failure = departure.failure().unwrap();
            assert_eq!((failure.code.as_str(), failure.permanent), ("DEVICE_FAILED", false));
            assert_eq!(failure.message, "the device failed: CUDA error: an illegal memory access was encountered");
        }
    }

    #[test]
    fn what_libtorch_refuses_on_a_device_that_works_stays_the_programs_fault() {
        let Err(shapes) = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu))
            .f_matmul(&Tensor::zeros([4, 5], (Kind::Float, Device::Cpu)))
        else {
            panic!("shapes that don't fit are multiplied")
        };
        for error in [shapes, TchError::Torch("CUDA error: invalid argument".into())] {
            let departure = Departure::from(ModelError::Torch(error)).or_of_device(|| true);
            let failure = departure.failure().unwrap();
            assert_eq!((failure.code.as_str(), failure.permanent), ("INTERNAL", true), "{}", failure.message);
        }
        let told = Departure::Collective(CollectiveError::Aborted).or_of_device(|| false);
        assert!(told.failure().is_none(), "who was told to leave asks for nothing");
    }
}
