//! A counter-based generator, keyed by what is drawn rather than by who draws it.
//!
//! Every sample owns its own sequences, so a corpus does not depend on how many threads rendered it or in which
//! order. The function is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
//! OOPSLA 2014): the n-th draw is a bijective mix of `key + n * GOLDEN`.

use super::Split;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: every input bit reaches every output bit.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Folds one more value into a hash.
pub(super) fn fold(hash: u64, value: u64) -> u64 {
    mix((hash ^ value).wrapping_add(GOLDEN))
}

/// What a sequence is drawn for. A change of the captions then leaves the pictures as they were.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Scene = 1,
    Captions = 2,
    Pixels = 3,
    Questions = 4,
    Negatives = 5,
}

/// One sequence of draws of one sample.
#[derive(Clone, Debug)]
pub(super) struct Rng {
    key: u64,
    drawn: u64,
}

impl Rng {
    pub(super) fn new(seed: u64, split: Split, index: u64, stream: Stream) -> Self {
        let key = [split as u64, index, stream as u64].into_iter().fold(mix(seed.wrapping_add(GOLDEN)), fold);
        Self { key, drawn: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.key.wrapping_add(self.drawn.wrapping_mul(GOLDEN)))
    }

    /// Uniform over `0..bound`; the bias of the multiplication is below 2⁻⁵⁰ for the bounds used here.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Uniform over `[0, 1)`, in steps that an `f32` holds exactly.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform over `[low, high)`; `low` where the range is empty.
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + self.unit() * (high - low).max(0.0)
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    pub(super) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed: u64, split: Split, index: u64, stream: Stream) -> Vec<u64> {
        let mut rng = Rng::new(seed, split, index, stream);
        (0..8).map(|_| rng.next()).collect()
    }

    #[test]
    fn every_part_of_the_key_changes_the_sequence() {
        let base = draws(1, Split::Train, 2, Stream::Scene);
        assert_eq!(base, draws(1, Split::Train, 2, Stream::Scene));
        assert_ne!(base, draws(3, Split::Train, 2, Stream::Scene));
        assert_ne!(base, draws(1, Split::Heldout, 2, Stream::Scene));
        assert_ne!(base, draws(1, Split::Train, 3, Stream::Scene));
        assert_ne!(base, draws(1, Split::Train, 2, Stream::Pixels));
    }

    #[test]
    fn draws_are_uniform() {
        let mut rng = Rng::new(7, Split::Train, 0, Stream::Scene);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[rng.below(10)] += 1;
        }
        assert!(counts.iter().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
        let mean = (0..100_000).map(|_| f64::from(rng.unit())).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
    }
}
