//! The captioning loss and per-token log-likelihoods.
//!
//! B batch, L text length, V vocabulary, N tokens that are not padding.

use tch::{Kind, Reduction, Tensor};

/// Fills captions up to the text length; never predicted.
pub const PAD: i64 = 0;
/// Ends a caption; predicted like any other token.
pub const END_OF_TEXT: i64 = 1;

/// The rows of logits are a multiple of this, so that their product suits every device.
const ROWS: i64 = 16;

/// Where a batch's loss looks: the tokens that are not padding, and what each counts. N is rounded
/// up by rows that count nothing.
#[derive(Debug)]
pub(crate) struct Targets {
    /// Positions in the flattened `B · L`, `[N]`.
    positions: Tensor,
    /// The tokens there, `[N]`.
    tokens: Tensor,
    /// The example of each, `[N]`.
    examples: Tensor,
    /// 1 / (tokens of its example), `[N]`, f32: the loss is a mean per example first.
    share: Tensor,
    /// N before it was rounded up.
    count: i64,
}

impl Targets {
    /// The targets of captions `[B, L]` (i64), behind their prefixes `[B]`. On the host this waits for nothing; on another
    /// device the number of tokens is waited for.
    pub(crate) fn new(captions: &Tensor, prefix: Option<&Tensor>) -> Self {
        let mut present = captions.ne(PAD);
        if let Some(prefix) = prefix {
            present = present.logical_and(&predicted(&prefix.to_device(captions.device()), captions.size()[1]));
        }
        let counts = present.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        let positions = present.flatten(0, 1).nonzero().squeeze_dim(1);
        let count = positions.size()[0];
        let examples = positions.floor_divide_scalar(captions.size()[1]);
        let share = counts.reciprocal().index_select(0, &examples);
        // Rows beyond N look at the first token and have share 0.
        let missing = (ROWS - count % ROWS) % ROWS;
        let round_up = |tensor: &Tensor| tensor.constant_pad_nd([0, missing]);
        let positions = round_up(&positions);
        Self {
            tokens: captions.flatten(0, 1).index_select(0, &positions),
            examples: round_up(&examples),
            share: round_up(&share),
            positions,
            count,
        }
    }

    pub(crate) fn to_device(&self, device: tch::Device) -> Self {
        let to = |tensor: &Tensor| tensor.to_device_(device, tensor.kind(), true, false);
        Self {
            positions: to(&self.positions),
            tokens: to(&self.tokens),
            examples: to(&self.examples),
            share: to(&self.share),
            count: self.count,
        }
    }

    /// How many tokens are not padding.
    pub(crate) fn count(&self) -> i64 {
        self.count
    }

    /// The rows of `x [B, L, E]` that predict a target: `[1, N, E]`.
    pub(crate) fn rows(&self, x: &Tensor) -> Tensor {
        x.flatten(0, 1).index_select(0, &self.positions).unsqueeze(0)
    }

    /// The mean loss of every example, `[B]`, from the logits `[1, N, V]` of [`Targets::rows`].
    /// Examples without any token have loss 0.
    pub(crate) fn loss_per_example(&self, logits: &Tensor, batch: i64, label_smoothing: f64) -> Tensor {
        let losses = token_losses(&logits.squeeze_dim(0), &self.tokens, label_smoothing) * &self.share;
        Tensor::zeros([batch], (Kind::Float, logits.device())).index_add(0, &self.examples, &losses)
    }
}

/// Which places of captions lie behind their prefixes: `[B]` → `[B, L]`, bool.
pub(crate) fn predicted(prefix: &Tensor, length: i64) -> Tensor {
    Tensor::arange(length, (Kind::Int64, prefix.device())).unsqueeze(0).ge_tensor(&prefix.unsqueeze(1))
}

/// Cross-entropy of each token: logits `[N, V]` (f32), tokens `[N]` → `[N]`. With label smoothing
/// s the label has probability 1 - s and every other class s / (V - 1).
pub(crate) fn token_losses(logits: &Tensor, tokens: &Tensor, smoothing: f64) -> Tensor {
    // libtorch spreads its smoothing over all V classes, the label's included.
    let classes = logits.size()[1] as f64;
    let smoothing = if smoothing > 0.0 { smoothing * classes / (classes - 1.0) } else { 0.0 };
    logits.cross_entropy_loss::<Tensor>(tokens, None, Reduction::None, -100, smoothing)
}

/// Log-likelihood of each row of tokens, `[R, L]` → `[R]`: the sum over its tokens that are not
/// padding, without normalisation by their number.
pub(crate) fn log_likelihood(logits: &Tensor, tokens: &Tensor) -> Tensor {
    let (rows, length) = tokens.size2().expect("captions have two dimensions");
    let losses = token_losses(&logits.flatten(0, 1), &tokens.flatten(0, 1), 0.0).view([rows, length]);
    -(losses * tokens.gt(PAD)).sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
}
