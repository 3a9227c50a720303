//! Two towers that learn which text belongs to which image.
//!
//! The pairs of a step are contrasted with each other wherever they lie: every rank embeds its own, all get the
//! embeddings of all, each computes the losses of its own rows and their gradients at *all* embeddings, and the
//! sum of those gradients over the ranks, at its own embeddings, is what a rank goes back from. The sum of what
//! the ranks bring is then exactly the gradient of one large batch, however it is divided.
//!
//! B pairs of a rank, N of all ranks, L text length, D width of the embeddings.

mod config;
mod loss;
mod tower;

use std::ops::Range;

use tch::{Device, Kind, Tensor};

pub use config::{ContrastiveConfig, Pooling, TowerConfig};
pub use loss::{Contrast, ContrastiveLoss, Embeddings};
pub(crate) use tower::Head;
use tower::{ImageTower, TextTower};

use crate::layers::Precision;
use crate::recompute::Tape;
use crate::tap::{NoTap, Tap};
use crate::{Batch, ModelError, ParamTable, spec};

/// A two-tower network and its parameters.
#[derive(Debug)]
pub struct TwoTower {
    config: ContrastiveConfig,
    params: ParamTable,
    image: ImageTower,
    text: TextTower,
    /// `[1]`: the logarithm of what similarities are multiplied by.
    temperature: Tensor,
    /// `[1]`: what is added to them.
    bias: Option<Tensor>,
    device: Device,
    precision: Precision,
}

impl TwoTower {
    /// A network with initial parameters, the same for the same seed everywhere.
    ///
    /// # Errors
    /// The configuration describes no network.
    pub fn new(config: &ContrastiveConfig, seed: u64, device: Device) -> Result<Self, ModelError> {
        config.validate()?;
        Self::with_params(config, ParamTable::init(&spec::two_tower(config), seed, device), device)
    }

    /// A network with the parameters `params/<name>` of a checkpoint.
    ///
    /// # Errors
    /// The configuration describes no network, or a parameter is missing or has another shape.
    pub fn from_named(
        config: &ContrastiveConfig,
        named: &[(String, Tensor)],
        device: Device,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let mut params = ParamTable::empty(&spec::two_tower(config), device);
        params.load_named(named)?;
        Self::with_params(config, params, device)
    }

    fn with_params(config: &ContrastiveConfig, params: ParamTable, device: Device) -> Result<Self, ModelError> {
        let missing = |name: &str| ModelError::MissingTensor { name: name.to_owned() };
        Ok(Self {
            image: ImageTower::new(config, &params, device)?,
            text: TextTower::new(config, &params)?,
            temperature: params.get("t").ok_or_else(|| missing("t"))?.shallow_clone(),
            bias: params.get("b").map(Tensor::shallow_clone),
            config: config.clone(),
            params,
            device,
            precision: Precision::Fp32,
        })
    }

    /// The same network computing in another precision (parameters, embeddings and losses stay f32).
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// What the network is.
    #[must_use]
    pub fn config(&self) -> &ContrastiveConfig {
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

    /// Images `[B, height, width, 3]` (u8, or f32 in [-1, 1]) → `[B, D]`, f32, of length 1.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn embed_images(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.embed_images_tapped(images, &mut NoTap)
    }

    pub(crate) fn embed_images_tapped<'a>(
        &'a self,
        images: &Tensor,
        tap: &mut impl Tap<'a>,
    ) -> Result<Tensor, ModelError> {
        let images = images.to_device_(self.device, images.kind(), true, false);
        self.image.embed(&images, self.precision, tap)
    }

    /// Images `[B, height, width, 3]` → their patches `[B, P, E]` and the pooled representation `[B, E]`, before the
    /// projection into the space of the texts; f32.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn encode_images(&self, images: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
        let images = images.to_device_(self.device, images.kind(), true, false);
        self.image.encode(&images, self.precision)
    }

    /// Texts `[B, L]` (i64) → `[B, D]`, f32, of length 1.
    ///
    /// # Errors
    /// The texts are not of the model's length.
    pub fn embed_texts(&self, tokens: &Tensor) -> Result<Tensor, ModelError> {
        self.embed_texts_tapped(tokens, &mut NoTap)
    }

    pub(crate) fn embed_texts_tapped<'a>(
        &'a self,
        tokens: &Tensor,
        tap: &mut impl Tap<'a>,
    ) -> Result<Tensor, ModelError> {
        match tokens.size()[..] {
            // The last position and the mean look at all of them.
            [_, length] if length == self.config.text_length => {}
            _ => {
                return Err(ModelError::shape("tokens", tokens, ["B".to_owned(), self.config.text_length.to_string()]));
            }
        }
        let tokens = tokens.to_device_(self.device, Kind::Int64, true, false);
        Ok(self.text.embed(&tokens, self.precision, tap))
    }

    /// Both sides of a batch, to be contrasted; rows of weight 0 too.
    ///
    /// # Errors
    /// A tensor of the batch does not fit the model.
    pub fn embed(&self, batch: &Batch) -> Result<Embeddings, ModelError> {
        self.embed_taped(batch, &mut Tape::off())
    }

    /// The same, its blocks recomputed in the backward pass of the tape, where that is on.
    ///
    /// # Errors
    /// A tensor of the batch does not fit the model.
    pub fn embed_taped<'a>(&'a self, batch: &Batch, tape: &mut Tape<'a>) -> Result<Embeddings, ModelError> {
        let image = self.embed_images_tapped(&batch.images, tape)?;
        Ok(Embeddings { image, text: self.embed_texts_tapped(&batch.tokens, tape)? })
    }

    /// The losses of some of the pairs among all: their sum, and its gradients.
    #[must_use]
    pub fn contrast(&self, loss: ContrastiveLoss, pairs: &Embeddings, own: Range<i64>) -> Contrast {
        Contrast::new(loss, pairs, own, &self.temperature, self.bias.as_ref())
    }

    /// The scalar whose `backward` takes gradients at embeddings on to the parameters: `gradients` is `[B, 2 · D]`,
    /// images' then texts', as [`Contrast::gradients`] has them, added up over the ranks.
    pub fn differentiated(&self, embedded: &Embeddings, gradients: &Tensor) -> Tensor {
        (embedded.joint() * gradients).sum(Kind::Float)
    }

    /// The scalar whose `backward` gives temperature and bias the gradients of a rank's own losses.
    pub fn scale_differentiated(&self, part: &Contrast) -> Tensor {
        let scale = (&self.temperature * &part.temperature).sum(Kind::Float);
        match (&self.bias, &part.bias) {
            (Some(bias), Some(gradient)) => scale + (bias * gradient).sum(Kind::Float),
            _ => scale,
        }
    }

    /// The similarity of every image to every text: embeddings `[B, D]` and `[N, D]` → `[B, N]`, as the losses
    /// see it (times the temperature; the bias changes no order).
    pub fn similarity(&self, images: &Tensor, texts: &Tensor) -> Tensor {
        images.matmul(&texts.tr()) * self.temperature.exp()
    }
}
