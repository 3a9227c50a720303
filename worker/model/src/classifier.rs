//! The encoder with a head that tells classes apart, as the paper transfers encoders: fine-tuned whole, or the head alone on
//! frozen features (a linear probe with mean pooling, a MAP-head transfer with attention pooling).
//!
//! B batch, P patches, E width, C classes.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::{PositionEmbedding, VisionConfig, check, check_sizes};
use crate::contrastive::Head;
use crate::encoder::Encoder;
use crate::layers::{Precision, Scope};
use crate::loss::token_losses;
use crate::recompute::Tape;
use crate::tap::{NoTap, Tap};
use crate::{Batch, ModelError, ParamTable, Pooling, TowerConfig, spec};

/// The shape of a classifier; sizes are in elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassifierConfig {
    /// Height and width of the images, in pixels.
    pub image_size: [i64; 2],
    /// Height and width of a patch, in pixels.
    pub patch: [i64; 2],
    /// Positions of the encoder.
    pub position: PositionEmbedding,
    /// The encoder and its pooling.
    pub image: TowerConfig,
    /// C.
    pub classes: i64,
}

impl ClassifierConfig {
    /// The encoder before pooling.
    pub(crate) const fn vision(&self) -> VisionConfig {
        let &Self { image_size, patch, position, .. } = self;
        let TowerConfig { width, layers, heads, mlp, .. } = self.image;
        VisionConfig { image_size, patch, width, layers, heads, mlp, position }
    }

    fn validate(&self) -> Result<(), ModelError> {
        self.vision().validate()?;
        check_sizes(&[("classes", self.classes)])?;
        let has_last = self.image.pooling != Pooling::Last;
        check("pooling", "last", has_last, "patches have no last one; use map or gap")
    }
}

/// How a class is told from the others (big_vision `utils.py`, `softmax_xent` and `sigmoid_xent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassLoss {
    /// Cross-entropy of one class among all.
    Softmax,
    /// A logistic regression for each class, summed over them.
    Sigmoid,
}

/// A network that classifies images, and its parameters. They are named as the image tower's of two towers, so that each starts
/// from the other's checkpoints.
#[derive(Debug)]
pub struct Classifier {
    config: ClassifierConfig,
    params: ParamTable,
    encoder: Encoder,
    head: Head,
    device: Device,
    precision: Precision,
}

impl Classifier {
    /// A classifier with initial parameters, the same for the same seed everywhere; its last layer is 0, as the authors', so
    /// that it favours no class to begin with.
    ///
    /// # Errors
    /// The configuration describes no network.
    pub fn new(config: &ClassifierConfig, seed: u64, device: Device) -> Result<Self, ModelError> {
        config.validate()?;
        let params = ParamTable::init(&spec::classifier(config), seed, device);
        let scope = Scope::new(&params).at("img");
        Ok(Self {
            encoder: Encoder::new(&config.vision(), &scope, device)?,
            head: Head::new(&config.image, &scope)?,
            config: config.clone(),
            params,
            device,
            precision: Precision::Fp32,
        })
    }

    /// The same network computing in another precision (parameters, logits and losses stay f32).
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// What the network is.
    #[must_use]
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// Its parameters.
    #[must_use]
    pub fn params(&self) -> &ParamTable {
        &self.params
    }

    /// Its parameters, to load or freeze them.
    pub fn params_mut(&mut self) -> &mut ParamTable {
        &mut self.params
    }

    /// Images `[B, height, width, 3]` (u8, or f32 in [-1, 1]) → `[B, P, E]`, f32.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.encode_tapped(images, &mut NoTap)
    }

    fn encode_tapped<'a>(&'a self, images: &Tensor, tap: &mut impl Tap<'a>) -> Result<Tensor, ModelError> {
        let images = images.to_device_(self.device, images.kind(), true, false);
        self.encoder.forward(&images, self.precision, tap)
    }

    /// What encoded images `[B, P, E]` are pooled to: `[B, E]`.
    pub fn pooled(&self, encoded: &Tensor) -> Tensor {
        self.head.pool(encoded, self.precision).squeeze_dim(1)
    }

    /// Images → logits of the classes, `[B, C]`, f32.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.head_logits(&self.encode(images)?))
    }

    fn head_logits(&self, encoded: &Tensor) -> Tensor {
        self.head.project(&self.head.pool(encoded, self.precision), self.precision)
    }

    /// The sum over examples of weight × loss, a scalar; the batch's tokens are the classes, `[B, 1]`. With label smoothing s
    /// the class has probability 1 - s and every other one s / (C - 1).
    ///
    /// # Errors
    /// A tensor of the batch does not fit the model.
    pub fn loss(&self, batch: &Batch, loss: ClassLoss, label_smoothing: f64) -> Result<Tensor, ModelError> {
        self.loss_taped(batch, loss, label_smoothing, &mut Tape::off())
    }

    /// The same, its blocks recomputed in the backward pass of the tape, where that is on.
    ///
    /// # Errors
    /// A tensor of the batch does not fit the model.
    pub fn loss_taped<'a>(
        &'a self,
        batch: &Batch,
        loss: ClassLoss,
        label_smoothing: f64,
        tape: &mut Tape<'a>,
    ) -> Result<Tensor, ModelError> {
        if batch.tokens.size()[1..] != [1] {
            return Err(ModelError::shape("tokens", &batch.tokens, ["B", "1"]));
        }
        let classes = batch.tokens.to_device_(self.device, Kind::Int64, true, false).squeeze_dim(1);
        let weights = batch.weights.to_device_(self.device, Kind::Float, true, false);
        let logits = self.head_logits(&self.encode_tapped(&batch.images, tape)?);
        let losses = match loss {
            ClassLoss::Softmax => token_losses(&logits, &classes, label_smoothing),
            ClassLoss::Sigmoid => sigmoid_losses(&logits, &classes, label_smoothing),
        };
        Ok(losses.dot(&weights))
    }
}

/// Logits `[B, C]`, classes `[B]` → `[B]`.
fn sigmoid_losses(logits: &Tensor, classes: &Tensor, smoothing: f64) -> Tensor {
    let share = smoothing / (logits.size()[1] as f64 - 1.0).max(1.0);
    let targets = logits.full_like(share).detach().scatter_value(1, &classes.unsqueeze(1), 1.0 - smoothing);
    let others: Tensor = targets.ones_like() - &targets;
    let likelihood: Tensor = targets * logits.log_sigmoid() + others * logits.neg().log_sigmoid();
    likelihood.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).neg()
}
