//! Steps of groups whose ranks are threads.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::thread;
use std::time::Duration;

use cappa_collective::{AbortHandle, Member, Reducer, ReducerOptions, Store, Timeouts};
use cappa_model::transfer::Part;
use cappa_shared::ids::Rank;
use cappa_shared::order::lanes_of_rank;
use cappa_shared::spec::{JobSpec, SpecBase};
use tch::Device;

use super::*;

const LIMIT: Duration = Duration::from_secs(60);
const LANES: u32 = 8;

fn spec(more: &str) -> JobSpec {
    let label = if more.contains("classify") { "label: { field: class, classes: 150 }, " } else { "" };
    let text = format!(
        "apiVersion: cappa.dev/v1
name: test
model: {{ preset: tiny, width: 32, layers: 1, decoder_layers: 1, mlp: 64 }}
data: {{ {label}train: /train.json, tokenizer: /tokenizer.json, lanes: {LANES}, image_size: 16, text_length: 6 }}
batch_size: 16
duration: {{ steps: 10 }}
{more}"
    );
    JobSpec::parse(&text, &SpecBase::none()).unwrap()
}

/// Sixteen pairs, or images with their classes, of which two weigh nothing.
fn batch(spec: &JobSpec, parallel: bool) -> Batch {
    let length = if spec.objective.is_classifying() { 1 } else { 6 };
    let rows = 16;
    let pattern = |count: i64, stride: i64, below: i64| {
        (Tensor::arange(count, (Kind::Int64, Device::Cpu)) * stride).remainder(below)
    };
    let weights = Tensor::ones([rows], (Kind::Float, Device::Cpu));
    let _ = weights.get(4).fill_(0.0);
    let _ = weights.get(15).fill_(0.0);
    Batch {
        images: pattern(rows * 16 * 16 * 3, 7919, 251).to_kind(Kind::Uint8).view([rows, 16, 16, 3]),
        tokens: (pattern(rows * length, 31, 97) + 2).view([rows, length]),
        causal_length: length,
        parallel: (0..rows).map(|row| parallel && row % 2 == 0).collect(),
        prefix: None,
        mask_locations: None,
        weights,
    }
}

/// The sum of losses and the gradients of it that every rank of such a group has after a step.
fn step(spec: &JobSpec, parallel: bool, size: usize) -> (f64, Vec<Option<Tensor>>) {
    tch::set_num_threads(1);
    cappa_collective::init();
    let (store, _) = Store::serve("127.0.0.1", 0, LIMIT).unwrap();
    let rank = |rank: usize| {
        let member = Member { rank, size, host: "127.0.0.1" };
        let timeouts = Timeouts { form: LIMIT, operation: LIMIT };
        let group = Group::gloo(&store.clone(), member, timeouts, &AbortHandle::new()).unwrap();
        let lanes = lanes_of_rank(Rank(rank as u32), size as u32, LANES);
        let slots = i64::from(spec.batch_size / LANES);
        let own = batch(spec, parallel).narrow(i64::from(lanes.start) * slots, lanes.len() as i64 * slots);

        let network = Network::new(spec, Device::Cpu).unwrap();
        // A classifier's last layer starts at 0, behind which every mistake would hide.
        if let Some(kernel) = network.params().get("img/head/kernel").filter(|_| spec.objective.is_classifying()) {
            let count = kernel.numel() as i64;
            let values = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin().view_as(kernel);
            tch::no_grad(|| kernel.shallow_clone().copy_(&values));
        }
        let trained = network.params().tensors().filter(|tensor| tensor.requires_grad());
        let params: Vec<Tensor> = trained.map(Tensor::shallow_clone).collect();
        let mut reducer = Reducer::new(&group, &params, ReducerOptions::default()).unwrap();
        let mut passes = Plan::new(spec, size).passes(&network, &own, Some(&group)).unwrap();
        let share = size as f64;
        while passes.remaining() > 1 {
            passes.forward().unwrap().backward(share).unwrap();
        }
        reducer.prepare_forward().unwrap();
        let pass = passes.forward().unwrap();
        reducer.prepare_backward(&[pass.scalar()]).unwrap();
        let backward = pass.backward(share);
        reducer.finish(backward).unwrap();
        let sum = Tensor::from_slice(&[passes.sum()]);
        group.all_reduce(&sum, Op::Sum).unwrap();
        let grads = network.params().grads().into_iter().map(|grad| grad.map(|grad| grad.copy())).collect();
        (sum.double_value(&[0]), grads)
    };
    let rank = &rank;
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..size).map(|r| scope.spawn(move || rank(r))).collect();
        let mut done: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        done.swap_remove(0)
    })
}

fn assert_same(what: &str, found: &(f64, Vec<Option<Tensor>>), wanted: &(f64, Vec<Option<Tensor>>)) {
    assert!((found.0 - wanted.0).abs() <= 1e-5 * wanted.0.abs(), "{what}: {}, not {}", found.0, wanted.0);
    for (found, wanted) in found.1.iter().zip(&wanted.1) {
        let (Some(found), Some(wanted)) = (found, wanted) else {
            assert!(found.is_none() && wanted.is_none(), "{what}: frozen parameters have no gradient");
            continue;
        };
        let (error, largest) = ((found - wanted).abs().max().double_value(&[]), wanted.abs().max().double_value(&[]));
        assert!(error <= 1e-4 * (1.0 + largest), "{what}: a gradient is off by {error} of {largest}");
    }
}

#[test]
fn a_step_does_not_depend_on_ranks_or_micro_batches() {
    for objective in [
        "clip",
        "siglip",
        "{ type: cappa, parallel_fraction: 0.5, label_smoothing: 0.1 }",
        "{ type: classify, label_smoothing: 0.1 }",
        "{ type: classify, pooling: mean, loss: sigmoid }",
    ] {
        let (whole, micro) =
            (spec(&format!("objective: {objective}")), spec(&format!("objective: {objective}\nmicro_batch_size: 3")));
        let parallel = whole.objective.is_captioning();
        let wanted = step(&whole, parallel, 1);
        assert!(wanted.1.iter().all(Option::is_some));
        // Three ranks have 6, 6 and 4 rows.
        for size in [1, 2, 3] {
            assert_same(&format!("{objective} on {size}"), &step(&whole, parallel, size), &wanted);
            assert_same(&format!("{objective} on {size}, a few at a time"), &step(&micro, parallel, size), &wanted);
        }
    }
}

#[test]
fn gradient_checkpointing_changes_no_step_on_any_number_of_ranks() {
    for objective in [
        "siglip",
        "{ type: cappa, parallel_fraction: 0.5 }",
        "{ type: classify, pooling: mean, loss: sigmoid }",
        "siglip\nfreeze: [encoder]",
        "{ type: cappa, parallel_fraction: 0.5 }\nfreeze: [encoder]",
        "{ type: cappa, parallel_fraction: 0.5 }\nfreeze: [decoder]",
    ] {
        let spec = |more: &str| spec(&format!("objective: {objective}\n{more}"));
        let parallel = spec("").objective.is_captioning();
        let wanted = step(&spec(""), parallel, 1);
        let (whole, micro) =
            (spec("gradient_checkpointing: true"), spec("gradient_checkpointing: true\nmicro_batch_size: 3"));
        for size in [1, 2] {
            assert_same(&format!("{objective} on {size}"), &step(&whole, parallel, size), &wanted);
            assert_same(&format!("{objective} on {size}, a few at a time"), &step(&micro, parallel, size), &wanted);
        }
    }
}

#[test]
fn a_frozen_encoder_has_no_gradients_and_changes_no_others() {
    let (free, frozen) = (spec("objective: siglip"), spec("objective: siglip\nfreeze: [encoder]"));
    let (wanted, found) = (step(&free, false, 1), step(&frozen, false, 2));
    assert_eq!(found.0, step(&frozen, false, 2).0, "the same step twice is the same to the bit");
    let network = Network::new(&frozen, Device::Cpu).unwrap();
    for (((name, _), found), wanted) in network.params().iter().zip(&found.1).zip(&wanted.1) {
        let is_encoder = Part::of(name) == Some(Part::Encoder);
        assert_eq!(found.is_none(), is_encoder, "{name}");
        if let (Some(found), Some(wanted)) = (found, wanted) {
            let error = (found - wanted).abs().max().double_value(&[]);
            assert!(error <= 1e-4 * (1.0 + wanted.abs().max().double_value(&[])), "{name}: {error}");
        }
    }
}
