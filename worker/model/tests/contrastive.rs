//! What a two-tower model promises beyond the reference's numbers.

mod common;

use cappa_model::{
    Batch, Contrast, ContrastiveConfig, ContrastiveLoss, Embeddings, ModelConfig, ModelError, Pooling, TowerConfig,
    TwoTower,
};
use tch::{Device, Kind, Tensor};

fn config() -> ContrastiveConfig {
    let ModelConfig { image_size, patch, position, vocab, text_length, .. } = common::config();
    let tower = TowerConfig { width: 32, layers: 1, heads: 4, mlp: 64, pooling: Pooling::Map };
    let (temperature, bias) = (10.0, Some(-10.0));
    ContrastiveConfig {
        image_size,
        patch,
        position,
        image: tower,
        text: tower,
        vocab,
        text_length,
        embedding: 24,
        temperature,
        bias,
    }
}

fn model() -> TwoTower {
    TwoTower::new(&config(), 3, Device::Cpu).expect("a valid network")
}

fn grads(model: &TwoTower) -> Vec<Tensor> {
    let grads = model.params().grads();
    grads.into_iter().map(|grad| grad.expect("every parameter has a gradient").copy()).collect()
}

/// The sum of losses and its gradients, with the batch on so many ranks, each with so many rows.
fn step(loss: ContrastiveLoss, batch: &Batch, ranks: &[i64]) -> (f64, Vec<Tensor>) {
    let model = model();
    let mut first = 0;
    let embedded: Vec<Embeddings> = ranks
        .iter()
        .map(|&rows| {
            let (images, tokens) = (batch.images.narrow(0, first, rows), batch.tokens.narrow(0, first, rows));
            first += rows;
            let image = model.embed_images(&images).expect("images of its size");
            Embeddings { image, text: model.embed_texts(&tokens).expect("texts of its length") }
        })
        .collect();
    let joint: Vec<Tensor> = embedded.iter().map(|part| part.joint().detach()).collect();
    let all = Embeddings::of_joint(&Tensor::cat(&joint, 0));
    let mut first = 0;
    let parts: Vec<Contrast> = ranks
        .iter()
        .map(|&rows| {
            first += rows;
            model.contrast(loss, &all, first - rows..first)
        })
        .collect();
    let gradients = parts.iter().fold(Tensor::from(0f32), |sum, part| sum + &part.gradients);
    let (mut first, mut sum) = (0, 0.0);
    for ((embedded, part), &rows) in embedded.iter().zip(&parts).zip(ranks) {
        let towers = model.differentiated(embedded, &gradients.narrow(0, first, rows));
        (towers + model.scale_differentiated(part)).backward();
        sum += part.per_example.sum(Kind::Double).double_value(&[]);
        first += rows;
    }
    (sum, grads(&model))
}

#[test]
fn a_divided_batch_has_the_loss_and_gradients_of_the_whole() {
    tch::set_num_threads(1);
    let batch = common::batch(&common::config(), 7);
    for loss in [ContrastiveLoss::Softmax, ContrastiveLoss::Sigmoid] {
        let (whole, wanted) = step(loss, &batch, &[7]);
        for ranks in [&[4, 3][..], &[3, 0, 2, 2]] {
            let (sum, found) = step(loss, &batch, ranks);
            assert!((sum - whole).abs() < 1e-5 * whole.abs(), "{loss:?} {ranks:?}: {sum}, not {whole}");
            for (found, wanted) in found.iter().zip(&wanted) {
                let error = (found - wanted).abs().max().double_value(&[]);
                assert!(error <= 1e-4 * (1.0 + wanted.abs().max().double_value(&[])), "{loss:?} {ranks:?}: {error}");
            }
        }
    }
}

#[test]
fn bfloat16_stays_near_full_precision() {
    tch::set_num_threads(1);
    let batch = common::batch(&common::config(), 4);
    let full = model().embed(&batch).expect("a batch that fits").joint();
    let half = model().with_precision(cappa_model::Precision::Bf16).embed(&batch).expect("a batch that fits").joint();
    assert_eq!(half.kind(), Kind::Float);
    let error = (full - half).abs().max().double_value(&[]);
    assert!(error > 0.0 && error < 0.05, "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = model();
    let short = Tensor::zeros([2, 5], (Kind::Int64, Device::Cpu));
    assert!(matches!(model.embed_texts(&short), Err(ModelError::Shape { .. })));
    let heads = TowerConfig { heads: 5, ..config().text };
    let error = TwoTower::new(&ContrastiveConfig { text: heads, ..config() }, 0, Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "text heads is 5: it must divide the text width");
}
