//! Initial values of parameters from a seed.
//!
//! Every parameter draws from its own counter-based generator (SplitMix64, keyed by seed and
//! name), so the values depend on neither the order of creation, the number of threads nor
//! libtorch's global generator: every rank starts with the same parameters without a broadcast.

use tch::{Kind, Tensor};

use crate::spec::{Init, ParamSpec, lecun_std};

/// The initial value of one parameter, f32 on the CPU.
pub fn initial_value(spec: &ParamSpec, seed: u64) -> Tensor {
    let count = usize::try_from(spec.shape.iter().product::<i64>()).expect("sizes are positive");
    let mut random = Random::new(seed, &spec.name);
    let values: Vec<f32> = match spec.init {
        Init::Zeros => return Tensor::zeros(&spec.shape, (Kind::Float, tch::Device::Cpu)),
        Init::Ones => return Tensor::ones(&spec.shape, (Kind::Float, tch::Device::Cpu)),
        Init::Constant(value) => return Tensor::full(&spec.shape, value, (Kind::Float, tch::Device::Cpu)),
        Init::Normal(std) => (0..count).map(|_| (random.normal() * std) as f32).collect(),
        Init::GlorotUniform { fan_in, fan_out } => {
            let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
            (0..count).map(|_| ((2.0 * random.uniform() - 1.0) * limit) as f32).collect()
        }
        Init::LecunNormal { fan_in } => {
            let std = lecun_std(fan_in);
            (0..count).map(|_| (random.cut_normal() * std) as f32).collect()
        }
    };
    Tensor::from_slice(&values).view(spec.shape.as_slice())
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random {
    counter: u64,
    spare: Option<f64>,
}

impl Random {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a tells the names apart; mixing keeps neighbouring seeds apart.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { counter: mix(seed ^ mix(hash)), spare: None }
    }

    fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.counter)
    }

    /// In [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller's transform.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Standard normal cut at ±2.
    fn cut_normal(&mut self) -> f64 {
        loop {
            let value = self.normal();
            if value.abs() <= 2.0 {
                return value;
            }
        }
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_depends_on_seed_and_name_alone() {
        let spec = |name: &str| ParamSpec { name: name.to_owned(), shape: vec![8], init: Init::Normal(1.0) };
        let draw = |name: &str, seed| initial_value(&spec(name), seed);
        assert_eq!(draw("a", 1), draw("a", 1));
        assert_ne!(draw("a", 1), draw("b", 1));
        assert_ne!(draw("a", 1), draw("a", 2));
    }
}
