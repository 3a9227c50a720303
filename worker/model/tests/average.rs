//! Averages of parameters.

#[allow(dead_code, reason = "only the configuration is used here")]
mod common;

use cappa_model::average::{Average, averaged};
use cappa_model::{Captioner, ParamTable};
use tch::Device;

fn value(params: &ParamTable, name: &str) -> f64 {
    params.get(name).expect(name).double_value(&[0])
}

#[test]
fn an_average_follows_what_is_trained_and_can_take_its_place() {
    let mut captioner = Captioner::new(&common::config(), 1, Device::Cpu).expect("a valid network");
    captioner.params_mut().freeze(|name| name.starts_with("encoder/"));
    let params = captioner.params();
    let (scale, frozen) = ("decoder/LayerNorm/scale", "encoder/Transformer/encoder_norm/scale");
    let average = Average::new(params, 0.75);
    for _ in 0..2 {
        let _ = tch::no_grad(|| params.get(scale).expect(scale).shallow_clone().fill_(5.0));
        average.update(params).expect("one table");
    }
    // 1 → 0.75 · 1 + 0.25 · 5 = 2 → 0.75 · 2 + 0.25 · 5.
    average.swap(params).expect("one table");
    assert_eq!((value(params, scale), value(params, frozen)), (2.75, 1.0));
    average.swap(params).expect("one table");
    assert_eq!(value(params, scale), 5.0);

    // What a checkpoint of it holds is what evaluations see.
    let mut named = params.to_named();
    named.extend(average.state());
    assert!(!named.iter().any(|(name, _)| name.starts_with("ema/encoder/")), "frozen parts have no average");
    let weights = averaged(named.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect());
    assert_eq!(weights.len(), params.len());
    let of = |name: &str| &weights.iter().find(|(found, _)| found == name).expect(name).1;
    assert_eq!(of("params/decoder/LayerNorm/scale").double_value(&[0]), 2.75);

    let mut fresh = Average::new(params, 0.75);
    assert!(fresh.load_state(&weights).is_err(), "parameters are no averages");
    fresh.load_state(&named).expect("its own names");
    fresh.swap(params).expect("one table");
    assert_eq!(value(params, scale), 2.75);
}
