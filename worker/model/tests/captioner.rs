//! What the worker may rely on of the network.

mod common;

use cappa_model::{Batch, Captioner, END_OF_TEXT, ModelError, PAD, Precision};
use common::{batch, config, difference, noise};
use tch::{Device, Kind, Tensor};

fn captioner() -> Captioner {
    let captioner = Captioner::new(&config(), 3, Device::Cpu).expect("a valid network");
    // The output layer starts at 0, behind which every mistake would hide.
    let kernel = captioner.params().get("decoder/LogitsDense/kernel").expect("a captioner predicts");
    tch::no_grad(|| kernel.shallow_clone().copy_(&noise("output", &kernel.size(), 0.1)));
    captioner
}

fn rows(of: &Batch, start: i64, length: i64) -> Batch {
    let part = |tensor: &Tensor| tensor.narrow(0, start, length);
    Batch {
        images: part(&of.images),
        tokens: part(&of.tokens),
        parallel: of.parallel[start as usize..(start + length) as usize].to_vec(),
        causal_length: of.causal_length,
        prefix: None,
        mask_locations: None,
        weights: part(&of.weights),
    }
}

#[test]
fn a_prefix_is_seen_in_both_modes_and_is_not_in_the_loss() {
    let (captioner, plain) = (captioner(), batch(&config(), 8));
    let length = config().text_length;
    let shifted = |first: i64| {
        let tokens = plain.tokens.narrow(1, 0, length - 2).constant_pad_nd([2, 0]);
        let _ = tokens.narrow(1, 0, 2).fill_(first);
        let prefix = Some(Tensor::from_slice(&[2i64; 8]));
        Batch { tokens, prefix, mask_locations: None, ..rows(&plain, 0, 8) }
    };
    let loss = |batch: &Batch| captioner.loss(batch).expect("a fitting batch").per_example;
    let (one, other) = (loss(&shifted(7)), loss(&shifted(9)));
    for (row, parallel) in plain.parallel.iter().enumerate() {
        let values = [&one, &other].map(|losses| losses.double_value(&[row as i64]));
        assert!(
            (values[0] - values[1]).abs() > 1e-6,
            "row {row}, parallel {parallel}: another prefix, another loss: {values:?}"
        );
    }
    // The log-likelihood of the captions alone, given the prefix, by the logits of an evaluation.
    let batch = Batch { parallel: vec![false; 8], ..shifted(7) };
    let encoded = captioner.encode(&batch.images).expect("fitting images");
    let likelihood = captioner.logits(&encoded, &batch.tokens).expect("logits").log_softmax(-1, Kind::Float);
    for (row, found) in Vec::<f64>::try_from(loss(&batch)).expect("losses").into_iter().enumerate() {
        let tokens = Vec::<i64>::try_from(batch.tokens.get(row as i64)).expect("tokens");
        let scored: Vec<_> = (2..tokens.len()).filter(|&place| tokens[place] != PAD).collect();
        let of = |&place: &usize| likelihood.double_value(&[row as i64, place as i64, tokens[place]]);
        let wanted = -scored.iter().map(of).sum::<f64>() / scored.len() as f64;
        assert!((found - wanted).abs() < 1e-4, "row {row}: {found}, not {wanted}");
    }
    // Without a prefix, the same tokens are hidden from parallel examples too, and predicted.
    let mut batch = Batch { parallel: vec![true; 8], ..shifted(7) };
    let before = loss(&batch);
    batch.prefix = None;
    assert_ne!(before, loss(&batch));
}

#[test]
fn a_new_captioner_knows_nothing() {
    let captioner = Captioner::new(&config(), 3, Device::Cpu).expect("a valid network");
    let loss = captioner.loss(&batch(&config(), 8)).expect("a fitting batch");
    let expected = (config().vocab as f64).ln();
    assert!((loss.sum.double_value(&[]) / 8.0 - expected).abs() < 1e-5);
}

#[test]
fn every_rank_starts_with_the_same_parameters() {
    let [one, two] = [0, 0].map(|_| Captioner::new(&config(), 3, Device::Cpu).expect("a valid network"));
    for ((name, a), (_, b)) in one.params().iter().zip(two.params().iter()) {
        assert_eq!(a, b, "{name}");
    }
}

#[test]
fn parts_of_a_batch_add_up_to_its_gradients() {
    let whole = batch(&config(), 12);
    let [one, two] = [captioner_with_grads(&[rows(&whole, 0, 5), rows(&whole, 5, 7)]), captioner_with_grads(&[whole])];
    for ((name, a), (_, b)) in one.params().iter().zip(two.params().iter()) {
        assert!(difference(&a.grad(), &b.grad()) < 1e-4, "{name}");
    }
}

fn captioner_with_grads(batches: &[Batch]) -> Captioner {
    let captioner = captioner();
    batches.iter().for_each(|batch| captioner.loss(batch).expect("a fitting batch").sum.backward());
    captioner
}

/// The captions have at most 12 tokens of 24: autoregressive examples need no more.
#[test]
fn autoregressive_captions_cut_to_their_length_teach_the_same_as_whole_ones() {
    let whole = batch(&config(), 12);
    let cut = Batch { causal_length: 12, ..rows(&whole, 0, 12) };
    let losses = [&whole, &cut].map(|batch| captioner().loss(batch).expect("a fitting batch"));
    assert_eq!(losses[0].tokens, losses[1].tokens);
    assert!(difference(&losses[0].per_example, &losses[1].per_example) < 1e-5);
    let [one, two] = [captioner_with_grads(&[whole]), captioner_with_grads(&[cut])];
    for ((name, a), (_, b)) in one.params().iter().zip(two.params().iter()) {
        assert!(difference(&a.grad(), &b.grad()) < 1e-4, "{name}");
    }
}

/// Parallel examples see padding: cut, they would be other examples. That is why only the others are.
#[test]
fn parallel_captions_do_depend_on_the_length_they_are_padded_to() {
    let whole = Batch { parallel: vec![true; 12], ..batch(&config(), 12) };
    let short = Batch { tokens: whole.tokens.narrow(1, 0, 12), causal_length: 12, ..rows(&whole, 0, 12) };
    let [whole, short] = [whole, short].map(|batch| captioner().loss(&batch).expect("a fitting batch").per_example);
    assert!(difference(&whole, &short) > 1e-3, "{whole:?} {short:?}");
    let unseen = Batch { causal_length: 1, parallel: vec![true; 12], ..batch(&config(), 12) };
    assert_eq!(captioner().loss(&unseen).expect("a fitting batch").per_example, whole);
}

#[test]
fn an_example_of_weight_0_teaches_nothing() {
    let whole = batch(&config(), 6);
    let mut weighted = rows(&whole, 0, 6);
    weighted.weights = Tensor::from_slice(&[1f32, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let [one, two] = [captioner_with_grads(&[weighted]), captioner_with_grads(&[rows(&whole, 0, 3)])];
    for ((name, a), (_, b)) in one.params().iter().zip(two.params().iter()) {
        assert!(difference(&a.grad(), &b.grad()) < 1e-4, "{name}");
    }
}

#[test]
fn captions_of_padding_alone_cost_nothing() {
    let mut empty = batch(&config(), 4);
    let _ = empty.tokens.fill_(PAD);
    let captioner = captioner();
    let loss = captioner.loss(&empty).expect("a fitting batch");
    loss.sum.backward();
    assert_eq!((loss.sum.double_value(&[]), loss.tokens), (0.0, 0));
    for (grad, (name, _)) in captioner.params().grads().iter().zip(captioner.params().iter()) {
        let grad = grad.as_ref().expect("every parameter is reached");
        assert_eq!(grad.abs().max().double_value(&[]), 0.0, "{name}");
    }
}

#[test]
fn bytes_and_floats_are_the_same_images() {
    let captioner = captioner();
    let bytes = batch(&config(), 3).images;
    let floats = bytes.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0;
    let [a, b] = [bytes, floats].map(|images| captioner.encode(&images).expect("fitting images"));
    assert!(difference(&a, &b) < 1e-5);
}

#[test]
fn bfloat16_computes_almost_the_same_and_keeps_f32_parameters() {
    let data = batch(&config(), 8);
    let loss = |captioner: &Captioner| {
        let loss = captioner.loss(&data).expect("a fitting batch").sum;
        loss.backward();
        loss.double_value(&[]) / 8.0
    };
    let exact = captioner();
    let rough = captioner().with_precision(Precision::Bf16);
    let (a, b) = (loss(&exact), loss(&rough));
    assert!(a != b && (a - b).abs() < 0.02, "{a} and {b}");
    for ((name, param), grad) in rough.params().iter().zip(rough.params().grads()) {
        let grad = grad.expect("every parameter is reached");
        assert_eq!((param.kind(), grad.kind()), (Kind::Float, Kind::Float), "{name}");
    }
}

#[test]
fn candidates_are_scored_as_if_each_were_alone() {
    let captioner = captioner();
    let data = batch(&config(), 5);
    let together = captioner.score(&data.images, &data.tokens).expect("fitting candidates");
    let encoded = captioner.encode(&data.images).expect("fitting images");
    for row in 0..5 {
        let alone = captioner.score_encoded(&encoded, &data.tokens.narrow(0, row, 1)).expect("a fitting candidate");
        assert!(difference(&together.narrow(1, row, 1), &alone) < 1e-4);
        let own = captioner.log_likelihood(&encoded, &data.tokens).expect("fitting captions");
        assert!((own.double_value(&[row]) - together.double_value(&[row, row])).abs() < 1e-4);
    }
}

#[test]
fn after_the_end_of_text_a_caption_is_padding() {
    let captioner = captioner();
    // The end of text is the likeliest token whenever the padding is not.
    let bias = captioner.params().get("decoder/LogitsDense/bias").expect("a captioner predicts");
    let _ = tch::no_grad(|| bias.get(END_OF_TEXT).fill_(3.0));
    let captions = captioner.greedy(&batch(&config(), 6).images, 10).expect("fitting images");
    let mut ended = 0;
    for row in 0..6 {
        let tokens = Vec::<i64>::try_from(captions.get(row)).expect("a row of tokens");
        if let Some(end) = tokens.iter().position(|&token| token == END_OF_TEXT) {
            assert!(tokens[end + 1..].iter().all(|&token| token == PAD), "{tokens:?}");
            ended += 1;
        }
    }
    assert!(ended > 0);
}

#[test]
fn a_checkpoint_makes_the_same_captioner() {
    let captioner = captioner();
    let copy = Captioner::from_named(&config(), &captioner.params().to_named(), Device::Cpu).expect("its own names");
    let images = batch(&config(), 2).images;
    let [a, b] = [&captioner, &copy].map(|captioner| captioner.encode(&images).expect("fitting images"));
    assert_eq!(a, b);
    let mut named = captioner.params().to_named();
    let (name, _) = named.remove(4);
    let error = Captioner::from_named(&config(), &named, Device::Cpu).expect_err("a parameter is missing");
    assert!(matches!(error, ModelError::MissingTensor { name: missing } if format!("params/{missing}") == name));
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let captioner = captioner();
    let mut long = batch(&config(), 2);
    long.tokens = Tensor::ones([2, config().text_length + 1], (Kind::Int64, Device::Cpu));
    assert!(matches!(captioner.loss(&long), Err(ModelError::Shape { .. })));
    let small = Tensor::zeros([2, 32, 32, 3], (Kind::Uint8, Device::Cpu));
    assert!(matches!(captioner.encode(&small), Err(ModelError::Shape { .. })));
    let maskless = cappa_model::ModelConfig { masked_pred_prob: 0.0, ..config() };
    let captioner = Captioner::new(&maskless, 0, Device::Cpu).expect("a valid network");
    assert!(matches!(captioner.loss(&batch(&maskless, 2)), Err(ModelError::NoMaskToken)));
}
