//! Checks of the network: activations, losses and gradients, decoding and scoring.

use tch::{Device, Kind, Tensor};

use super::compare::{Comparison, Tolerance};
use super::reference::{GoldenError, Reference, image_size};
use crate::captioner::{DecoderInput, shift_right};
use crate::layers::Mask;
use crate::tap::{NoTap, Recorder};
use crate::{Batch, Captioner, END_OF_TEXT, PAD};

const ACTIVATIONS: Tolerance = Tolerance { absolute: 2e-5, relative: 1e-5 };
const LOSS: Tolerance = Tolerance::absolute(1e-5);
const GRADIENTS: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };
/// Gradients that are 0 but for rounding.
const KEY_BIAS_GRADIENTS: Tolerance = Tolerance::absolute(1e-6);
const DECODING: Tolerance = Tolerance::absolute(5e-5);

/// Whether a parameter is an encoder key bias, which no function value depends on.
pub(super) fn is_encoder_key_bias(name: &str) -> bool {
    name.starts_with("encoder/") && name.ends_with("/key/bias")
}

fn captioner(reference: &Reference) -> Result<Captioner, GoldenError> {
    let config = reference.model("/model", image_size(reference.tensor("inputs/image")?)?)?;
    Ok(Captioner::from_named(&config, &reference.named_params(), reference.device())?)
}

fn tokens(reference: &Reference, name: &str) -> Result<Tensor, GoldenError> {
    Ok(reference.tensor(name)?.to_kind(Kind::Int64))
}

/// `cap_eval`: every intermediate activation of an evaluation pass.
pub(super) fn evaluation(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let captioner = captioner(reference)?;
    let batch = batch(reference, vec![false; rows(reference)?])?;
    let (mut encoder, mut decoder) = (Recorder::default(), Recorder::default());
    let encoded = captioner.encode_tapped(&batch.images, &mut encoder)?;
    let input = DecoderInput { tokens: shift_right(&batch.tokens), mask: Mask::Causal };
    let logits = captioner.decode(&encoded, &input, &mut decoder);
    comparison.check("outputs/encoded", &encoded, ACTIVATIONS)?;
    comparison.check("outputs/pre_logits", &Captioner::pre_logits(&encoded), ACTIVATIONS)?;
    comparison.check("outputs/logits", &logits, ACTIVATIONS)?;
    for (stack, Recorder(activations)) in [("encoder", encoder), ("decoder", decoder)] {
        for (name, activation) in activations {
            comparison.check_if_there(&format!("outputs/{stack}/{name}"), &activation, ACTIVATIONS);
        }
    }
    comparison.check("outputs/loss", &mean_loss(&captioner, &batch, 0.0)?, ACTIVATIONS)
}

/// `train`: loss and all gradients, autoregressive, parallel or mixed.
pub(super) fn training(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let captioner = captioner(reference)?;
    let parallel = match reference.find("inputs/do_masked_pred") {
        Some(chosen) => (0..rows(reference)?).map(|row| chosen.int64_value(&[row as i64]) != 0).collect(),
        None => vec![captioner.config().masked_pred_prob >= 1.0; rows(reference)?],
    };
    let batch = batch(reference, parallel)?;
    let input = captioner.decoder_input(&batch)?;
    comparison.check("outputs/decoder_input_tokens", &input.tokens, Tolerance::EXACT)?;
    let logits =
        tch::no_grad(|| Ok::<_, GoldenError>(captioner.decode(&captioner.encode(&batch.images)?, &input, &mut NoTap)))?;
    comparison.check("outputs/logits", &logits, ACTIVATIONS)?;
    for (smoothing, _) in reference.below("outputs/loss_label_smoothing_") {
        let value = smoothing.parse().map_err(|_| GoldenError::Description(smoothing.to_owned(), None))?;
        let loss = mean_loss(&captioner, &batch, value)?;
        comparison.check(&format!("outputs/loss_label_smoothing_{smoothing}"), &loss, LOSS)?;
    }
    let loss = captioner.loss(&batch)?;
    comparison.check("outputs/loss_per_example", &loss.per_example, LOSS)?;
    let mean = loss.sum / rows(reference)? as f64;
    comparison.check("outputs/loss", &mean, LOSS)?;
    mean.backward();
    gradients(&captioner, comparison)
}

fn gradients(captioner: &Captioner, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let mut squares = 0.0;
    for ((name, param), grad) in captioner.params().iter().zip(captioner.params().grads()) {
        // A parameter that the loss does not reach has gradient 0.
        let grad = grad.unwrap_or_else(|| param.detach().zeros_like());
        squares += grad.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
        let tolerance = if is_encoder_key_bias(name) { KEY_BIAS_GRADIENTS } else { GRADIENTS };
        comparison.check(&format!("grads/{name}"), &grad, tolerance)?;
    }
    comparison.check("outputs/l2_grads", &Tensor::from(f64::sqrt(squares)), Tolerance::relative(1e-5))
}

/// `greedy`: the tokens chosen, and the logits they were chosen from.
pub(super) fn greedy(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let captioner = captioner(reference)?;
    let images = reference.tensor("inputs/image")?;
    let length: i64 = reference.describe("/decode_len")?;
    let encoded = tch::no_grad(|| captioner.encode(images))?;
    let (mut logits, mut choices) = (Vec::new(), Vec::new());
    captioner.decode_steps(&encoded, length, |step, choice| {
        logits.push(step.shallow_clone());
        choices.push(choice.shallow_clone());
        true
    });
    let (logits, choices) = (Tensor::stack(&logits, 1), Tensor::stack(&choices, 1));
    comparison.check("outputs/tokens", &choices, Tolerance::EXACT)?;
    comparison.check("outputs/step_logits", &logits, DECODING)?;
    let best = logits.topk(2, -1, true, true).0;
    let margin = best.select(-1, 0) - best.select(-1, 1);
    comparison.check("outputs/margin", &margin, Tolerance::absolute(1e-4))?;
    let ends = choices.eq(END_OF_TEXT);
    let first = ends.to_kind(Kind::Int).argmax(1, false).where_self(&ends.any_dim(1, false), &Tensor::from(-1i64));
    comparison.check("outputs/first_eos", &first, Tolerance::EXACT)?;
    // What users get is the same up to the end of text, then padding.
    let ended = ends.cumsum(1, Kind::Int64) - ends.to_kind(Kind::Int64);
    let wanted = choices.masked_fill(&ended.gt(0), PAD);
    let captions = captioner.greedy(images, length)?;
    let wanted = wanted.narrow(1, 0, captions.size()[1]);
    comparison.tensors("captions", &captions, &wanted, Tolerance::EXACT);
    Ok(())
}

/// `scoring`: candidate log-likelihoods with and without a prompt, and perplexities.
pub(super) fn scoring(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let captioner = captioner(reference)?;
    let encoded = tch::no_grad(|| captioner.encode(reference.tensor("inputs/image")?).map_err(GoldenError::from))?;
    let candidates = tokens(reference, "inputs/label_tokens")?;
    let prompt = tokens(reference, "inputs/prompt_tokens")?.unsqueeze(0);
    let prompted = Tensor::cat(&[prompt.expand([candidates.size()[0], -1], false), candidates.shallow_clone()], 1);
    for (suffix, candidates) in [("", candidates), ("_with_prompt", prompted)] {
        let scores = captioner.score_encoded(&encoded, &candidates)?;
        comparison.check(&format!("outputs/scores{suffix}"), &scores, DECODING)?;
        comparison.check(&format!("outputs/pred{suffix}"), &scores.argmax(1, false), Tolerance::EXACT)?;
    }
    let captions = tokens(reference, "inputs/labels")?;
    let perplexity = -captioner.log_likelihood(&encoded, &captions)?;
    let counts = captions.ne(PAD).sum_dim_intlist([1i64].as_slice(), false, Kind::Float).clamp_min(1.0);
    comparison.check("outputs/perplexity_normalize_true", &(&perplexity / counts), DECODING)?;
    comparison.check("outputs/perplexity_normalize_false", &perplexity, DECODING)
}

fn rows(reference: &Reference) -> Result<usize, GoldenError> {
    let rows = reference.tensor("inputs/labels")?.size().first().copied().unwrap_or_default();
    Ok(usize::try_from(rows).unwrap_or_default())
}

fn batch(reference: &Reference, parallel: Vec<bool>) -> Result<Batch, GoldenError> {
    let tokens = tokens(reference, "inputs/labels")?;
    Ok(Batch {
        images: reference.tensor("inputs/image")?.shallow_clone(),
        causal_length: tokens.size()[1],
        tokens,
        weights: Tensor::ones([parallel.len() as i64], (Kind::Float, Device::Cpu)),
        prefix: None,
        mask_locations: reference.find("inputs/mask_locations").map(|places| places.to_kind(Kind::Bool)),
        parallel,
    })
}

fn mean_loss(captioner: &Captioner, batch: &Batch, label_smoothing: f64) -> Result<Tensor, GoldenError> {
    let loss = captioner.loss_smoothed(batch, label_smoothing)?;
    Ok(loss.sum.detach() / batch.parallel.len() as f64)
}
