//! A classifier's losses are what they are said to be, and it starts from other networks' encoders.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use cappa_model::transfer::{Part, transfer};
use cappa_model::{
    Batch, Captioner, ClassLoss, Classifier, ClassifierConfig, ModelConfig, Pooling, PositionEmbedding, TowerConfig,
};
use tch::{Device, Kind, Tensor};

fn config(pooling: Pooling) -> ClassifierConfig {
    ClassifierConfig {
        image_size: [16, 16],
        patch: [8, 8],
        position: PositionEmbedding::Learn,
        image: TowerConfig { width: 32, layers: 1, heads: 4, mlp: 64, pooling },
        classes: 5,
    }
}

/// A classifier whose last layer is not 0.
fn classifier(pooling: Pooling) -> Classifier {
    let classifier = Classifier::new(&config(pooling), 3, Device::Cpu).unwrap();
    tch::manual_seed(1);
    let mut head = classifier.params().get("img/head/kernel").unwrap().detach();
    let _ = head.normal_(0.0, 0.5);
    classifier
}

fn batch() -> Batch {
    let images = (Tensor::arange(3 * 16 * 16 * 3, (Kind::Int64, Device::Cpu)) * 7919).remainder(251);
    Batch {
        images: images.to_kind(Kind::Uint8).view([3, 16, 16, 3]),
        tokens: Tensor::from_slice(&[0i64, 4, 1]).view([3, 1]),
        causal_length: 1,
        parallel: vec![false; 3],
        prefix: None,
        mask_locations: None,
        weights: Tensor::from_slice(&[1f32, 1.0, 0.0]),
    }
}

#[test]
fn the_losses_are_those_of_the_formulas_with_label_smoothing() {
    for pooling in [Pooling::Map, Pooling::Mean] {
        let (classifier, batch) = (classifier(pooling), batch());
        let logits = Vec::<Vec<f64>>::try_from(classifier.logits(&batch.images).unwrap()).unwrap();
        for smoothing in [0.0, 0.2] {
            let (mut softmax, mut sigmoid) = (0.0, 0.0);
            for (row, class) in [(0, 0), (1, 4)] {
                let total = logits[row].iter().map(|x| x.exp()).sum::<f64>().ln();
                for (other, x) in logits[row].iter().enumerate() {
                    let target = if other == class { 1.0 - smoothing } else { smoothing / 4.0 };
                    softmax -= target * (x - total);
                    let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
                    sigmoid -= target * log_sigmoid(*x) + (1.0 - target) * log_sigmoid(-x);
                }
            }
            for (loss, wanted) in [(ClassLoss::Softmax, softmax), (ClassLoss::Sigmoid, sigmoid)] {
                let found = classifier.loss(&batch, loss, smoothing).unwrap().double_value(&[]);
                assert!((found - wanted).abs() < 1e-4, "{pooling:?} {loss:?} {smoothing}: {found}, not {wanted}");
            }
        }
    }
}

#[test]
fn a_classifier_starts_from_a_captioners_encoder_and_sees_what_that_sees() {
    let captioner = ModelConfig {
        image_size: [16, 16],
        width: 32,
        layers: 1,
        mlp: 64,
        decoder_width: 32,
        decoder_layers: 1,
        decoder_mlp: 64,
        ..ModelConfig::tiny()
    };
    let captioner = Captioner::new(&captioner, 7, Device::Cpu).unwrap();
    let mut classifier = classifier(Pooling::Mean);
    let weights = captioner.params().to_named();
    transfer(classifier.params_mut(), &weights, &[Part::Encoder], [2, 2]).unwrap();
    let images = batch().images;
    let encoded = captioner.encode(&images).unwrap();
    assert_eq!(classifier.encode(&images).unwrap(), encoded);
    assert_eq!(classifier.pooled(&encoded), Captioner::pre_logits(&encoded));
    let refused = transfer(classifier.params_mut(), &weights, &[], [2, 2]).unwrap_err().to_string();
    assert!(refused.contains("it has no img/head/kernel"), "{refused}");
}

#[test]
fn a_frozen_encoder_leaves_only_the_head_to_learn() {
    let mut classifier = classifier(Pooling::Map);
    classifier.params_mut().freeze(|name| Part::of(name) == Some(Part::Encoder));
    classifier.loss(&batch(), ClassLoss::Softmax, 0.0).unwrap().backward();
    for ((name, _), grad) in classifier.params().iter().zip(classifier.params().grads()) {
        assert_eq!(grad.is_some(), Part::of(name) == Some(Part::Head), "{name}");
    }
}
