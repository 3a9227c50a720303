//! Gradient checkpointing changes what is kept, not what comes out.

mod common;

use cappa_model::{Captioner, ModelConfig, Precision, Tape};
use common::{batch, config, difference};
use tch::{Device, Tensor};

/// The loss of a batch of 24, and the gradients of all parameters.
fn step(config: &ModelConfig, precision: Precision, recompute: bool) -> (f64, Vec<Tensor>) {
    let captioner = Captioner::new(config, 3, Device::Cpu).expect("a network").with_precision(precision);
    let mut tape = Tape::new(recompute);
    let loss = captioner.loss_taped(&batch(config, 24), 0.1, &mut tape).expect("a fitting batch");
    tape.backward(&loss.sum).expect("a graph");
    let grads = captioner.params().grads().into_iter();
    (loss.sum.double_value(&[]), grads.map(|grad| grad.expect("every parameter has one").copy()).collect())
}

#[test]
fn recomputed_gradients_are_those_of_one_graph_in_both_precisions() {
    let mixed = ModelConfig { decoder_width: 48, ..config() };
    for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Bf16, 1e-2)] {
        let ((loss, kept), (loss_again, recomputed)) = (step(&mixed, precision, false), step(&mixed, precision, true));
        assert!((loss - loss_again).abs() <= tolerance * loss, "{loss} and {loss_again}");
        for (kept, recomputed) in kept.iter().zip(&recomputed) {
            let largest = kept.abs().max().double_value(&[]);
            assert!(difference(kept, recomputed) <= tolerance * (1.0 + largest), "{precision:?}");
        }
    }
}

#[test]
fn without_gradients_there_is_nothing_to_recompute() {
    let captioner = Captioner::new(&config(), 3, Device::Cpu).expect("a network");
    let mut tape = Tape::new(true);
    let loss = tch::no_grad(|| captioner.loss_taped(&batch(&config(), 4), 0.0, &mut tape)).expect("a fitting batch");
    let kept = captioner.loss(&batch(&config(), 4)).expect("a fitting batch");
    assert!(difference(&loss.sum, &kept.sum) < 1e-5);
    assert!(tape.backward(&loss.sum).is_err(), "it has no graph");
}
