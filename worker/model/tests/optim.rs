//! What the worker may rely on of the optimizers.

mod common;

use cappa_model::optim::{
    AdafactorConfig, AdamWConfig, LionConfig, MuonConfig, Optimizer, OptimizerConfig, RuleConfig,
};
use cappa_model::schedule::{Decay, Schedule};
use cappa_model::{Batch, Captioner};
use common::{batch, config};
use tch::{Device, Tensor};

fn rules() -> [RuleConfig; 4] {
    [
        RuleConfig::Adafactor(AdafactorConfig::default()),
        RuleConfig::AdamW(AdamWConfig::default()),
        RuleConfig::Lion(LionConfig::default()),
        RuleConfig::Muon(MuonConfig::default()),
    ]
}

fn optimizer(rule: RuleConfig, captioner: &Captioner) -> Optimizer {
    let schedule = Schedule { total_steps: 100, warmup_steps: 2, cooldown_steps: 0, decay: Decay::Cosine };
    // Every element moves by all of it under Lion.
    let learning_rate = if matches!(rule, RuleConfig::Lion(_)) { 1e-3 } else { 3e-3 };
    let config = OptimizerConfig { rule, learning_rate, weight_decay: 1e-4, clip_norm: Some(1.0), schedule };
    Optimizer::new(config, captioner.params())
}

/// Trains from one update count to another; the loss before the last update.
fn train(captioner: &Captioner, optimizer: &mut Optimizer, data: &Batch, counts: std::ops::Range<u64>) -> f64 {
    let mut last = f64::NAN;
    for count in counts {
        let loss = captioner.loss(data).expect("a fitting batch").sum;
        loss.backward();
        let scale = 1.0 / data.parallel.len() as f64;
        optimizer.step(captioner.params(), &captioner.params().grads(), count, scale).expect("an update");
        captioner.params().clear_grads().expect("leaf tensors");
        last = loss.double_value(&[]) * scale;
    }
    last
}

fn captioner() -> Captioner {
    Captioner::new(&config(), 1, Device::Cpu).expect("a valid network")
}

#[test]
fn every_rule_learns_a_batch_by_heart() {
    let data = batch(&config(), 8);
    for rule in rules() {
        let captioner = captioner();
        let mut optimizer = optimizer(rule.clone(), &captioner);
        let loss = train(&captioner, &mut optimizer, &data, 0..40);
        assert!(loss < 3.5, "{rule:?}: {loss} is not far below ln 512 = 6.24");
    }
}

#[test]
fn training_resumed_from_saved_state_is_the_same_training() {
    let data = batch(&config(), 4);
    for rule in rules() {
        let (first, second) = (captioner(), captioner());
        let mut through = optimizer(rule.clone(), &first);
        train(&first, &mut through, &data, 0..3);
        let copies = |named: Vec<(String, Tensor)>| -> Vec<_> {
            named.into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
        };
        let (params, state) = (copies(first.params().to_named()), copies(through.state()));
        train(&first, &mut through, &data, 3..6);

        let second = Captioner::from_named(second.config(), &params, Device::Cpu).expect("the saved parameters");
        let mut resumed = optimizer(rule.clone(), &second);
        resumed.load_state(&state).expect("the saved state");
        train(&second, &mut resumed, &data, 3..6);
        for ((name, a), (_, b)) in first.params().iter().zip(second.params().iter()) {
            assert_eq!(a, b, "{rule:?} {name}");
        }
        assert!(resumed.load_state(&state[1..]).is_err());
    }
}

#[test]
fn frozen_parameters_do_not_move() {
    let data = batch(&config(), 4);
    for rule in rules() {
        let mut captioner = captioner();
        captioner.params_mut().freeze(|name| name.starts_with("encoder/"));
        let before: Vec<Tensor> = captioner.params().tensors().map(|param| param.detach().copy()).collect();
        let mut optimizer = optimizer(rule, &captioner);
        train(&captioner, &mut optimizer, &data, 0..4);
        for ((name, param), before) in captioner.params().iter().zip(&before) {
            assert_eq!(param == before, name.starts_with("encoder/"), "{name}");
        }
        assert!(optimizer.state().iter().all(|(name, _)| !name.contains("/encoder/")));
    }
}

#[test]
fn a_gradient_norm_is_reported_before_clipping_and_after_scaling() {
    let captioner = captioner();
    let data = batch(&config(), 4);
    captioner.loss(&data).expect("a fitting batch").sum.backward();
    let squares: f64 =
        captioner.params().grads().iter().flatten().map(|grad| grad.norm().double_value(&[]).powi(2)).sum();
    let mut optimizer = optimizer(rules()[1].clone(), &captioner);
    let stats = optimizer.step(captioner.params(), &captioner.params().grads(), 0, 0.25).expect("an update");
    assert!((stats.grad_norm.double_value(&[]) - squares.sqrt() / 4.0).abs() < 1e-4 * squares.sqrt());
    assert_eq!(stats.learning_rate, 0.0);
}
