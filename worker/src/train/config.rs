//! From the job's spec to the model crate's own types.

use cappa_model::optim::{AdafactorConfig, AdamWConfig, MuonConfig, Optimizer, OptimizerConfig, RuleConfig};
use cappa_model::schedule::{Decay, Schedule};
use cappa_model::{Captioner, ModelConfig, ModelError, ParamTable, PositionEmbedding, Precision};
use cappa_shared::ids::Step;
use cappa_shared::spec::{self, JobSpec};
use tch::Device;

/// The network of a job, its parameters drawn from the job's seed.
pub(crate) fn captioner(spec: &JobSpec, device: Device) -> Result<Captioner, ModelError> {
    let precision = match spec.precision {
        spec::Precision::Fp32 => Precision::Fp32,
        spec::Precision::Bf16 => Precision::Bf16,
    };
    Ok(Captioner::new(&model(spec), spec.data.seed, device)?.with_precision(precision))
}

/// The sizes of a job's network.
pub(crate) fn model(spec: &JobSpec) -> ModelConfig {
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
        position: match model.position {
            spec::PositionEmbedding::Learn => PositionEmbedding::Learn,
            spec::PositionEmbedding::Sincos2d => PositionEmbedding::Sincos2d,
        },
        masked_pred_prob: spec.objective.parallel_fraction(),
        masking_ratio: 1.0,
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
            cooldown_steps: 0,
            decay: match spec.schedule.name {
                spec::ScheduleName::Cosine => Decay::Cosine,
                spec::ScheduleName::Constant => Decay::Constant,
            },
        },
    };
    Optimizer::new(config, params)
}
