//! Captions from a trained model: greedy decoding and candidate scoring.
//!
//! B batch, P patches, E width, N candidates, L text length, V vocabulary.

use tch::{Kind, Tensor};

use crate::captioner::Captioner;
use crate::{END_OF_TEXT, ModelError, PAD, loss};

/// Rows (images × candidates) that are scored in one pass: bounds the memory of their logits.
const ROWS_PER_PASS: i64 = 1024;

impl Captioner {
    /// The likeliest next token, again and again, at most `max_length` of them (and at most the
    /// model's text length): `[B, ≤ max_length]`, i64. From the first end of text on, only padding
    /// follows; stops early when every caption has ended.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn greedy(&self, images: &Tensor, max_length: i64) -> Result<Tensor, ModelError> {
        let encoded = tch::no_grad(|| self.encode(images))?;
        Ok(self.greedy_encoded(&encoded, max_length))
    }

    /// As [`Captioner::greedy`], for images that are encoded already, `[B, P, E]`.
    pub fn greedy_encoded(&self, encoded: &Tensor, max_length: i64) -> Tensor {
        let mut ended = Tensor::zeros([encoded.size()[0]], (Kind::Bool, self.device()));
        let mut columns = Vec::new();
        self.decode_steps(encoded, max_length, |_, choice| {
            columns.push(choice.masked_fill(&ended, PAD));
            ended = ended.logical_or(&choice.eq(END_OF_TEXT));
            ended.all().int64_value(&[]) == 0
        });
        Tensor::stack(&columns, 1)
    }

    /// Greedy steps that ignore the end of text: calls `next` with the logits `[B, V]` and the
    /// choice `[B]` of each, while it returns true.
    pub(crate) fn decode_steps(
        &self,
        encoded: &Tensor,
        max_length: i64,
        mut next: impl FnMut(&Tensor, &Tensor) -> bool,
    ) {
        let _no_grad = tch::no_grad_guard();
        let precision = self.precision();
        let memory = self.decoder.memory(encoded, precision);
        let mut cache = self.decoder.cache();
        let mut tokens = Tensor::full([encoded.size()[0]], PAD, (Kind::Int64, self.device()));
        for _ in 0..max_length.min(self.config().text_length) {
            let x = self.decoder.step(&tokens, &memory, &mut cache, precision);
            let logits = self.decoder.logits(&x, precision).squeeze_dim(1);
            tokens = logits.argmax(-1, false);
            if !next(&logits, &tokens) {
                break;
            }
        }
    }

    /// Log-likelihood of every candidate caption `[N, L]` for every image: `[B, N]`, f32. Summed
    /// over tokens, not divided by their number; higher is better.
    ///
    /// # Errors
    /// Images or candidates do not fit the model.
    pub fn score(&self, images: &Tensor, candidates: &Tensor) -> Result<Tensor, ModelError> {
        let encoded = tch::no_grad(|| self.encode(images))?;
        self.score_encoded(&encoded, candidates)
    }

    /// As [`Captioner::score`], for images that are encoded already, `[B, P, E]`. To score without
    /// seeing the image (a blind decoder), pass the encoding of a mean image.
    ///
    /// # Errors
    /// The candidates do not fit the model.
    pub fn score_encoded(&self, encoded: &Tensor, candidates: &Tensor) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let candidates = self.captions(candidates)?;
        let (count, length) = candidates.size2().map_err(ModelError::Torch)?;
        let images = encoded.size()[0];
        let per_pass = (ROWS_PER_PASS / images.max(1)).clamp(1, count.max(1));
        let chunks = candidates.split(per_pass, 0);
        let scores = chunks.iter().map(|some| {
            let rows = some.unsqueeze(0).expand([images, -1, length], false).reshape([-1, length]);
            let logits = self.logits(encoded, &rows)?;
            Ok(loss::log_likelihood(&logits, &rows).view([images, -1]))
        });
        Ok(Tensor::cat(&scores.collect::<Result<Vec<_>, ModelError>>()?, 1))
    }

    /// Log-likelihood of each image's own caption, `[B, L]` → `[B]`, f32: the negative of what
    /// the authors' evaluator calls perplexity.
    ///
    /// # Errors
    /// The captions do not fit the model.
    pub fn log_likelihood(&self, encoded: &Tensor, tokens: &Tensor) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let tokens = self.captions(tokens)?;
        Ok(loss::log_likelihood(&self.logits(encoded, &tokens)?, &tokens))
    }
}
