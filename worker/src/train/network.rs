//! The network of a job: a captioner or two towers, which encode images and say how well texts suit them, or a classifier, which
//! encodes images and knows no texts.
//!
//! B images, N texts, L text length.

use cappa_model::transfer::{Part, transfer};
use cappa_model::{Captioner, ClassLoss, Classifier, ContrastiveLoss, ModelError, ParamTable, TwoTower};
use cappa_shared::spec::{Init, JobSpec, Objective};
use tch::{Device, Kind, Tensor};

use super::config;

/// What a job trains.
#[derive(Debug)]
pub(crate) enum Network {
    /// Encoder and decoder.
    Captioner(Box<Captioner>),
    /// Image and text tower, and the loss that contrasts what they embed.
    TwoTower(Box<TwoTower>, ContrastiveLoss),
    /// Encoder and classes, and the loss that tells them apart.
    Classifier(Box<Classifier>, ClassLoss),
}

/// What an image is represented by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Features {
    /// Every patch: `[B, P, E]`.
    Tokens,
    /// The mean over patches, or what attention pooling makes of them: `[B, E]`.
    Pooled,
    /// The embedding that is compared with those of texts: `[B, D]`; two towers have it.
    Projected,
}

/// Labels to be compared for one image after the other, prepared once.
pub(crate) enum Candidates {
    /// The tokens of so many prompts for each label, label by label, `[N · prompts, L]`.
    Tokens(Tensor, i64),
    /// Their embeddings, `[N, D]`.
    Embedded(Tensor),
}

impl Network {
    /// The network of a spec, its parameters drawn from the job's seed, and no gradients to its frozen parts.
    pub(crate) fn new(spec: &JobSpec, device: Device) -> Result<Self, ModelError> {
        let towers = |loss| Ok::<_, ModelError>(Self::TwoTower(Box::new(config::two_tower(spec, device)?), loss));
        let mut network = match spec.objective {
            Objective::Cap { .. } | Objective::Cappa { .. } => {
                Self::Captioner(Box::new(config::captioner(spec, device)?))
            }
            Objective::Clip { .. } => towers(ContrastiveLoss::Softmax)?,
            Objective::Siglip { .. } => towers(ContrastiveLoss::Sigmoid)?,
            Objective::Classify { pooling, loss, .. } => {
                let classifier = config::classifier(spec, pooling, device)?;
                Self::Classifier(Box::new(classifier), config::class_loss(loss))
            }
        };
        let frozen = config::parts(&spec.freeze);
        network.params_mut().freeze(|name| Part::of(name).is_some_and(|part| frozen.contains(&part)));
        Ok(network)
    }

    /// Overwrites the parts that a spec starts from a checkpoint, whose tensors are given.
    pub(crate) fn start_from(
        &mut self,
        spec: &JobSpec,
        init: &Init,
        tensors: &[(String, Tensor)],
    ) -> Result<(), ModelError> {
        transfer(self.params_mut(), tensors, &config::parts(&init.parts), config::grid(spec))
    }

    /// Its parameters.
    pub(crate) fn params(&self) -> &ParamTable {
        match self {
            Self::Captioner(captioner) => captioner.params(),
            Self::TwoTower(towers, _) => towers.params(),
            Self::Classifier(classifier, _) => classifier.params(),
        }
    }

    /// Its parameters, to load or freeze them.
    pub(crate) fn params_mut(&mut self) -> &mut ParamTable {
        match self {
            Self::Captioner(captioner) => captioner.params_mut(),
            Self::TwoTower(towers, _) => towers.params_mut(),
            Self::Classifier(classifier, _) => classifier.params_mut(),
        }
    }

    /// The captioner, where the job trains one.
    pub(crate) fn captioner(&self) -> Option<&Captioner> {
        match self {
            Self::Captioner(captioner) => Some(captioner),
            Self::TwoTower(..) | Self::Classifier(..) => None,
        }
    }

    /// The classifier, where the job trains one.
    pub(crate) fn classifier(&self) -> Option<&Classifier> {
        match self {
            Self::Classifier(classifier, _) => Some(classifier),
            Self::Captioner(_) | Self::TwoTower(..) => None,
        }
    }

    /// Images `[B, height, width, 3]`, encoded once for all texts: patches `[B, P, E]` or embeddings `[B, D]`.
    pub(crate) fn encode(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        tch::no_grad(|| match self {
            Self::Captioner(captioner) => captioner.encode(images),
            Self::TwoTower(towers, _) => towers.embed_images(images),
            Self::Classifier(classifier, _) => classifier.encode(images),
        })
    }

    /// Images `[B, height, width, 3]` as another program uses them.
    pub(crate) fn features(&self, images: &Tensor, features: Features) -> Result<Tensor, ModelError> {
        tch::no_grad(|| match (self, features) {
            (Self::Captioner(captioner), Features::Tokens) => captioner.encode(images),
            (Self::Captioner(captioner), Features::Pooled) => Ok(Captioner::pre_logits(&captioner.encode(images)?)),
            (Self::Captioner(_), Features::Projected) => Err(ModelError::NoProjection),
            (Self::TwoTower(towers, _), Features::Tokens) => Ok(towers.encode_images(images)?.0),
            (Self::TwoTower(towers, _), Features::Pooled) => Ok(towers.encode_images(images)?.1),
            (Self::TwoTower(towers, _), Features::Projected) => towers.embed_images(images),
            (Self::Classifier(classifier, _), Features::Tokens) => classifier.encode(images),
            (Self::Classifier(classifier, _), Features::Pooled) => Ok(classifier.pooled(&classifier.encode(images)?)),
            (Self::Classifier(..), Features::Projected) => Err(ModelError::NoProjection),
        })
    }

    /// Labels that are to be compared for many images, each with so many prompts: tokens `[N · prompts, L]`. As CLIP's authors do,
    /// the embedding of a label is the mean of its prompts', of length 1 again.
    pub(crate) fn candidates(&self, tokens: Tensor, prompts: usize) -> Result<Candidates, ModelError> {
        let prompts = i64::try_from(prompts).expect("few prompts");
        match self {
            Self::Captioner(_) => Ok(Candidates::Tokens(tokens, prompts)),
            Self::TwoTower(towers, _) => tch::no_grad(|| {
                let texts = towers.embed_texts(&tokens)?;
                let means = texts.view([-1, prompts, texts.size()[1]]).mean_dim([1i64].as_slice(), false, Kind::Float);
                let lengths = means.norm_scalaropt_dim(2, [1i64].as_slice(), true);
                Ok(Candidates::Embedded(means / lengths.clamp_min(f64::from(f32::EPSILON))))
            }),
            Self::Classifier(..) => Err(ModelError::NoTexts),
        }
    }

    /// How well every candidate suits every encoded image, `[B, N]`: similarities, or log-likelihoods, means over a label's prompts.
    pub(crate) fn score(&self, encoded: &Tensor, candidates: &Candidates) -> Result<Tensor, ModelError> {
        match (self, candidates) {
            (Self::Captioner(captioner), Candidates::Tokens(tokens, prompts)) => {
                let scores = captioner.score_encoded(encoded, tokens)?;
                Ok(scores.view([encoded.size()[0], -1, *prompts]).mean_dim([2i64].as_slice(), false, Kind::Float))
            }
            (Self::TwoTower(towers, _), Candidates::Embedded(texts)) => {
                Ok(tch::no_grad(|| towers.similarity(encoded, texts)))
            }
            _ => unreachable!("candidates are of the network that prepared them"),
        }
    }

    /// How well each text `[B, L]` suits the encoded image of its row, `[B]`.
    pub(crate) fn agreement(&self, encoded: &Tensor, tokens: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Captioner(captioner) => captioner.log_likelihood(encoded, tokens),
            Self::TwoTower(towers, _) => tch::no_grad(|| {
                let product = encoded * towers.embed_texts(tokens)?;
                Ok(product.sum_dim_intlist([1i64].as_slice(), false, Kind::Float))
            }),
            Self::Classifier(..) => Err(ModelError::NoTexts),
        }
    }
}

#[cfg(test)]
mod tests {
    use cappa_shared::spec::SpecBase;

    use super::*;

    fn network(objective: &str) -> Network {
        let text = format!(
            "apiVersion: cappa.dev/v1\nname: n\nobjective: {objective}\nmodel: {{ preset: tiny, width: 64, layers: 1, mlp: 64 }}\n\
             data: {{ train: a.json, tokenizer: t.json }}\nduration: {{ steps: 1 }}\n"
        );
        let spec = JobSpec::parse(&text, &SpecBase::folder("/jobs")).unwrap();
        let network = Network::new(&spec, Device::Cpu).unwrap();
        // An untrained captioner finds everything as likely.
        for (place, param) in network.params().tensors().enumerate() {
            let wave = Tensor::arange(param.numel() as i64, (Kind::Float, Device::Cpu)) * 0.7 + place as f64;
            let _ = tch::no_grad(|| param.shallow_clone().g_add_(&(wave.sin().view_as(param) * 0.05)));
        }
        network
    }

    /// Texts of two tokens, the first of which is this.
    fn texts(first: &[i64]) -> Tensor {
        let rows = Tensor::zeros([first.len() as i64, 24], (Kind::Int64, Device::Cpu));
        rows.select(1, 0).copy_(&Tensor::from_slice(first));
        let _ = rows.select(1, 1).fill_(1);
        rows
    }

    #[test]
    fn a_label_is_what_its_prompts_say_on_average() {
        let images = (Tensor::arange(2 * 64 * 64 * 3, (Kind::Float, Device::Cpu)) * 0.37).sin().view([2, 64, 64, 3]);
        // Two labels with two prompts each, label by label.
        let (both, [one, other]) = (texts(&[10, 20, 11, 21]), [texts(&[10, 11]), texts(&[20, 21])]);
        for objective in ["cap", "clip"] {
            let network = network(objective);
            let encoded = network.encode(&images).unwrap();
            let scores = |texts: &Tensor, prompts| {
                let candidates = network.candidates(texts.shallow_clone(), prompts).unwrap();
                network.score(&encoded, &candidates).unwrap()
            };
            let mean = (scores(&one, 1) + scores(&other, 1)) / 2.0;
            let (found, apart) = (scores(&both, 2), scores(&one, 1) - scores(&other, 1));
            assert!(apart.abs().min().double_value(&[]) > 1e-4, "{objective}: the prompts say the same");
            // Of two towers the label's embedding has length 1 again: each column is longer by one factor.
            let ratio = &found / &mean;
            let spread = (ratio.select(0, 0) - ratio.select(0, 1)).abs().max().double_value(&[]);
            assert!(spread < 1e-3, "{objective}: {ratio:?} {spread}");
            let factor = ratio.min().double_value(&[]);
            assert!(
                if objective == "cap" { (factor - 1.0).abs() < 1e-5 } else { factor > 1.0 },
                "{objective}: {factor}"
            );
        }
    }
}
