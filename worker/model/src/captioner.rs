//! The captioner: encoder, decoder, and the loss that trains them.
//!
//! B batch, P patches, L text length, E width, V vocabulary.

use tch::{Device, Kind, Tensor};

use crate::decoder::{Decoder, Memory};
use crate::encoder::Encoder;
use crate::layers::{Mask, Precision, Scope};
use crate::loss::{Targets, predicted};
use crate::recompute::Tape;
use crate::tap::{NoTap, Tap};
use crate::{ModelConfig, ModelError, ParamTable, spec};

/// Image-text pairs to learn from. Tensors may lie on the host: `loss` moves them to the model's
/// device, and with `tokens` on the host it never waits for the device.
#[derive(Debug)]
pub struct Batch {
    /// `[B, height, width, 3]`: u8, or f32 in [-1, 1].
    pub images: Tensor,
    /// Captions `[B, L]`, i64, ending with [`crate::END_OF_TEXT`], filled up with [`crate::PAD`]; for a classifier classes,
    /// `[B, 1]`.
    pub tokens: Tensor,
    /// How many tokens at the beginning of a caption are given rather than predicted, `[B]`, i64: they are seen, also by examples
    /// that are predicted in parallel, and not in the loss. `None`: none of any.
    pub prefix: Option<Tensor>,
    /// Length, at most L, that holds the captions of all autoregressive examples: behind it nothing is computed for them. The
    /// loss is the same as with L, since none of their positions sees a later one and padding is not in the loss.
    pub causal_length: i64,
    /// Which examples are predicted in parallel (the others autoregressively); B of them.
    pub parallel: Vec<bool>,
    /// With a masking ratio below 1: which tokens of parallel examples are hidden, `[B, L]`,
    /// bool. The others show the true token of their own position. `None` hides all.
    pub mask_locations: Option<Tensor>,
    /// What each example weighs, `[B]`, f32: 0 for slots without a sample.
    pub weights: Tensor,
}

impl Batch {
    /// Some consecutive examples, sharing memory.
    #[must_use]
    pub fn narrow(&self, first: i64, rows: i64) -> Self {
        let range = usize::try_from(first).unwrap_or_default()..usize::try_from(first + rows).unwrap_or_default();
        Self {
            images: self.images.narrow(0, first, rows),
            tokens: self.tokens.narrow(0, first, rows),
            prefix: self.prefix.as_ref().map(|prefix| prefix.narrow(0, first, rows)),
            causal_length: self.causal_length,
            parallel: self.parallel[range].to_vec(),
            mask_locations: self.mask_locations.as_ref().map(|places| places.narrow(0, first, rows)),
            weights: self.weights.narrow(0, first, rows),
        }
    }
}

/// The loss of a batch.
#[derive(Debug)]
pub struct LossOutput {
    /// Scalar: the sum over examples of weight × mean token loss. Ranks add theirs and divide by
    /// the weight of all. Call `backward` on it.
    pub sum: Tensor,
    /// Mean token loss of each example, unweighted, `[B]`, without gradient.
    pub per_example: Tensor,
    /// Tokens in the loss (neither padding nor weighted).
    pub tokens: i64,
}

/// A network that captions images, and its parameters.
#[derive(Debug)]
pub struct Captioner {
    config: ModelConfig,
    params: ParamTable,
    encoder: Encoder,
    pub(crate) decoder: Decoder,
    device: Device,
    precision: Precision,
}

impl Captioner {
    /// A captioner with initial parameters, the same for the same seed everywhere.
    ///
    /// # Errors
    /// The configuration describes no network.
    pub fn new(config: &ModelConfig, seed: u64, device: Device) -> Result<Self, ModelError> {
        config.validate()?;
        Self::with_params(config, ParamTable::init(&spec::captioner(config), seed, device), device)
    }

    /// A captioner with the parameters `params/<name>` of a checkpoint.
    ///
    /// # Errors
    /// The configuration describes no network, or a parameter is missing or has another shape.
    pub fn from_named(config: &ModelConfig, named: &[(String, Tensor)], device: Device) -> Result<Self, ModelError> {
        config.validate()?;
        let mut params = ParamTable::empty(&spec::captioner(config), device);
        params.load_named(named)?;
        Self::with_params(config, params, device)
    }

    fn with_params(config: &ModelConfig, params: ParamTable, device: Device) -> Result<Self, ModelError> {
        Ok(Self {
            encoder: Encoder::new(&config.vision(), &Scope::new(&params).at("encoder"), device)?,
            decoder: Decoder::new(config, &params, device)?,
            config: config.clone(),
            params,
            device,
            precision: Precision::Fp32,
        })
    }

    /// The same captioner computing in another precision (its parameters stay f32).
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// What the network is.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
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

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// In what it computes.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Images `[B, height, width, 3]` (u8, or f32 in [-1, 1]) → `[B, P, E]`, f32.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.encode_tapped(images, &mut NoTap)
    }

    pub(crate) fn encode_tapped<'a>(&'a self, images: &Tensor, tap: &mut impl Tap<'a>) -> Result<Tensor, ModelError> {
        let images = images.to_device_(self.device, images.kind(), true, false);
        self.encoder.forward(&images, self.precision, tap)
    }

    /// The image representation: the mean over patches of an encoding, `[B, P, E]` → `[B, E]`.
    pub fn pre_logits(encoded: &Tensor) -> Tensor {
        encoded.mean_dim([1i64].as_slice(), false, Kind::Float)
    }

    /// Autoregressive logits of captions `[R, L]` (i64) for encoded images `[B, P, E]`:
    /// `[R, L, V]`. R is a multiple of B; consecutive rows share an image.
    ///
    /// # Errors
    /// The captions are no matrix of at most the model's text length.
    pub fn logits(&self, encoded: &Tensor, tokens: &Tensor) -> Result<Tensor, ModelError> {
        let tokens = self.captions(tokens)?;
        let input = DecoderInput { tokens: shift_right(&tokens), mask: Mask::Causal };
        Ok(self.decode(encoded, &input, &mut NoTap))
    }

    pub(crate) fn decode<'a>(&self, encoded: &Tensor, input: &DecoderInput, tap: &mut impl Tap<'a>) -> Tensor {
        let memory = self.decoder.memory(encoded, self.precision);
        let x = self.decoder.forward(&input.tokens, &memory, &input.mask, self.precision, tap);
        self.decoder.logits(&x, self.precision)
    }

    /// The training loss; `backward` on its sum fills the parameters' gradients.
    ///
    /// # Errors
    /// A tensor of the batch does not fit the model, or parallel prediction is asked of a model
    /// without a mask token.
    pub fn loss(&self, batch: &Batch) -> Result<LossOutput, ModelError> {
        self.loss_smoothed(batch, 0.0)
    }

    /// The loss with label smoothing: each label has probability 1 - s, every other class
    /// s / (V - 1).
    ///
    /// # Errors
    /// As [`Captioner::loss`].
    pub fn loss_smoothed(&self, batch: &Batch, label_smoothing: f64) -> Result<LossOutput, ModelError> {
        self.loss_taped(batch, label_smoothing, &mut Tape::off())
    }

    /// The loss whose blocks are recomputed in the backward pass of the tape, where that is on.
    ///
    /// # Errors
    /// As [`Captioner::loss`].
    pub fn loss_taped<'a>(
        &'a self,
        batch: &Batch,
        label_smoothing: f64,
        tape: &mut Tape<'a>,
    ) -> Result<LossOutput, ModelError> {
        let targets = Targets::new(&batch.tokens, batch.prefix.as_ref()).to_device(self.device);
        let input = self.decoder_input(batch)?;
        let encoded = self.encode_tapped(&batch.images, tape)?;
        let x = if tape.is_on() {
            let encoded = tape.cut(encoded);
            // Both modes at once, at the full length: a block's parameters get their gradients in one piece.
            self.decoder.forward_taped(&input.tokens, &encoded, input.mask, self.precision, tape)
        } else {
            self.decode_batch(batch, &input, &encoded)
        };
        let logits = self.decoder.logits(&targets.rows(&x), self.precision);
        let per_example = targets.loss_per_example(&logits, batch.tokens.size()[0], label_smoothing);
        let weights = batch.weights.to_device_(self.device, Kind::Float, true, false);
        Ok(LossOutput { sum: per_example.dot(&weights), per_example: per_example.detach(), tokens: targets.count() })
    }

    /// What training sees of a batch behind the decoder's blocks, `[B, L, E]`.
    fn decode_batch(&self, batch: &Batch, input: &DecoderInput, encoded: &Tensor) -> Tensor {
        let memory = self.decoder.memory(encoded, self.precision);
        match input.mask {
            Mask::Additive(_) if batch.causal_length < input.tokens.size()[1] => {
                self.decode_apart(batch, input, &memory)
            }
            _ => self.decoder.forward(&input.tokens, &memory, &input.mask, self.precision, &mut NoTap),
        }
    }

    /// Each mode by itself: parallel examples at the full length L, because there every position sees all others, mask tokens in the
    /// place of padding included; autoregressive ones cut to their own length. `[B, L, E]`, zeros where it was cut.
    fn decode_apart(&self, batch: &Batch, input: &DecoderInput, memory: &Memory) -> Tensor {
        let length = input.tokens.size()[1];
        let places = |mode: bool| {
            let of_mode = (0i64..).zip(&batch.parallel).filter(|(_, parallel)| **parallel == mode);
            let places: Vec<i64> = of_mode.map(|(place, _)| place).collect();
            Tensor::from_slice(&places).to_device_(self.device, Kind::Int64, true, false)
        };
        let (parallel, causal) = (places(true), places(false));
        let decode = |rows: &Tensor, length: i64, mask: Mask| {
            let tokens = input.tokens.index_select(0, rows).narrow(1, 0, length);
            self.decoder.forward(&tokens, &memory.of(rows), &mask, self.precision, &mut NoTap)
        };
        let cut = decode(&causal, batch.causal_length, Mask::Causal);
        let cut = cut.constant_pad_nd([0, 0, 0, length - batch.causal_length]);
        let x = Tensor::cat(&[decode(&parallel, length, Mask::Full), cut], 0);
        x.index_select(0, &Tensor::cat(&[parallel, causal], 0).argsort(0, false))
    }

    /// What the decoder sees of a batch in training.
    pub(crate) fn decoder_input(&self, batch: &Batch) -> Result<DecoderInput, ModelError> {
        let tokens = self.captions(&batch.tokens)?;
        let rows = tokens.size()[0];
        if batch.weights.size() != [rows] {
            return Err(ModelError::shape("weights", &batch.weights, [rows]));
        }
        if !(1..=tokens.size()[1]).contains(&batch.causal_length) {
            return Err(ModelError::shape("tokens", &tokens, [batch.causal_length]));
        }
        if i64::try_from(batch.parallel.len()) != Ok(rows) || batch.images.size().first() != Some(&rows) {
            return Err(ModelError::shape("tokens", &tokens, [batch.parallel.len()]));
        }
        if !batch.parallel.contains(&true) {
            return Ok(DecoderInput { tokens: shift_right(&tokens), mask: Mask::Causal });
        }
        let mask_token = self.config.mask_token().ok_or(ModelError::NoMaskToken)?;
        let hidden = match self.hidden_places(batch) {
            None => tokens.full_like(mask_token),
            Some(places) if places.size() == tokens.size() => {
                let places = places.to_device_(self.device, Kind::Bool, true, false);
                tokens.masked_fill(&places, mask_token)
            }
            Some(places) => return Err(ModelError::shape("mask_locations", &places, tokens.size())),
        };
        if batch.parallel.iter().all(|&parallel| parallel) {
            return Ok(DecoderInput { tokens: hidden, mask: Mask::Full });
        }
        let parallel = Tensor::from_slice(&batch.parallel).to_device_(self.device, Kind::Bool, true, false);
        let mask = Mask::Additive(self.mixed_mask(&parallel, tokens.size()[1]));
        Ok(DecoderInput { tokens: hidden.where_self(&parallel.unsqueeze(1), &shift_right(&tokens)), mask })
    }

    /// Which tokens of parallel examples are hidden, `[B, L]`, where it is not all of them.
    fn hidden_places(&self, batch: &Batch) -> Option<Tensor> {
        let places = batch.mask_locations.as_ref().map(Tensor::shallow_clone);
        let Some(prefix) = &batch.prefix else { return places };
        let predicted = predicted(prefix, batch.tokens.size()[1]);
        Some(places.map_or_else(
            || predicted.shallow_clone(),
            |places| places.to_device(predicted.device()).logical_and(&predicted),
        ))
    }

    /// All tokens for parallel examples `[B]`, the earlier ones for others: `[B, 1, L, L]`.
    fn mixed_mask(&self, parallel: &Tensor, length: i64) -> Tensor {
        let later = Tensor::ones([length, length], (Kind::Bool, self.device)).triu(1);
        let unseen = later.logical_and(&parallel.logical_not().view([-1, 1, 1, 1]));
        Tensor::zeros(unseen.size(), (Kind::Float, self.device)).masked_fill(&unseen, f64::NEG_INFINITY)
    }

    /// Captions on the model's device, checked.
    pub(crate) fn captions(&self, tokens: &Tensor) -> Result<Tensor, ModelError> {
        match tokens.size()[..] {
            [_, length] if (1..=self.config.text_length).contains(&length) => {
                Ok(tokens.to_device_(self.device, Kind::Int64, true, false))
            }
            _ => Err(ModelError::shape("tokens", tokens, ["B".to_owned(), format!("1..={}", self.config.text_length)])),
        }
    }
}

/// The tokens that are embedded, `[R, L]`, and what each sees.
#[derive(Debug)]
pub(crate) struct DecoderInput {
    pub(crate) tokens: Tensor,
    pub(crate) mask: Mask,
}

/// Every token one place later, with [`crate::PAD`] in front: `[R, L]` → `[R, L]`.
pub(crate) fn shift_right(tokens: &Tensor) -> Tensor {
    tokens.narrow(1, 0, tokens.size()[1] - 1).constant_pad_nd([1, 0])
}
