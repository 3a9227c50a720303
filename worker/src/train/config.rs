//! From the job's spec to the model crate's own types.

use cappa_model::optim::{
    AdafactorConfig, AdamWConfig, LionConfig, MuonConfig, Optimizer, OptimizerConfig, RuleConfig,
};
use cappa_model::schedule::{Decay, Schedule};
use cappa_model::transfer::Part;
use cappa_model::{
    Captioner, ClassLoss, Classifier, ClassifierConfig, ContrastiveConfig, ModelConfig, ModelError, ParamTable,
    Pooling, PositionEmbedding, Precision, TowerConfig, TwoTower,
};
use cappa_shared::ids::Step;
use cappa_shared::spec::{self, JobSpec};
use tch::Device;

/// What the similarities of two towers are multiplied by, to begin with (the authors' setting for both losses).
const TEMPERATURE: f64 = 10.0;
/// What SigLIP adds to them, to begin with: a batch has many more wrong pairs than right ones (arXiv 2303.15343).
const BIAS: f64 = -10.0;

/// The captioner of a job, its parameters drawn from the job's seed.
pub(crate) fn captioner(spec: &JobSpec, device: Device) -> Result<Captioner, ModelError> {
    Ok(Captioner::new(&model(spec), spec.data.seed, device)?.with_precision(precision(spec)))
}

/// The two towers of a job, their parameters drawn from the job's seed.
pub(crate) fn two_tower(spec: &JobSpec, device: Device) -> Result<TwoTower, ModelError> {
    Ok(TwoTower::new(&towers(spec), spec.data.seed, device)?.with_precision(precision(spec)))
}

/// The classifier of a job, its parameters drawn from the job's seed.
pub(crate) fn classifier(spec: &JobSpec, pooling: spec::Pooling, device: Device) -> Result<Classifier, ModelError> {
    Ok(Classifier::new(&classes(spec, pooling), spec.data.seed, device)?.with_precision(precision(spec)))
}

/// The loss of a classifier.
pub(crate) fn class_loss(loss: spec::ClassLoss) -> ClassLoss {
    match loss {
        spec::ClassLoss::Softmax => ClassLoss::Softmax,
        spec::ClassLoss::Sigmoid => ClassLoss::Sigmoid,
    }
}

/// The sizes of a job's classifier.
fn classes(spec: &JobSpec, pooling: spec::Pooling) -> ClassifierConfig {
    let pooling = match pooling {
        spec::Pooling::Map => Pooling::Map,
        spec::Pooling::Mean => Pooling::Mean,
    };
    let [image, patch] = [spec.data.image_size, spec.model.patch].map(i64::from);
    ClassifierConfig {
        image_size: [image, image],
        patch: [patch, patch],
        position: position(spec),
        image: TowerConfig { pooling, ..tower(spec) },
        // A spec of this objective has labels.
        classes: spec.data.label.as_ref().map_or(0, |label| label.classes.count().into()),
    }
}

/// The encoder of a job, with attention pooling.
fn tower(spec: &JobSpec) -> TowerConfig {
    let model = &spec.model;
    TowerConfig {
        width: model.width.into(),
        layers: model.layers.into(),
        heads: model.heads.into(),
        mlp: model.mlp.into(),
        pooling: Pooling::Map,
    }
}

fn precision(spec: &JobSpec) -> Precision {
    match spec.precision {
        spec::Precision::Fp32 => Precision::Fp32,
        spec::Precision::Bf16 => Precision::Bf16,
    }
}

fn position(spec: &JobSpec) -> PositionEmbedding {
    match spec.model.position {
        spec::PositionEmbedding::Learn => PositionEmbedding::Learn,
        spec::PositionEmbedding::Sincos2d => PositionEmbedding::Sincos2d,
    }
}

/// The sizes of a job's two towers: both as the encoder, that of images with attention pooling.
fn towers(spec: &JobSpec) -> ContrastiveConfig {
    let model = &spec.model;
    let [image, patch] = [spec.data.image_size, model.patch].map(i64::from);
    let tower = tower(spec);
    let text_pooling = match spec.objective.text_pooling() {
        Some(spec::TextPooling::Last) => Pooling::Last,
        Some(spec::TextPooling::Map) | None => Pooling::Map,
    };
    ContrastiveConfig {
        image_size: [image, image],
        patch: [patch, patch],
        position: position(spec),
        image: tower,
        text: TowerConfig { pooling: text_pooling, ..tower },
        vocab: model.vocabulary.into(),
        text_length: spec.data.text_length.longest().into(),
        embedding: model.width.into(),
        temperature: TEMPERATURE,
        bias: matches!(spec.objective, spec::Objective::Siglip { .. }).then_some(BIAS),
    }
}

/// Rows and columns of patches of a job's images.
pub(crate) fn grid(spec: &JobSpec) -> [i64; 2] {
    [i64::from(spec.data.image_size / spec.model.patch); 2]
}

/// The parts of a network that a spec means.
pub(crate) fn parts(parts: &[spec::Part]) -> Vec<Part> {
    let part = |part: &spec::Part| match part {
        spec::Part::Encoder => Part::Encoder,
        spec::Part::Head => Part::Head,
        spec::Part::Text => Part::Text,
        spec::Part::Decoder => Part::Decoder,
    };
    parts.iter().map(part).collect()
}

/// Floating-point operations of one example's training, for the use made of the device.
pub(crate) fn flop_per_image(spec: &JobSpec) -> f64 {
    match spec.objective {
        spec::Objective::Clip { .. } | spec::Objective::Siglip { .. } => cappa_model::flop_per_pair(&towers(spec)),
        spec::Objective::Cap { .. } | spec::Objective::Cappa { .. } => cappa_model::flop_per_image(&model(spec)),
        spec::Objective::Classify { pooling, .. } => cappa_model::flop_per_classified(&classes(spec, pooling)),
    }
}

/// The sizes of a job's captioner.
fn model(spec: &JobSpec) -> ModelConfig {
    let model = &spec.model;
    let [image, patch] = [spec.data.image_size, model.patch].map(i64::from);
    ModelConfig {
        image_size: [image, image],
        patch: [patch, patch],
        width: model.width.into(),
        layers: model.layers.into(),
        heads: model.heads.into(),
        mlp: model.mlp.into(),
        decoder_width: model.width.into(),
        decoder_layers: model.decoder_layers.into(),
        decoder_heads: model.heads.into(),
        decoder_mlp: model.mlp.into(),
        decoder_bias: model.decoder_bias,
        vocab: model.vocabulary.into(),
        text_length: spec.data.text_length.longest().into(),
        position: position(spec),
        masked_pred_prob: spec.objective.parallel_fraction(),
        masking_ratio: spec.objective.masking_ratio(),
    }
}

/// The update rule of a job, its state zero.
pub(crate) fn optimizer(spec: &JobSpec, total_steps: Step, params: &ParamTable) -> Optimizer {
    let optimizer = &spec.optimizer;
    let adamw = AdamWConfig { beta1: optimizer.beta1, beta2: optimizer.beta2, ..AdamWConfig::default() };
    let rule = match optimizer.name {
        spec::OptimizerName::Adafactor => RuleConfig::Adafactor(AdafactorConfig {
            beta2_cap: optimizer.beta2,
            momentum: optimizer.beta1,
            ..AdafactorConfig::default()
        }),
        spec::OptimizerName::Adamw => RuleConfig::AdamW(adamw),
        spec::OptimizerName::Lion => RuleConfig::Lion(LionConfig { beta1: optimizer.beta1, beta2: optimizer.beta2 }),
        spec::OptimizerName::Muon => RuleConfig::Muon(MuonConfig { others: adamw, ..MuonConfig::default() }),
    };
    let config = OptimizerConfig {
        rule,
        learning_rate: optimizer.learning_rate,
        weight_decay: optimizer.weight_decay,
        clip_norm: Some(optimizer.clip_norm),
        schedule: Schedule {
            total_steps: total_steps.0,
            warmup_steps: spec.warmup_steps(total_steps.0),
            cooldown_steps: spec.schedule.cooldown_steps,
            decay: match spec.schedule.name {
                spec::ScheduleName::Cosine => Decay::Cosine,
                spec::ScheduleName::Linear => Decay::Linear { end: spec.schedule.end },
                spec::ScheduleName::Rsqrt => Decay::Rsqrt { timescale: spec.schedule.timescale() as f64, shift: 0.0 },
                spec::ScheduleName::Constant => Decay::Constant,
            },
        },
    };
    Optimizer::new(config, params)
}
