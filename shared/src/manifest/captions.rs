//! How many captions every sample of a shard has, in few bits, and which (image, caption) pair is the n-th.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::bits::{BitReader, BitWriter};

/// The numbers of captions of a shard's used samples, in their order.
///
/// A sample without a caption that can be read counts as one with a single caption: it is met once, found bad and quarantined
/// instead of silently left out.
///
/// It is written as runs of equal numbers: the number, then the length of the run, each as an
/// [Elias gamma code](https://doi.org/10.1109/TIT.1975.1055349), the last byte filled up with zeros, all of it in base64url
/// without padding. That is a few bytes where all samples have equally many, and about four bits a sample before base64 where they
/// have one to five at random.
#[derive(Clone, PartialEq, Eq)]
pub struct CaptionCounts {
    code: Box<[u8]>,
    samples: u32,
    captions: u32,
}

impl CaptionCounts {
    /// Those of samples in order; nothing where the captions are more than 32 bits can count.
    pub fn from_counts(counts: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let (mut samples, mut captions) = (0u32, 0u32);
        for count in counts.into_iter().map(|count| count.max(1)) {
            samples = samples.checked_add(1)?;
            captions = captions.checked_add(count)?;
            match runs.last_mut() {
                Some((last, length)) if *last == count => *length += 1,
                _ => runs.push((count, 1)),
            }
        }
        Some(Self { code: encode(&runs), samples, captions })
    }

    /// Reads what [`CaptionCounts`] displays as.
    ///
    /// # Errors
    /// A message, where the text is no such code.
    pub fn parse(text: &str) -> Result<Self, String> {
        let code = URL_SAFE_NO_PAD.decode(text).map_err(|error| format!("is not base64url: {error}"))?;
        let parsed = Self { code: code.into_boxed_slice(), samples: 0, captions: 0 };
        let runs: Vec<(u32, u32)> = parsed.runs().collect();
        let sum = |term: fn(&(u32, u32)) -> Option<u32>| {
            runs.iter().map(term).try_fold(0u32, |sum, term| sum.checked_add(term?))
        };
        let sums = sum(|(_, length)| Some(*length)).zip(sum(|(count, length)| count.checked_mul(*length)));
        let (samples, captions) = sums.ok_or("counts more captions than a shard can hold")?;
        // There is one way to write the numbers, so that equal ones have equal digests.
        let is_shortest = runs.windows(2).all(|pair| pair[0].0 != pair[1].0);
        if !is_shortest || parsed.code != encode(&runs) {
            return Err("is no code of numbers of captions".into());
        }
        Ok(Self { samples, captions, ..parsed })
    }

    /// Samples that are counted.
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// Captions of all samples together: the shard's (image, caption) pairs.
    pub fn captions(&self) -> u32 {
        self.captions
    }

    /// The number of every sample, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs().flat_map(|(count, length)| std::iter::repeat_n(count, length as usize))
    }

    /// The pairs of images and captions, in order.
    pub fn pairs(&self) -> Pairs {
        let next = |end: &mut u32, count: u32| {
            *end += count;
            Some(*end)
        };
        Pairs { ends: self.iter().scan(0, next).collect() }
    }

    /// The runs in order: the number of captions, and how many samples in a row have it.
    fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut bits = BitReader::new(&self.code);
        std::iter::from_fn(move || Some((bits.gamma()?, bits.gamma()?)))
    }
}

fn encode(runs: &[(u32, u32)]) -> Box<[u8]> {
    let mut bits = BitWriter::default();
    for &(count, length) in runs {
        bits.gamma(count);
        bits.gamma(length);
    }
    bits.into_bytes()
}

impl fmt::Display for CaptionCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.code))
    }
}

impl fmt::Debug for CaptionCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaptionCounts({} of {} samples)", self.captions, self.samples)
    }
}

/// The (image, caption) pairs of a shard, numbered through: sample after sample, caption after caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// Of every sample, one more than the number of its last pair.
    ends: Vec<u32>,
}

impl Pairs {
    /// The `n`-th pair: which of the used samples, and which of its captions, both from zero. Nothing past the last.
    pub fn get(&self, n: u32) -> Option<(u32, u32)> {
        let sample = self.ends.partition_point(|&end| end <= n);
        let before = sample.checked_sub(1).map_or(0, |last| self.ends[last]);
        (sample < self.ends.len()).then(|| (u32::try_from(sample).expect("samples are counted in 32 bits"), n - before))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Rank, Step};
    use crate::order::{SampleOrder, lanes_of_rank};

    fn shard() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(prop_oneof![Just(0u32), Just(5u32), 1u32..7], 0..60)
    }

    proptest! {
        #[test]
        fn the_numbers_survive_writing(counts in shard()) {
            let written = CaptionCounts::from_counts(counts.iter().copied()).unwrap();
            let read = CaptionCounts::parse(&written.to_string()).unwrap();
            prop_assert_eq!(&read, &written);
            let expected: Vec<u32> = counts.iter().map(|&count| count.max(1)).collect();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!((read.samples() as usize, read.captions()), (counts.len(), expected.iter().sum::<u32>()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9_=-]{0,40}") {
            if let Ok(counts) = CaptionCounts::parse(&text) {
                prop_assert_eq!(counts.to_string(), text);
            }
        }

        /// The order over every caption: each pair of an image and one of its captions comes once per epoch, whoever computes it.
        #[test]
        fn every_caption_of_every_image_comes_once_per_epoch_for_every_world_size(
            shards in prop::collection::vec(shard(), 1..8), seed: u64, lanes in 1u32..20, window in 1u32..5,
            per_lane in 1u64..4, epoch in 0u64..3, world_size in 1u32..9,
        ) {
            let counts: Vec<_> =
                shards.iter().map(|shard| CaptionCounts::from_counts(shard.iter().copied()).unwrap()).collect();
            let pairs: Vec<Pairs> = counts.iter().map(CaptionCounts::pairs).collect();
            prop_assume!(counts.iter().any(|counts| counts.captions() > 0));
            let of_shards = counts.iter().map(CaptionCounts::captions).collect();
            let order = SampleOrder::new(of_shards, seed, lanes, window).unwrap();
            let steps = order.steps(per_lane * u64::from(lanes)).unwrap();
            let of_epoch = order.epoch(epoch);
            let mut met = HashSet::new();
            for offset in 0..steps.per_epoch() {
                let position = steps.position(Step(epoch * steps.per_epoch() + offset));
                for rank in (0..world_size).map(Rank) {
                    for slot in steps.batch(&of_epoch, position, lanes_of_rank(rank, world_size, lanes)) {
                        let Some(found) = slot.sample else { continue };
                        let pair = pairs[found.shard as usize].get(found.index);
                        let (sample, caption) = pair.expect("the order stays within a shard's pairs");
                        prop_assert!(met.insert((found.shard, sample, caption)), "{:?} came twice", pair);
                    }
                }
            }
            let mut expected = HashSet::new();
            for (shard, samples) in (0u32..).zip(&shards) {
                for (sample, &count) in (0u32..).zip(samples) {
                    expected.extend((0..count.max(1)).map(|caption| (shard, sample, caption)));
                }
            }
            prop_assert_eq!(met, expected);
        }
    }

    #[test]
    fn pairs_end_with_the_last_caption() {
        let pairs = CaptionCounts::from_counts([2, 0, 3]).unwrap().pairs();
        let found: Vec<_> = (0..7).map(|n| pairs.get(n)).collect();
        let expected = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)].map(Some);
        assert_eq!(found, [&expected[..], &[None]].concat());
        assert_eq!(CaptionCounts::from_counts([]).unwrap().pairs().get(0), None);
    }

    #[test]
    fn the_numbers_take_few_bytes() {
        let five_each = CaptionCounts::from_counts((0..10_000).map(|_| 5)).unwrap();
        assert!(five_each.to_string().len() < 10, "{five_each}");
        let mixed = CaptionCounts::from_counts((0..10_000u32).map(|n| n.wrapping_mul(2_654_435_761) % 5 + 1)).unwrap();
        assert!(mixed.to_string().len() * 6 < 45_000, "{} bits", mixed.to_string().len() * 6);
    }

    #[test]
    fn a_code_of_billions_of_captions_is_refused_without_spelling_them_out() {
        let code = encode(&[(u32::MAX, 1), (7, u32::MAX)]);
        assert!(CaptionCounts::parse(&URL_SAFE_NO_PAD.encode(code)).is_err());
        assert_eq!(CaptionCounts::from_counts([u32::MAX, 1]), None);
    }
}
