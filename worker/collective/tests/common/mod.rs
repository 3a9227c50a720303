//! A small network and what every test says the same way.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cappa_collective::{Member, Timeouts};
use tch::{Device, Kind, Tensor};

pub(crate) const HOST: &str = "127.0.0.1";
pub(crate) const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// libtorch's default generator is the whole process's: held from seeding to the last draw, so that no other test
/// draws in between.
fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}

pub(crate) fn member(rank: usize, size: usize) -> Member<'static> {
    Member { rank, size, host: HOST }
}

pub(crate) fn timeouts(operation: Duration) -> Timeouts {
    Timeouts { form: Duration::from_secs(10), operation }
}

/// Two layers, with `idle` a parameter that the loss does not depend on.
pub(crate) struct Net {
    pub(crate) params: Vec<Tensor>,
}

impl Net {
    pub(crate) fn new(seed: i64, width: i64, idle: bool) -> Net {
        let _generator = seeded(seed);
        let mut shapes = vec![vec![64, width], vec![width], vec![width, 10]];
        if idle {
            shapes.push(vec![32, 32]);
        }
        let scaled = |shape: Vec<i64>| (Tensor::randn(shape, FLOAT) * 0.1).set_requires_grad(true);
        Net { params: shapes.into_iter().map(scaled).collect() }
    }

    /// Cross entropy summed over the examples `x` (N×64) with classes `y` (N).
    pub(crate) fn loss(&self, x: &Tensor, y: &Tensor) -> Tensor {
        let hidden = (x.matmul(&self.params[0]) + &self.params[1]).gelu("tanh");
        hidden.matmul(&self.params[2]).cross_entropy_loss::<Tensor>(y, None, tch::Reduction::Sum, -100, 0.0)
    }

    /// All gradients in one line; those that are absent are left out.
    pub(crate) fn gradients(&self) -> Tensor {
        let present = self.params.iter().map(Tensor::grad).filter(Tensor::defined);
        Tensor::cat(&present.map(|g| g.reshape([-1])).collect::<Vec<_>>(), 0)
    }

    /// One plain gradient step, after which gradients are zero.
    pub(crate) fn update(&self, rate: f64) {
        tch::no_grad(|| {
            for param in &self.params {
                let mut gradient = param.grad();
                if gradient.defined() {
                    let _updated = param.shallow_clone().g_sub_(&(&gradient * rate));
                    let _zeroed = gradient.zero_();
                }
            }
        });
    }
}

/// `n` examples and their classes, the same for the same seed.
pub(crate) fn examples(seed: i64, n: i64) -> (Tensor, Tensor) {
    let _generator = seeded(seed);
    (Tensor::randn([n, 64], FLOAT), Tensor::randint(10, [n], (Kind::Int64, Device::Cpu)))
}
