//! What a study trains: the paper's systems at the same number of examples and the same size, over several seeds; captioners that
//! predict more or fewer of their examples in parallel (paper section 4.4); longer and shorter runs, and smaller networks.

use std::fmt;

use cappa_data::synth::Level;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::tasks::{ANSWERS, CAPTIONS, CLASSES, EVERYWHERE, OBJECTS, RETRIEVAL, evaluations, own};

/// How much a study trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scale {
    /// Sized for two processors and an hour.
    Cpu,
    /// One GPU for as long as --steps says.
    Gpu,
}

/// What the scale decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) level: Level,
    /// Samples that are trained on, and held out.
    pub(super) samples: (u64, u64),
    /// The first of the former, of which few-shot regression draws: it encodes all of them.
    pub(super) few_shot_samples: u64,
    pub(super) batch_size: u64,
    pub(super) precision: &'static str,
    /// Updates of a full run.
    pub(super) steps: u64,
    /// Updates of what is trained on a frozen encoder.
    pub(super) transfer_steps: u64,
    /// Runs of each system of the tables.
    pub(super) seeds: u64,
    /// Networks that are trained at a time, by a worker each.
    pub(super) workers: u32,
    /// The network of the systems, and a smaller one.
    pub(super) models: [Model; 2],
}

impl Scale {
    pub(super) fn size(self) -> Size {
        match self {
            Self::Cpu => Size {
                level: Level::Easy,
                samples: (20_000, 1_200),
                few_shot_samples: 4_000,
                batch_size: 32,
                precision: "fp32",
                steps: 1000,
                transfer_steps: 100,
                seeds: 3,
                workers: 2,
                models: [Model::Tiny, Model::Narrow],
            },
            Self::Gpu => Size {
                level: Level::Easy,
                samples: (100_000, 2_400),
                few_shot_samples: 4_000,
                batch_size: 256,
                precision: "bf16",
                steps: 600,
                transfer_steps: 150,
                seeds: 3,
                workers: 6,
                models: [Model::Tiny, Model::Narrow],
            },
        }
    }
}

/// The sizes of networks that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Model {
    /// Half as wide as tiny.
    Narrow,
    /// The preset with patches of 16.
    Tiny,
}

impl Model {
    /// As specs write it. Patches of 16 make the preset twice as fast, which a study spends on examples.
    fn spec(self) -> &'static str {
        match self {
            Self::Narrow => "{ preset: tiny, patch: 16, width: 64, heads: 2, mlp: 256 }",
            Self::Tiny => "{ preset: tiny, patch: 16 }",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Tiny => "tiny",
        }
    }
}

/// What learns: a captioner, or two towers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum System {
    /// A captioner that predicts this share of its examples in parallel; with none of them it is Cap.
    Captioner {
        /// From 0 to 1.
        parallel_fraction: f64,
    },
    /// Two towers and a softmax over the batch.
    Clip,
    /// Two towers and a sigmoid for each pair.
    Siglip,
}

pub(super) const CAP: System = System::Captioner { parallel_fraction: 0.0 };
/// The paper's.
pub(super) const CAPPA: System = System::Captioner { parallel_fraction: 0.75 };
/// Tokens, the end included; a question and its answer have four more.
const CAPTION_LENGTH: u32 = 16;
/// Of the pooling head on a frozen encoder; not tuned.
const CLASSIFIER_LEARNING_RATE: f64 = 4e-3;
/// The systems of the tables.
pub(super) const SYSTEMS: [System; 4] = [CAP, CAPPA, System::Clip, System::Siglip];
/// The ablation's.
pub(super) const FRACTIONS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

impl System {
    pub(super) fn is_captioner(self) -> bool {
        matches!(self, Self::Captioner { .. })
    }

    /// The best of three for Muon, by few-shot and zero-shot accuracy of Cap and of CLIP (docs/study/README.md).
    fn learning_rate(self) -> f64 {
        if self.is_captioner() { 4e-3 } else { 1e-3 }
    }

    fn objective(self) -> String {
        match self {
            CAP => "cap".into(),
            Self::Captioner { parallel_fraction } => {
                format!("{{ type: cappa, parallel_fraction: {parallel_fraction} }}")
            }
            Self::Clip => "clip".into(),
            Self::Siglip => "siglip".into(),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CAP => f.write_str("Cap"),
            CAPPA => f.write_str("CapPa"),
            Self::Captioner { parallel_fraction } => write!(f, "CapPa {:.0} %", 100.0 * parallel_fraction),
            Self::Clip => f.write_str("CLIP"),
            Self::Siglip => f.write_str("SigLIP"),
        }
    }
}

/// What is the same for all seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) system: System,
    pub(super) model: Model,
    pub(super) steps: u64,
}

/// What is done with an encoder that stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Transfer {
    /// A decoder that captions.
    Captions,
    /// A decoder that answers questions.
    Answers,
    /// A text tower (LiT).
    TextTower,
    /// A pooling head and a classifier.
    Classifier,
}

impl Transfer {
    pub(super) const ALL: [Self; 4] = [Self::Captions, Self::Answers, Self::TextTower, Self::Classifier];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Captions => "captions",
            Self::Answers => "answers",
            Self::TextTower => "text-tower",
            Self::Classifier => "classifier",
        }
    }
}

/// One pre-training, and what follows on it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Run {
    pub(super) setting: Setting,
    pub(super) seed: u64,
    pub(super) transfers: &'static [Transfer],
}

impl Run {
    pub(super) fn name(&self) -> String {
        let Setting { system, model, steps } = self.setting;
        let system: String = system.to_string().to_lowercase().replace([' ', '%'], "");
        format!("{system}-{}-{steps}-{}", model.name(), self.seed)
    }
}

/// All runs. The systems of the tables come first, seed by seed, so that a study that is stopped early has each as often; then, once
/// each, the ablation, longer and shorter runs, and the smaller network.
pub(super) fn runs(size: &Size, steps: u64, seeds: u64) -> Vec<Run> {
    let [model, smaller] = size.models;
    let full = |system| Setting { system, model, steps };
    let shorter = |steps: u64| SYSTEMS.map(|system| Setting { steps: steps.max(1), ..full(system) });
    let smaller = SYSTEMS.map(|system| Setting { model: smaller, ..full(system) });
    let ablated = FRACTIONS.map(|parallel_fraction| System::Captioner { parallel_fraction });
    let ablated = ablated.into_iter().filter(|system| !SYSTEMS.contains(system)).map(full);

    let tables = (0..seeds)
        .flat_map(|seed| SYSTEMS.map(|system| Run { setting: full(system), seed, transfers: &Transfer::ALL }));
    let once = ablated.chain(shorter(steps / 4)).chain(shorter(steps / 2)).chain(smaller);
    tables.chain(once.map(|setting| Run { setting, seed: 0, transfers: &[] })).collect()
}

/// The spec of a pre-training; its paths are relative to the study's folder.
pub(super) fn pretraining(run: &Run, size: &Size) -> String {
    let Setting { system, model, steps } = run.setting;
    let job = Job {
        name: run.name(),
        objective: system.objective(),
        model,
        learning_rate: system.learning_rate(),
        steps,
        seed: run.seed,
        train: "train",
        text_length: CAPTION_LENGTH,
        data: String::new(),
    };
    format!("{}evaluate:\n{}", job.spec(size), evaluations(&[&EVERYWHERE, own(system)]))
}

/// The spec of what is trained on the encoder of the checkpoint at `manifest`, which stays as it is.
pub(super) fn transfer(run: &Run, transfer: Transfer, manifest: &str, classes: &[String], size: &Size) -> String {
    let (objective, learning_rate, data, evaluated): (_, _, _, &[&str]) = match transfer {
        Transfer::Captions => ("cap", CAP.learning_rate(), String::new(), &[CAPTIONS]),
        Transfer::Answers => {
            let data = ", prefix: question, captions: { from: json, field: answer }".into();
            ("cap", CAP.learning_rate(), data, &[ANSWERS])
        }
        Transfer::TextTower => ("siglip", System::Siglip.learning_rate(), String::new(), &[OBJECTS, RETRIEVAL]),
        Transfer::Classifier => {
            let data = format!(", label: {{ field: class, classes: [{}] }}", classes.join(", "));
            ("{ type: classify, pooling: map }", CLASSIFIER_LEARNING_RATE, data, &[CLASSES])
        }
    };
    let name = format!("{}-{}", run.name(), transfer.name());
    let text_length = if transfer == Transfer::Answers { CAPTION_LENGTH + 4 } else { CAPTION_LENGTH };
    let (model, steps, seed) = (run.setting.model, size.transfer_steps, run.seed);
    let train = if transfer == Transfer::Classifier { "train-objects" } else { "train" };
    let job = Job { name, objective: objective.into(), model, learning_rate, steps, seed, train, text_length, data };
    format!(
        "{}init: {{ from: '{manifest}', parts: [encoder] }}\nfreeze: [encoder]\nevaluate:\n{}",
        job.spec(size),
        evaluations(&[evaluated])
    )
}

/// What differs between the jobs of a study.
struct Job {
    name: String,
    objective: String,
    model: Model,
    learning_rate: f64,
    steps: u64,
    seed: u64,
    /// The manifest in the corpus.
    train: &'static str,
    text_length: u32,
    /// More fields of the data.
    data: String,
}

impl Job {
    fn spec(&self, size: &Size) -> String {
        let Self { name, objective, model, learning_rate, steps, seed, train, text_length, data } = self;
        format!(
            "apiVersion: cappa.dev/v1
name: {name}
objective: {objective}
model: {}
data: {{ train: corpus/{train}.json, tokenizer: tokenizer.json, text_length: {text_length}, lanes: 32, seed: {seed}{data} }}
batch_size: {}
precision: {}
optimizer: {{ name: muon, learning_rate: {learning_rate}, beta2: 0.99 }}
schedule: cosine
duration: {{ steps: {steps} }}
workers: 1
checkpoint: {{ every: {steps}, keep: 1 }}
",
            model.spec(),
            size.batch_size,
            size.precision,
        )
    }
}

#[cfg(test)]
mod tests {
    use cappa_shared::spec::{JobSpec, SpecBase};

    use super::*;

    #[test]
    fn every_spec_of_a_study_is_valid_and_every_run_has_its_own_name() {
        let base = SpecBase::folder("/somewhere");
        for scale in [Scale::Cpu, Scale::Gpu] {
            let size = scale.size();
            let runs = runs(&size, size.steps, size.seeds);
            let names: std::collections::HashSet<_> = runs.iter().map(Run::name).collect();
            assert_eq!(names.len(), runs.len());
            for run in &runs {
                JobSpec::parse(&pretraining(run, &size), &base).unwrap();
                for kind in Transfer::ALL {
                    let classes = ["red star".to_owned(), "blue ring".to_owned()];
                    JobSpec::parse(&transfer(run, kind, "file:///j/MANIFEST.json", &classes, &size), &base).unwrap();
                }
            }
        }
    }

    #[test]
    fn all_systems_see_the_same_number_of_examples() {
        let size = Scale::Cpu.size();
        let full = |system| {
            runs(&size, size.steps, size.seeds)
                .iter()
                .filter(|run| run.setting == Setting { system, model: size.models[0], steps: size.steps })
                .count() as u64
        };
        assert!(SYSTEMS.into_iter().all(|system| full(system) == size.seeds));
    }
}
