//! The list operators against the same arithmetic written out with tch.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use cappa_collective::ops::{self, AdamW, AdamWState};
use tch::{Device, Kind, Tensor};

const F: (Kind, Device) = (Kind::Float, Device::Cpu);

fn close(a: &Tensor, b: &Tensor) -> bool {
    a.allclose(b, 1e-5, 1e-7, false)
}

#[test]
fn adamw_is_the_textbook_update() {
    let params = [Tensor::randn([3, 5], F), Tensor::randn([7], F)];
    let grads: Vec<Tensor> = params.iter().map(Tensor::randn_like).collect();
    let zeros = || params.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
    let (m, v) = (zeros(), zeros());
    let steps: Vec<Tensor> = params.iter().map(|_| Tensor::zeros([], F)).collect();
    let (lr, b1, b2, decay, eps) = (0.01, 0.9, 0.99, 0.1, 1e-8);

    let expected: Vec<Tensor> = params
        .iter()
        .zip(&grads)
        .map(|(p, g)| {
            let (mut p, mut m, mut v) = (p.copy(), p.zeros_like(), p.zeros_like());
            for t in 1..=3 {
                m = m * b1 + g * (1.0 - b1);
                v = v * b2 + g.square() * (1.0 - b2);
                let (mh, vh) = (&m / (1.0 - f64::powi(b1, t)), &v / (1.0 - f64::powi(b2, t)));
                p = &p * (1.0 - lr * decay) - lr * mh / (vh.sqrt() + eps);
            }
            p
        })
        .collect();

    let options = AdamW { lr, betas: (b1, b2), weight_decay: decay, eps };
    for _ in 0..3 {
        let state = AdamWState { m: &m, v: &v, steps: &steps };
        ops::adamw_(&params, &grads, state, &options).unwrap();
    }
    assert!(params.iter().zip(&expected).all(|(p, e)| close(p, e)));
    assert_eq!(steps[1].double_value(&[]), 3.0);
}

#[test]
fn clipping_scales_only_what_is_too_long() {
    let list = [Tensor::full([9], 3.0, F), Tensor::full([1], 12.0, F)];
    assert_eq!(ops::joint_norm(&list).unwrap().double_value(&[]), 15.0);
    assert_eq!(ops::clip_norm_(&list, 30.0).unwrap().double_value(&[]), 15.0);
    assert_eq!(list[1].double_value(&[0]), 12.0);
    let _before = ops::clip_norm_(&list, 1.0).unwrap();
    assert!((ops::joint_norm(&list).unwrap().double_value(&[]) - 1.0).abs() < 1e-5);
}

#[test]
fn list_operators_do_what_their_formula_says() {
    let a = || vec![Tensor::from_slice(&[1f32, 4.0]), Tensor::from_slice(&[9f32])];
    let b = || vec![Tensor::from_slice(&[2f32, 3.0]), Tensor::from_slice(&[4f32])];
    let run = |f: &dyn Fn(&[Tensor])| {
        let list = a();
        f(&list);
        Vec::<f32>::try_from(Tensor::cat(&list, 0)).unwrap()
    };
    assert_eq!(run(&|a| ops::zero_(a).unwrap()), [0.0, 0.0, 0.0]);
    assert_eq!(run(&|a| ops::add_scalar_(a, 0.5).unwrap()), [1.5, 4.5, 9.5]);
    assert_eq!(run(&|a| ops::mul_scalar_(a, 2.0).unwrap()), [2.0, 8.0, 18.0]);
    assert_eq!(run(&|a| ops::mul_tensor_(a, &Tensor::from(2f32)).unwrap()), [2.0, 8.0, 18.0]);
    assert_eq!(run(&|a| ops::clamp_max_(a, 4.0).unwrap()), [1.0, 4.0, 4.0]);
    assert_eq!(run(&|a| ops::clamp_min_(a, 4.0).unwrap()), [4.0, 4.0, 9.0]);
    assert_eq!(run(&|a| ops::sqrt_(a).unwrap()), [1.0, 2.0, 3.0]);
    assert_eq!(run(&|a| ops::rsqrt_(a).unwrap()), [1.0, 0.5, 1.0 / 3.0]);
    assert_eq!(run(&|a| ops::reciprocal_(a).unwrap()), [1.0, 0.25, 1.0 / 9.0]);
    assert_eq!(run(&|a| ops::add_(a, &b(), 2.0).unwrap()), [5.0, 10.0, 17.0]);
    assert_eq!(run(&|a| ops::mul_(a, &b()).unwrap()), [2.0, 12.0, 36.0]);
    assert_eq!(run(&|a| ops::div_(a, &b()).unwrap()), [0.5, 4.0 / 3.0, 2.25]);
    assert_eq!(run(&|a| ops::lerp_(a, &b(), 0.5).unwrap()), [1.5, 3.5, 6.5]);
    assert_eq!(run(&|a| ops::copy_(a, &b()).unwrap()), [2.0, 3.0, 4.0]);
    assert_eq!(run(&|a| ops::addcmul_(a, &b(), &b(), 1.0).unwrap()), [5.0, 13.0, 25.0]);
    assert_eq!(run(&|a| ops::addcdiv_(a, &b(), &b(), 2.0).unwrap()), [3.0, 6.0, 11.0]);
    assert_eq!(ops::products(&a(), &b()).unwrap()[1].double_value(&[0]), 36.0);
    assert_eq!(ops::norms(&a()).unwrap()[1].double_value(&[]), 9.0);
}

#[test]
fn lists_of_different_lengths_are_refused() {
    let a = [Tensor::zeros([2], F), Tensor::zeros([2], F)];
    assert!(ops::add_(&a, &a[..1], 1.0).is_err());
}

#[test]
fn autocast_ends_with_its_guard() {
    let a = Tensor::randn([4, 4], F);
    let kind = || a.matmul(&a).kind();
    let (inside, after_nested) = ops::autocast(Device::Cpu, Kind::BFloat16, || {
        let nested = ops::autocast(Device::Cpu, Kind::Half, kind).unwrap();
        assert_eq!(nested, Kind::Half);
        (kind(), a.softmax(-1, None::<Kind>).kind())
    })
    .unwrap();
    assert_eq!((inside, after_nested, kind()), (Kind::BFloat16, Kind::Float, Kind::Float));
    assert!(ops::Autocast::enter(Device::Cpu, Kind::Int64).is_err());
}
