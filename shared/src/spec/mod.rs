//! The job spec: what a researcher asks for. A document (YAML or JSON) becomes a raw form that
//! knows every wrong key, and that becomes a [`JobSpec`], which the rest of the code sees: every
//! value checked, every default filled in. Defaults are the paper's (arXiv 2306.07915, appendix A).

mod architecture;
mod augment;
mod bad_loss;
mod data;
mod document;
mod emit;
mod error;
mod evaluation;
mod init;
mod label;
mod load;
mod overrides;
mod places;
mod preset;
mod raw;
mod scalar;
mod scheduling;
mod shape;
mod suggest;
mod towers;
mod validate;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Namespace;
use crate::timing::Span;

pub use architecture::Shapes;
pub use augment::{Augment, Crop, Jitter, Problem};
pub use bad_loss::{BadLossAction, OnBadLoss};
pub use data::{CaptionChoice, CaptionSource, Captions, Data, Decode, Source, Sources, TextLengths, is_manifest};
pub use error::{Mistake, Position, SpecError, SpecErrors};
pub use evaluation::{Decoding, Evaluation, Task, Templates};
pub use init::{Init, Part};
pub use label::{ClassLoss, Classes, Label, Pooling};
pub use load::SpecBase;
pub use overrides::apply_overrides;
pub use places::Places;
pub use scheduling::{Condition, Dependency, OnFailedDependency, OnPreemption, Priority, Retry};
pub use towers::TextPooling;

/// A job as it runs. Built from a document only; see the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// What the job does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: JobKind,
    /// What people call the job; the job id adds a suffix to it. A DNS label of at most 50 characters.
    pub name: String,
    /// What the model is trained to predict.
    pub objective: Objective,
    /// The network.
    pub model: Model,
    /// Where samples come from and how they become tensors.
    pub data: Data,
    /// Examples of one update, over all workers. A multiple of `data.lanes`.
    pub batch_size: u32,
    /// Examples that a worker takes through the network at once; all of its share when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<u32>,
    /// Whether the activations inside blocks are computed again in the backward pass rather than kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Decay of an average of the parameters, which evaluations use; none is kept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// The learning rate over time, relative to `optimizer.learning_rate`.
    pub schedule: Schedule,
    /// When training is complete.
    pub duration: Length,
    /// The checkpoint whose parameters the network starts from; they are drawn from the seed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Parts whose parameters stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Part>,
    /// The type of matrix products. Master weights, loss and normalisation are always fp32.
    pub precision: Precision,
    /// When a loss is bad, and what becomes of its update then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_bad_loss: OnBadLoss,
    /// Updates after which all ranks compare their parameters; so they do before every checkpoint then. `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_replicas: Option<u64>,
    /// How many workers the job starts with at least, and uses at most.
    pub workers: Workers,
    /// Whose quota and share the job counts against; the submission's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Higher runs first.
    pub priority: Priority,
    /// What becomes of the job when a more important one needs its workers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_preemption: OnPreemption,
    /// How often it is tried again after a failure, by class.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: Retry,
    /// Jobs that come before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    /// What becomes of it when one of those ends otherwise than asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failed_dependency: OnFailedDependency,
    /// How long it may have workers altogether.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Span>,
    /// How soon after its submission it must have started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_deadline: Option<Span>,
    /// When state is saved, and what is kept.
    pub checkpoint: Checkpoint,
    /// What is measured, and when.
    pub evaluate: Vec<Evaluation>,
}

/// What a job does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// It trains, then evaluates what it trained.
    #[default]
    Pretrain,
    /// It evaluates the checkpoint that it starts from, and makes no update.
    Evaluate,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The share that is everything.
fn all() -> f64 {
    1.0
}

fn is_all(share: &f64) -> bool {
    *share == all()
}

/// What the model learns: from pairs of image and text to write the text (paper section 3), or to tell which text belongs to which
/// image (the paper's baselines); from labels to tell classes (the paper's transfers).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Objective {
    /// Autoregressive captioning only.
    Cap {
        /// Probability that a label gives away, evenly to all other tokens.
        #[serde(default, skip_serializing_if = "is_default")]
        label_smoothing: f64,
    },
    /// Each example is drawn parallel with `parallel_fraction`, else autoregressive.
    Cappa {
        /// Share of examples whose text is predicted in parallel from mask tokens (0.75 in the paper).
        parallel_fraction: f64,
        /// Share of the text's places that parallel prediction hides, drawn for each example; the others show the true token (1, all of
        /// them, in the paper).
        #[serde(default = "all", skip_serializing_if = "is_all")]
        masking_ratio: f64,
        /// Probability that a label gives away, evenly to all other tokens.
        #[serde(default, skip_serializing_if = "is_default")]
        label_smoothing: f64,
    },
    /// Two towers, the softmax loss over the pairs of the global batch (arXiv 2103.00020).
    Clip {
        /// How the tokens of a text become one vector.
        #[serde(default, skip_serializing_if = "is_default")]
        text_pooling: TextPooling,
    },
    /// Two towers, the sigmoid loss over the pairs of the global batch (arXiv 2303.15343).
    Siglip {
        /// How the tokens of a text become one vector.
        #[serde(default, skip_serializing_if = "is_default")]
        text_pooling: TextPooling,
    },
    /// The encoder with a head that tells the classes of [`Data::label`]; with a frozen encoder a linear probe, or the transfer of
    /// a pooling head.
    Classify {
        /// How patches become what the last layer sees.
        pooling: Pooling,
        /// How one class is told from the others.
        loss: ClassLoss,
        /// Probability that a label gives away, evenly to all other classes.
        #[serde(default, skip_serializing_if = "is_default")]
        label_smoothing: f64,
    },
}

impl Objective {
    /// The share of examples predicted in parallel; 0 where none may be.
    pub fn parallel_fraction(&self) -> f64 {
        match self {
            Objective::Cappa { parallel_fraction, .. } => *parallel_fraction,
            _ => 0.0,
        }
    }

    /// The share of the text's places that parallel prediction hides.
    pub fn masking_ratio(&self) -> f64 {
        match self {
            Objective::Cappa { masking_ratio, .. } => *masking_ratio,
            _ => all(),
        }
    }

    /// The label smoothing; 0 where there is none.
    pub fn label_smoothing(&self) -> f64 {
        match self {
            Objective::Cap { label_smoothing }
            | Objective::Cappa { label_smoothing, .. }
            | Objective::Classify { label_smoothing, .. } => *label_smoothing,
            Objective::Clip { .. } | Objective::Siglip { .. } => 0.0,
        }
    }

    /// Whether it trains two towers.
    pub fn is_contrastive(&self) -> bool {
        matches!(self, Objective::Clip { .. } | Objective::Siglip { .. })
    }

    /// Whether it trains a captioner.
    pub fn is_captioning(&self) -> bool {
        matches!(self, Objective::Cap { .. } | Objective::Cappa { .. })
    }

    /// Whether it trains a classifier.
    pub fn is_classifying(&self) -> bool {
        matches!(self, Objective::Classify { .. })
    }

    /// Its name in a spec.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::Cap { .. } => "cap",
            Objective::Cappa { .. } => "cappa",
            Objective::Clip { .. } => "clip",
            Objective::Siglip { .. } => "siglip",
            Objective::Classify { .. } => "classify",
        }
    }
}

/// The network's sizes: a preset, with what the spec overrides already applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `tiny`, `S/16`, `M/16`, `B/16` or `L/14`.
    pub preset: String,
    /// Patch height and width in pixels.
    pub patch: u32,
    /// Width of encoder and decoder, or of both towers.
    pub width: u32,
    /// Encoder blocks, or blocks of each tower.
    pub layers: u32,
    /// Decoder blocks; two towers have no decoder.
    pub decoder_layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Width of the hidden layer of each MLP.
    pub mlp: u32,
    /// Tokens of the vocabulary, without the mask token.
    pub vocabulary: u32,
    /// How positions are encoded.
    pub position: PositionEmbedding,
    /// Biases in the decoder's layer norms and MLPs.
    pub decoder_bias: bool,
}

/// How positions are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    /// A learned table.
    Learn,
    /// Fixed two-dimensional sines and cosines.
    Sincos2d,
}

/// The update rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Which one.
    pub name: OptimizerName,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay, on kernels only; as the authors have it, it scales with the schedule, not with
    /// the learning rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this joint norm.
    pub clip_norm: f64,
    /// First-moment decay.
    pub beta1: f64,
    /// Second-moment decay (its cap, for Adafactor); for Lion the decay of the momentum.
    pub beta2: f64,
}

/// The supported update rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// The authors' variant of Adafactor.
    Adafactor,
    /// Adam with decoupled weight decay.
    Adamw,
    /// The sign of momentum (arXiv 2302.06675): wants a learning rate several times smaller than AdamW's.
    Lion,
    /// Orthogonal momentum (0.95) for the matrices of the Transformer blocks, AdamW with `beta1` and `beta2` for the rest.
    Muon,
}

/// Learning rate over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The shape after warm-up.
    pub name: ScheduleName,
    /// Updates of linear warm-up from zero. `None`: [`JobSpec::warmup_steps`] derives it from the job's length, which for
    /// epochs is known once the data manifest has been read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The last so many updates pull the rate linearly to zero, whatever the shape.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cooldown_steps: u64,
    /// Of `linear`: the rate at the end, relative to the peak.
    #[serde(default, skip_serializing_if = "is_default")]
    pub end: f64,
    /// Of `rsqrt`; see [`Schedule::timescale`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timescale: Option<u64>,
}

/// Of the schedule `rsqrt`, as the authors set it.
const TIMESCALE: u64 = 10_000;

impl Schedule {
    /// Of `rsqrt`: updates after warm-up in which the rate falls to 1/√2.
    pub fn timescale(&self) -> u64 {
        self.timescale.unwrap_or(TIMESCALE)
    }
}

/// The shape of a schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// Half a cosine to zero.
    Cosine,
    /// A straight line.
    Linear,
    /// The reciprocal of a square root (arXiv 2106.04560), for runs whose length is open; ends well with a cool-down.
    Rsqrt,
    /// The peak, for ever.
    Constant,
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// Optimizer updates.
    Steps(u64),
    /// Passes over the data.
    Epochs(u64),
    /// Examples seen, rounded up to whole updates.
    Examples(u64),
}

/// The type of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    Fp32,
    /// bfloat16 matrix products.
    Bf16,
}

/// Bounds of the gang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// The job waits until so many are free.
    pub min: u32,
    /// It never uses more.
    pub max: u32,
}

/// When state is saved, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Updates between checkpoints; one is always written at the end.
    pub every: u64,
    /// The newest so many are kept.
    pub keep: u32,
}

#[cfg(test)]
mod tests;
