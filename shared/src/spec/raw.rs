//! The spec as people write it: every key that exists, and nothing checked but the shape. The JSON Schema that editors use
//! is derived from these types, and so are the messages about wrong keys; the comments here are its descriptions.
//!
//! Every field is an `Option`, required ones too: a spec with mistakes is read as far as it goes, so that all of them can
//! be reported at once.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Augment, BadLossAction, CaptionChoice, ClassLoss, Condition, Decode, OnFailedDependency, OnPreemption,
    OptimizerName, Part, Pooling, PositionEmbedding, Precision, ScheduleName, TextPooling,
};
use crate::manifest::Filter;

/// A CapPa job: a vision encoder trained by captioning, by contrasting pairs, or to tell classes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobSpec")]
pub(super) struct RawSpec {
    /// The version of this format.
    #[serde(rename = "apiVersion")]
    #[schemars(required)]
    #[expect(dead_code, reason = "there is one version, so that it has the right shape is all there is to check")]
    pub(super) api_version: Option<ApiVersion>,
    /// What the job does: pretrain, or evaluate a checkpoint (`from`) without training. Default: pretrain.
    pub(super) kind: Option<Kind>,
    /// evaluate: the checkpoint, by the URL or path of its MANIFEST.json, or a job's id for its newest one when it has succeeded;
    /// objective, model and data.tokenizer are those of the job that made it.
    pub(super) from: Option<String>,
    /// What people call the job: lower-case letters, digits and inner hyphens, at most 50.
    #[schemars(required)]
    pub(super) name: Option<String>,
    /// What the model is trained to predict. Default: cappa.
    pub(super) objective: Option<Short<ObjectiveName, RawObjective>>,
    /// The network: a preset, or a mapping of a preset and what differs. Default: B/16.
    pub(super) model: Option<Short<Preset, RawModel>>,
    /// Where samples come from and how they become tensors.
    #[schemars(required)]
    pub(super) data: Option<RawData>,
    /// Examples of one update, over all workers; a multiple of data.lanes. Default: 8192.
    pub(super) batch_size: Option<u32>,
    /// Examples that a worker takes through the network at once: fewer need less memory, and the update is the same.
    /// Default: all of its share.
    pub(super) micro_batch_size: Option<u32>,
    /// Whether the activations inside blocks are computed again in the backward pass rather than kept: less memory, another forward
    /// pass of every block, and the update is the same. Default: false.
    pub(super) gradient_checkpointing: Option<bool>,
    /// The update rule. Default: adafactor.
    pub(super) optimizer: Option<Short<OptimizerName, RawOptimizer>>,
    /// Decay of a moving average of the parameters, e.g. 0.9999, which evaluations, captions and jobs that start from the
    /// checkpoint use. Default: no average.
    pub(super) ema_decay: Option<f64>,
    /// The learning rate over time. Default: cosine with warm-up.
    pub(super) schedule: Option<Short<ScheduleName, RawSchedule>>,
    /// When training is complete: one of steps, epochs, examples. Required, but for evaluate.
    pub(super) duration: Option<RawDuration>,
    /// The checkpoint that the network starts from: the URL or path of its MANIFEST.json, or a mapping that also says which
    /// parts. Default: initial values from data.seed.
    pub(super) init: Option<Short<String, RawInit>>,
    /// Parts of the network whose parameters stay as they are. Default: none.
    pub(super) freeze: Option<Vec<Part>>,
    /// The type of matrix products. Default: fp32.
    pub(super) precision: Option<Precision>,
    /// What becomes of an update whose loss is no number, or with a mapping that says so a spike: stop, or skip it. Default: stop.
    pub(super) on_bad_loss: Option<Short<BadLossAction, RawOnBadLoss>>,
    /// Updates after which all workers compare their parameters, which must be equal to the bit; so they do before every
    /// checkpoint then. Default: never.
    pub(super) verify_replicas: Option<u64>,
    /// How many workers the job uses: a number, or bounds. Default: 1.
    pub(super) workers: Option<Short<u32, RawWorkers>>,
    /// Whose quota and share the job counts against. Default: the one given on submission, else default.
    pub(super) namespace: Option<String>,
    /// Higher runs first: a number, or one of the coordinator's classes. Default: 0.
    pub(super) priority: Option<Short<i32, String>>,
    /// What becomes of the job, after a checkpoint, when a more important one needs its workers. Default: requeue.
    pub(super) on_preemption: Option<OnPreemption>,
    /// How often the job is tried again after a failure. Default: never, beyond forming its group again.
    pub(super) retry: Option<RawRetry>,
    /// Jobs that must have ended before this one starts.
    pub(super) after: Option<Vec<RawDependency>>,
    /// What becomes of the job when one of those ends otherwise than asked for. Default: fail.
    pub(super) on_failed_dependency: Option<OnFailedDependency>,
    /// How long the job may have workers altogether, e.g. 12h; it checkpoints before it ends. Default: no limit.
    pub(super) time_limit: Option<String>,
    /// How soon after its submission the job must have started, e.g. 30m. Default: no deadline.
    pub(super) queue_deadline: Option<String>,
    /// When state is saved, and what is kept.
    pub(super) checkpoint: Option<RawCheckpoint>,
    /// What is measured when training is complete.
    pub(super) evaluate: Option<Vec<RawEvaluation>>,
}

/// A short form, or a mapping that says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum Short<N, M> {
    Name(N),
    Map(M),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(super) enum ApiVersion {
    #[serde(rename = "cappa.dev/v1")]
    V1,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Pretrain,
    Evaluate,
    Export,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ObjectiveName {
    Cap,
    Cappa,
    Clip,
    Siglip,
    Classify,
}

/// What the model is trained to predict.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawObjective {
    /// Which objective.
    #[serde(rename = "type")]
    #[schemars(required)]
    pub(super) name: Option<ObjectiveName>,
    /// Share of examples whose text is predicted in parallel (cappa only). Default: 0.75.
    pub(super) parallel_fraction: Option<f64>,
    /// Share of the text's places that parallel prediction hides, drawn for each example (cappa only). Default: 1, all of them.
    pub(super) masking_ratio: Option<f64>,
    /// Probability that a label gives away, evenly to all other tokens or classes (cap, cappa and classify). Default: 0.
    pub(super) label_smoothing: Option<f64>,
    /// How the patches of an image become what the last layer sees (classify only). Default: map.
    pub(super) pooling: Option<Pooling>,
    /// How one class is told from the others (classify only). Default: softmax.
    pub(super) loss: Option<ClassLoss>,
    /// How the tokens of a text become one vector: map, or last, which `cappactl export` can give to open_clip (clip and siglip
    /// only). Default: map.
    pub(super) text_pooling: Option<TextPooling>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(super) enum Preset {
    #[serde(rename = "tiny")]
    Tiny,
    #[serde(rename = "S/16")]
    S16,
    #[serde(rename = "M/16")]
    M16,
    #[serde(rename = "B/16")]
    B16,
    #[serde(rename = "L/14")]
    L14,
}

/// The network: a preset and what differs from it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    /// Where the sizes that are not given come from. Default: B/16.
    pub(super) preset: Option<Preset>,
    /// Patch height and width in pixels.
    pub(super) patch: Option<u32>,
    /// Width of encoder and decoder, or of both towers of clip and siglip.
    pub(super) width: Option<u32>,
    /// Encoder blocks, or blocks of each tower.
    pub(super) layers: Option<u32>,
    /// Decoder blocks; clip and siglip have no decoder.
    pub(super) decoder_layers: Option<u32>,
    /// Attention heads; they divide the width.
    pub(super) heads: Option<u32>,
    /// Width of the hidden layer of each MLP.
    pub(super) mlp: Option<u32>,
    /// Tokens of the vocabulary, without the mask token.
    pub(super) vocabulary: Option<u32>,
    /// How positions are encoded. Default: learn.
    pub(super) position: Option<PositionEmbedding>,
    /// Biases in the decoder's layer norms and MLPs. Default: false.
    pub(super) decoder_bias: Option<bool>,
}

/// Where samples come from and how they become tensors.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    /// What to train on: the URL or path of a manifest that `cappactl data index` wrote (it ends in .json), a pattern of
    /// shards such as `s3://bucket/train-{000..127}.tar` (they are indexed first), or a list of either, mixed by weight. Required,
    /// but for evaluate.
    pub(super) train: Option<Short<String, Vec<Short<String, RawSource>>>>,
    /// URL or path of the tokenizer: a `tokenizer.json` or a SentencePiece `.model`.
    #[schemars(required)]
    pub(super) tokenizer: Option<String>,
    /// Where captions are found: auto, txt, or a mapping that says more. Default: auto.
    pub(super) captions: Option<Short<CaptionFrom, RawCaptions>>,
    /// cap, cappa: dotted path in a sample's `.json` of a text that comes before its caption, e.g. question: the decoder sees it,
    /// and it is not in the loss. Samples without it have none. Default: no prefix.
    pub(super) prefix: Option<String>,
    /// classify: where a sample's class is found, and which classes there are.
    pub(super) label: Option<RawLabel>,
    /// Which samples are used, where data.train is a pattern of shards. A manifest has its own filter already. Default: all.
    pub(super) filter: Option<Filter>,
    /// How images are decoded. Default: exact.
    pub(super) decode: Option<Decode>,
    /// Random changes of the images of training, the same for every run of a seed. Default: none.
    pub(super) augment: Option<Augment>,
    /// Height and width of the model's input in pixels. Default: the preset's.
    pub(super) image_size: Option<u32>,
    /// Tokens of a caption, end-of-text included. Of a list, the captions of a batch that are predicted autoregressively take
    /// the shortest length that they fit into, which changes no loss; those predicted in parallel, where every position sees the
    /// padding, always the longest. Default: the preset's.
    pub(super) text_length: Option<Short<u32, Vec<u32>>>,
    /// Seed of sample order, draws and initialisation. Default: 0.
    pub(super) seed: Option<u64>,
    /// Lanes that an epoch is cut into; a worker owns at least one. Default: 64, or batch_size if that is less.
    pub(super) lanes: Option<u32>,
    /// Shards that are shuffled together within a lane. Default: 8.
    pub(super) shuffle_window: Option<u32>,
    /// The job fails when more than this share of the samples seen is bad. Default: 0.01.
    pub(super) max_bad_fraction: Option<f64>,
}

/// A source of a mixture.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    /// URL or path of a manifest, or a pattern of shards.
    #[schemars(required)]
    pub(super) source: Option<String>,
    /// Its share of the samples, in relation to the other weights. Default: 1.
    pub(super) weight: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CaptionFrom {
    Auto,
    Txt,
    Json,
}

/// Where a sample's captions are found, and which of several is taken.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCaptions {
    /// auto: the list `captions` of the `.json`, else the `.txt`; txt: the `.txt`; json: a field of the `.json`. Default: auto.
    pub(super) from: Option<CaptionFrom>,
    /// json: the field with the caption, or with a list of them.
    pub(super) field: Option<String>,
    /// Which of several captions of an image: one, drawn; turn by turn; or all, each a sample of its own. Default: one.
    pub(super) choose: Option<CaptionChoice>,
}

/// Where a sample's class is found, and which classes there are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLabel {
    /// Dotted path in the sample's `.json`, e.g. class.
    #[schemars(required)]
    pub(super) field: Option<String>,
    /// The names of all classes, in the order of the network's outputs; or their number, where samples have numbers from zero.
    #[schemars(required)]
    pub(super) classes: Option<Short<u32, Vec<String>>>,
}

/// The update rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOptimizer {
    /// Which one. Default: adafactor.
    pub(super) name: Option<OptimizerName>,
    /// Peak learning rate. Default: 0.001.
    pub(super) learning_rate: Option<f64>,
    /// Decoupled weight decay, on kernels only. Default: 0.0001.
    pub(super) weight_decay: Option<f64>,
    /// Gradients are scaled down to this joint norm. Default: 1.
    pub(super) clip_norm: Option<f64>,
    /// First-moment decay; lion: weight of the momentum in an update. Default: 0.9.
    pub(super) beta1: Option<f64>,
    /// Second-moment decay (its cap, for adafactor). Default: 0.999. lion: decay of the momentum. Default: 0.99.
    pub(super) beta2: Option<f64>,
}

/// The learning rate over time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSchedule {
    /// The shape after warm-up. Default: cosine.
    pub(super) name: Option<ScheduleName>,
    /// Updates of linear warm-up from zero. Default: 10,000, or a tenth of the job if that is less.
    pub(super) warmup_steps: Option<u64>,
    /// The last so many updates pull the rate linearly to zero. Default: 0.
    pub(super) cooldown_steps: Option<u64>,
    /// linear: the rate at the end, relative to the peak. Default: 0.
    pub(super) end: Option<f64>,
    /// rsqrt: updates after warm-up in which the rate falls to 1/√2. Default: 10,000.
    pub(super) timescale: Option<u64>,
}

/// The checkpoint that the network starts from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInit {
    /// URL or path of its MANIFEST.json.
    #[schemars(required)]
    pub(super) from: Option<String>,
    /// The parts that are taken. Default: all parameters.
    pub(super) parts: Option<Vec<Part>>,
}

/// When training is complete: exactly one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDuration {
    /// Optimizer updates.
    pub(super) steps: Option<u64>,
    /// Passes over the data.
    pub(super) epochs: Option<u64>,
    /// Examples seen, rounded up to whole updates.
    pub(super) examples: Option<u64>,
}

/// When a loss is bad, and what becomes of its update then.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOnBadLoss {
    /// stop: the job fails; skip: the update is not made, and its samples are listed; rewind: the network goes back to the newest
    /// checkpoint, and the samples since then are skipped. Default: stop.
    pub(super) action: Option<BadLossAction>,
    /// A loss is also bad when it is so many times the mean of the recent ones, e.g. 3. Default: no such limit.
    pub(super) spike: Option<f64>,
    /// skip: more bad ones in a row stop the job; rewind: more rewinds do. Default: 10.
    pub(super) most: Option<u32>,
}

/// New tries after failures, by whose fault they are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetry {
    /// Tries after unreadable data or too many bad samples. Default: 0.
    pub(super) data: Option<u32>,
    /// Tries after divergence or too little memory. Default: 0.
    pub(super) user: Option<u32>,
    /// Tries after failures of collectives, stores or machines that forming again did not help. Default: 0.
    pub(super) infrastructure: Option<u32>,
    /// The wait before the first new try; it doubles with each, up to an hour. Default: 10s.
    pub(super) backoff: Option<String>,
}

/// A job that comes before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDependency {
    /// Its id.
    #[schemars(required)]
    pub(super) job: Option<String>,
    /// How it must have ended. Default: succeeded.
    pub(super) condition: Option<Condition>,
}

/// Bounds of the gang.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkers {
    /// The job waits until so many are free. Default: 1.
    pub(super) min: Option<u32>,
    /// It never uses more. Default: min.
    pub(super) max: Option<u32>,
}

/// When state is saved, and what is kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheckpoint {
    /// Updates between checkpoints; one is always written at the end. Default: 1000.
    pub(super) every: Option<u64>,
    /// The newest so many are kept. Default: 3.
    pub(super) keep: Option<u32>,
}

/// One measurement.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvaluation {
    /// What the report calls it: lower-case letters, digits and inner hyphens.
    #[schemars(required)]
    pub(super) name: Option<String>,
    /// URL or path of the manifest with the held-out samples.
    #[schemars(required)]
    pub(super) data: Option<String>,
    /// What to do with them.
    #[schemars(required)]
    pub(super) task: Option<Short<TaskName, RawTask>>,
    /// Use the first so many suitable samples. Default: all.
    pub(super) limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TaskName {
    Classify,
    Choose,
    Fewshot,
    Caption,
    Perplexity,
    Retrieval,
    Answer,
    Accuracy,
}

/// What an evaluation does with its samples.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTask {
    /// Which task: zero-shot classification, the true one of several captions, linear classification from a few examples,
    /// captions, how well captions are predicted, image-text retrieval, questions,
    /// or the accuracy of a classifier (objective classify).
    #[serde(rename = "type")]
    #[schemars(required)]
    pub(super) name: Option<TaskName>,
    /// classify, fewshot: field of a sample's `.json` with its label.
    pub(super) label: Option<String>,
    /// classify: all labels. Default: those that occur in the data.
    pub(super) labels: Option<Vec<String>>,
    /// classify: the prompt, with `{}` for the label, or several prompts whose scores are averaged. Default: `{}`.
    pub(super) template: Option<Short<String, Vec<String>>>,
    /// choose: field with the true caption. Default: the sample's first caption.
    pub(super) caption: Option<String>,
    /// choose: dotted path of the false caption in a sample's `.json`, or of a list of them.
    pub(super) negative: Option<String>,
    /// choose: in place of negative, true for the words of the true caption in another order. Default: false.
    pub(super) shuffle: Option<bool>,
    /// caption, answer: texts that are followed at a time. Default: 1, which is greedy.
    pub(super) beams: Option<u32>,
    /// caption, answer: ended texts are compared by log-likelihood / tokens ^ length_penalty. Default: 1.
    pub(super) length_penalty: Option<f64>,
    /// answer: field with the question. Default: question.
    pub(super) question: Option<String>,
    /// answer: field with the answer, or with a list of those that people gave. Default: answers, or answer.
    pub(super) answer: Option<String>,
    /// fewshot: URL or path of the manifest with the samples that examples are drawn from.
    pub(super) train: Option<String>,
    /// fewshot: examples of each class. Default: 1, 5, 10.
    pub(super) shots: Option<Vec<u32>>,
    /// fewshot: how often they are drawn. Default: 3.
    pub(super) draws: Option<u32>,
}
