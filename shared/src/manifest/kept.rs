//! Which samples of a shard a filter kept, in few bits.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::bits::{BitReader, BitWriter};

/// The samples of a shard that a filter kept, by their index among all samples of the shard.
///
/// It is written as the lengths of the runs of kept and of dropped samples: a bit that says whether the first run is kept, then
/// each length as an [Elias gamma code](https://doi.org/10.1109/TIT.1975.1055349), most significant bit first, the last byte
/// filled up with zeros, all of it in base64url without padding. That is at most 1.5 bits a sample before base64, 1.2 where half
/// of them are kept at random, and a few bytes where most are kept or dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    code: Box<[u8]>,
    kept: u32,
    of: u32,
}

impl Kept {
    /// Those whose flag is set, of as many samples as there are flags; nothing where they are more than 32 bits can count.
    pub fn from_flags(flags: impl IntoIterator<Item = bool>) -> Option<Self> {
        let mut runs: Vec<u32> = Vec::new();
        let (mut first, mut last) = (true, None);
        let (mut kept, mut of) = (0u32, 0u32);
        for flag in flags {
            of = of.checked_add(1)?;
            kept += u32::from(flag);
            match runs.last_mut() {
                Some(run) if last == Some(flag) => *run += 1,
                _ => runs.push(1),
            }
            first = if of == 1 { flag } else { first };
            last = Some(flag);
        }
        Some(Self { code: encode(first, &runs), kept, of })
    }

    /// Reads what [`Kept`] displays as.
    ///
    /// # Errors
    /// A message, where the text is no such code.
    pub fn parse(text: &str) -> Result<Self, String> {
        let code = URL_SAFE_NO_PAD.decode(text).map_err(|error| format!("is not base64url: {error}"))?;
        let mut parsed = Self { code: code.into_boxed_slice(), kept: 0, of: 0 };
        let (mut kept, mut of) = (0u32, 0u32);
        let mut runs = Vec::new();
        for (keeps, length) in parsed.runs() {
            of = of.checked_add(length).ok_or("counts more samples than a shard can hold")?;
            kept += if keeps { length } else { 0 };
            runs.push(length);
        }
        (parsed.kept, parsed.of) = (kept, of);
        // There is one way to write a set, so that equal sets have equal digests.
        let first = parsed.runs().next().is_none_or(|(keeps, _)| keeps);
        if parsed.code != encode(first, &runs) {
            return Err("is no code of runs of kept samples".into());
        }
        Ok(parsed)
    }

    /// Samples that are kept.
    pub fn len(&self) -> u32 {
        self.kept
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.kept == 0
    }

    /// Samples in the shard, kept or not.
    pub fn of(&self) -> u32 {
        self.of
    }

    /// Indices in the shard of the kept samples, in order: the n-th is that of the n-th sample that the order counts.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let mut next = 0;
        self.runs().flat_map(move |(keeps, length)| {
            let run = next..next + length;
            next = run.end;
            if keeps { run } else { 0..0 }
        })
    }

    /// Index in the shard of the `n`-th kept sample; nothing from [`Kept::len`] on.
    pub fn index_in_shard(&self, n: u32) -> Option<u32> {
        let (mut start, mut before) = (0, 0);
        for (keeps, length) in self.runs() {
            if keeps && n - before < length {
                return Some(start + n - before);
            }
            before += if keeps { length } else { 0 };
            start += length;
        }
        None
    }

    /// The runs in order: whether they are kept, and how long they are.
    fn runs(&self) -> impl Iterator<Item = (bool, u32)> + '_ {
        let mut bits = BitReader::new(&self.code);
        let mut keeps = !bits.bit().unwrap_or(false);
        std::iter::from_fn(move || {
            keeps = !keeps;
            bits.gamma().map(|length| (keeps, length))
        })
    }
}

/// The code of runs of these lengths, by turns kept and dropped, beginning with kept ones where `first` says so.
fn encode(first: bool, runs: &[u32]) -> Box<[u8]> {
    let mut bits = BitWriter::default();
    if !runs.is_empty() {
        bits.bit(first);
        runs.iter().for_each(|&length| bits.gamma(length));
    }
    bits.into_bytes()
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.code))
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} of {})", self.kept, self.of)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_kept_survives_writing_and_is_found_by_its_place(flags in prop::collection::vec(any::<bool>(), 0..300)) {
            let kept = Kept::from_flags(flags.iter().copied()).unwrap();
            let expected: Vec<u32> = (0..).zip(&flags).filter(|(_, flag)| **flag).map(|(index, _)| index).collect();
            prop_assert_eq!(Kept::parse(&kept.to_string()).unwrap(), kept.clone());
            prop_assert_eq!(kept.indices().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!((kept.len() as usize, kept.of() as usize), (expected.len(), flags.len()));
            for (n, &index) in (0..).zip(&expected) {
                prop_assert_eq!(kept.index_in_shard(n), Some(index));
            }
            prop_assert_eq!(kept.index_in_shard(kept.len()), None);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9_=-]{0,40}") {
            if let Ok(kept) = Kept::parse(&text) {
                prop_assert_eq!(kept.to_string(), text);
            }
        }
    }

    #[test]
    fn a_set_takes_few_bytes() {
        let all = Kept::from_flags((0..10_000).map(|_| true)).unwrap();
        assert!(all.to_string().len() < 10, "{all}");
        let alternating = Kept::from_flags((0..10_000).map(|n| n % 2 == 0)).unwrap();
        assert!(alternating.to_string().len() * 6 <= 10_008, "{}", alternating.to_string().len());
    }

    #[test]
    fn a_code_of_billions_of_samples_is_refused_without_spelling_them_out() {
        let mut bits = BitWriter::default();
        (0..4).for_each(|_| bits.gamma(u32::MAX - 1));
        assert!(Kept::parse(&URL_SAFE_NO_PAD.encode(bits.into_bytes())).is_err());
    }
}
