//! Counter-based random draws: pure functions of (seed, epoch, slot, purpose), never of a rank or of history.

use super::permutation::scale;

/// What a draw decides. Each purpose has its own stream, so that adding one changes no other.
///
/// The numbers are part of the sample order: they never change and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Purpose {
    /// Parallel or autoregressive decoding (CapPa, section 3).
    Mode = 1,
    /// Which of several captions.
    Caption = 2,
    /// Window of a random crop.
    Crop = 3,
    /// Mirror image or not.
    Flip = 4,
    /// Colour jitter.
    Colour = 5,
    /// Which text positions are masked, where a share of them is.
    Mask = 6,
}

/// The stream of draws of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
}

impl Draws {
    /// The draws that `seed` names.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// 64 uniform bits.
    pub fn bits(&self, epoch: u64, slot: u64, purpose: Purpose) -> u64 {
        let purpose = purpose as u64;
        [epoch, slot, purpose].into_iter().fold(mix(self.seed, DRAWS), mix)
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    pub fn unit(&self, epoch: u64, slot: u64, purpose: Purpose) -> f64 {
        unit(self.bits(epoch, slot, purpose))
    }

    /// A sequence of draws for one purpose.
    pub fn stream(&self, epoch: u64, slot: u64, purpose: Purpose) -> Stream {
        Stream { key: self.bits(epoch, slot, purpose), drawn: 0 }
    }

    /// Uniform in `0..bound`. `bound` must not be zero.
    pub fn below(&self, bound: u64, epoch: u64, slot: u64, purpose: Purpose) -> u64 {
        assert!(bound > 0, "nothing can be drawn from an empty range");
        scale(self.bits(epoch, slot, purpose), bound)
    }
}

/// As many draws for one purpose of a slot as are wanted, one after the other.
#[derive(Debug, Clone)]
pub struct Stream {
    key: u64,
    drawn: u64,
}

impl Stream {
    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.key, self.drawn)
    }

    /// Uniform in `[low, high)`; `low` where the two are equal.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * unit(self.bits())
    }

    /// Uniform in `0..bound`. `bound` must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing can be drawn from an empty range");
        scale(self.bits(), bound)
    }
}

/// Uniform in `[0, 1)`, with 53 bits.
fn unit(bits: u64) -> f64 {
    const ULP: f64 = 1.0 / (1u64 << 53) as f64;
    (bits >> 11) as f64 * ULP
}

/// Domain of the draws, apart from the domains of the permutations.
const DRAWS: u64 = 0x6472_6177;

/// Folds `value` into `key`: a 64-bit keyed hash of a sequence when applied along it.
///
/// The finaliser is SplitMix64's (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(super) fn mix(key: u64, value: u64) -> u64 {
    finalise(key ^ finalise(value.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_epochs_slots_and_seeds_are_separate_streams() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..4 {
            for epoch in 0..4 {
                for slot in 0..64 {
                    for purpose in [Purpose::Mode, Purpose::Caption, Purpose::Crop, Purpose::Flip] {
                        assert!(seen.insert(Draws::new(seed).bits(epoch, slot, purpose)));
                    }
                }
            }
        }
    }

    #[test]
    fn unit_draws_have_the_mean_and_variance_of_the_uniform_distribution() {
        let draws = Draws::new(11);
        let values: Vec<f64> = (0..100_000).map(|slot| draws.unit(3, slot, Purpose::Mode)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        assert!((variance - 1.0 / 12.0).abs() < 0.002, "variance {variance}");
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
    }

    #[test]
    fn draws_of_a_stream_are_uniform_and_not_each_others_neighbours() {
        let mut seen = std::collections::HashSet::new();
        let mut sum = 0.0;
        for slot in 0..1000 {
            let mut stream = Draws::new(5).stream(0, slot, Purpose::Crop);
            for _ in 0..10 {
                let bits = stream.clone().bits();
                assert!(seen.insert(bits));
                sum += stream.between(2.0, 4.0);
            }
        }
        assert!((sum / 10_000.0 - 3.0).abs() < 0.03, "mean {}", sum / 10_000.0);
    }

    #[test]
    fn draws_stay_the_same_across_versions() {
        let draws = Draws::new(42);
        assert_eq!(draws.bits(0, 0, Purpose::Mode), 15_511_615_492_340_725_762);
        assert_eq!(draws.bits(3, 1_000_000, Purpose::Caption), 6_680_007_756_787_143_044);
        assert_eq!(draws.below(5, 3, 1_000_000, Purpose::Caption), 1);
    }
}
