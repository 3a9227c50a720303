//! A network starts from parts of another's checkpoint, or says what differs.

#[allow(dead_code, reason = "only the configuration is used here")]
mod common;

use cappa_model::transfer::{Part, transfer};
use cappa_model::{Captioner, ModelConfig, Pooling, TwoTower};
use tch::{Device, Tensor};

fn captioner(config: &ModelConfig, seed: u64) -> Captioner {
    Captioner::new(config, seed, Device::Cpu).expect("a valid network")
}

#[test]
fn an_image_tower_starts_from_a_captioners_encoder() {
    let c = common::config();
    let config = common::towers(Pooling::Mean, Pooling::Mean, None);
    let (from, mut to) = (captioner(&c, 1), TwoTower::new(&config, 2, Device::Cpu).expect("a valid network"));
    let before = to.params().get("txt/head/kernel").expect("a text tower").copy();
    transfer(to.params_mut(), &from.params().to_named(), &[Part::Encoder], c.grid()).expect("one encoder");
    for (name, value) in from.params().iter().filter(|(name, _)| name.starts_with("encoder/")) {
        let rest = name.trim_start_matches("encoder/");
        assert_eq!(to.params().get(&format!("img/{rest}")), Some(value), "{name}");
    }
    assert_eq!(to.params().get("txt/head/kernel"), Some(&before), "the text tower keeps its own");
    // And back.
    let mut back = captioner(&c, 3);
    transfer(back.params_mut(), &to.params().to_named(), &[Part::Encoder], c.grid()).expect("one encoder");
    assert_eq!(back.params().get("encoder/pos_embedding"), from.params().get("encoder/pos_embedding"));
}

#[test]
fn an_encoder_starts_at_another_resolution() {
    let small = common::config();
    let large = ModelConfig { image_size: [96, 96], ..small.clone() };
    let (from, mut to) = (captioner(&small, 1), captioner(&large, 2));
    transfer(to.params_mut(), &from.params().to_named(), &[Part::Encoder], large.grid()).expect("positions fit");
    let table = |captioner: &Captioner| captioner.params().get("encoder/pos_embedding").expect("positions").detach();
    let (small, large) = (table(&from), table(&to));
    assert_eq!(large.size(), [1, 144, 64]);
    // Corners stay where they are.
    for (here, there) in [(0, 0), (7, 11), (56, 132), (63, 143)] {
        let error = (small.select(1, here) - large.select(1, there)).abs().max().double_value(&[]);
        assert!(error < 1e-6, "corner {here}: {error}");
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused_with_all_that_differs() {
    let config = common::config();
    let other = ModelConfig { vocab: 300, layers: 1, ..config.clone() };
    let (from, mut to) = (captioner(&other, 1), captioner(&config, 2));
    let before: Vec<Tensor> = to.params().tensors().map(Tensor::copy).collect();
    let named = from.params().to_named();
    let error = transfer(to.params_mut(), &named, &[], config.grid()).unwrap_err().to_string();
    assert!(error.contains("it has no encoder/Transformer/encoderblock_1/LayerNorm_0/scale"), "{error}");
    assert!(error.contains(" more"), "{error}");
    let error = transfer(to.params_mut(), &named, &[Part::Decoder], config.grid()).unwrap_err().to_string();
    let wanted = "its decoder/EmbedTargets/embedding has shape [301, 64], the job's [513, 64] (another vocabulary";
    assert!(error.contains(wanted), "{error}");
    assert!(to.params().tensors().zip(&before).all(|(now, before)| now == before), "nothing was overwritten");
}
