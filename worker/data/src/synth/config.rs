//! What a corpus is asked for, checked before anything is written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SynthError;

/// How hard the scenes are to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One plain object (8 colours, 6 shapes, 2 sizes) in 40 % of the pictures, two in 50 %, of which the left or the upper
    /// one is named first, and one of 16 words in a colour in 10 %; one caption of a fixed grammar.
    Easy,
    /// Up to three objects, words beside objects, 10 colours, 8 shapes, stripes and dots; 1–3 captions.
    Medium,
    /// As medium, with more words and typefaces, checks, uneven and noisy backgrounds; 1–5 captions with synonyms.
    Hard,
}

impl Level {
    /// All levels, the easiest first.
    pub const ALL: [Self; 3] = [Self::Easy, Self::Medium, Self::Hard];

    /// The name as configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = |level: &Self| level.name() == name;
        Self::ALL.into_iter().find(known).ok_or_else(|| format!("unknown level `{name}`: use easy, medium or hard"))
    }
}

/// The two parts of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What a model is trained on.
    Train = 1,
    /// What it is measured on.
    Heldout = 2,
}

impl Split {
    /// The prefix of the split's shards.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Heldout => "heldout",
        }
    }
}

/// A corpus, completely: equal configurations give byte-identical shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynthConfig {
    /// How hard the scenes are.
    pub level: Level,
    /// Number of training samples.
    pub samples: u64,
    /// Number of held-out samples.
    pub heldout: u64,
    /// Width and height of the pictures, in pixels.
    pub image_size: u32,
    /// Samples in a shard; the last shard of a split may have fewer.
    pub samples_per_shard: u64,
    /// Of the draws. The split of a composition does not depend on it, see [`super`].
    pub seed: u64,
}

impl Default for SynthConfig {
    /// What the demo trains on.
    fn default() -> Self {
        Self { level: Level::Easy, samples: 20_000, heldout: 1_200, image_size: 64, samples_per_shard: 1_000, seed: 0 }
    }
}

impl SynthConfig {
    /// The bounds of [`SynthConfig::image_size`]: below, words are not legible; above, a sample takes over 100 ms.
    pub const IMAGE_SIZES: std::ops::RangeInclusive<u32> = 48..=1024;
    /// The bounds of [`SynthConfig::samples_per_shard`].
    pub const SHARD_SIZES: std::ops::RangeInclusive<u64> = 1..=100_000;
    /// Shard numbers have six digits.
    const MAX_SHARDS: u64 = 1_000_000;

    pub(super) fn samples(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.samples,
            Split::Heldout => self.heldout,
        }
    }

    pub(super) fn shards(&self, split: Split) -> u64 {
        self.samples(split).div_ceil(self.samples_per_shard)
    }

    pub(super) fn check(&self) -> Result<(), SynthError> {
        let mut problems = Vec::new();
        if self.samples == 0 && self.heldout == 0 {
            problems.push("samples and heldout are both 0: ask for at least one sample".to_owned());
        }
        let (size, sizes) = (self.image_size, Self::IMAGE_SIZES);
        if !sizes.contains(&size) {
            problems.push(format!("image_size is {size}: use {} to {}", sizes.start(), sizes.end()));
        }
        let (per_shard, bounds) = (self.samples_per_shard, Self::SHARD_SIZES);
        if !bounds.contains(&per_shard) {
            problems.push(format!("samples_per_shard is {per_shard}: use {} to {}", bounds.start(), bounds.end()));
        } else if [Split::Train, Split::Heldout].into_iter().any(|split| self.shards(split) > Self::MAX_SHARDS) {
            problems.push(format!("more than {} shards: raise samples_per_shard", Self::MAX_SHARDS));
        }
        if problems.is_empty() { Ok(()) } else { Err(SynthError::Config { problems }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_of_a_configuration_are_named_at_once() {
        let wrong = SynthConfig { samples: 0, heldout: 0, image_size: 8, samples_per_shard: 0, ..Default::default() };
        let Err(SynthError::Config { problems }) = wrong.check() else { panic!("accepted") };
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(SynthConfig::default().check().is_ok());
    }

    #[test]
    fn a_level_is_read_by_its_name() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("tiny".parse::<Level>().is_err());
    }
}
