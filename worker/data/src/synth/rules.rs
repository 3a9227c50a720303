//! What each level draws from.

use super::config::Level;
use super::vocabulary::{Colour, Relation, Shape, Texture};
use super::words::Typeface;

/// What a scene is composed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One object.
    Single,
    /// Two objects and their relation.
    Pair,
    /// One word.
    Word,
    /// A word and an object, one above the other.
    WordPair,
    /// A pair, and a third object beside both.
    Triple,
    /// A pair side by side, and a word above or below both.
    WordTriple,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Pair => "pair",
            Self::Word => "word",
            Self::WordPair => "word_pair",
            Self::Triple => "triple",
            Self::WordTriple => "word_triple",
        }
    }

    /// Whether several items are combined, so that the combination itself can be held out.
    pub(super) fn is_composed(self) -> bool {
        !matches!(self, Self::Single | Self::Word)
    }
}

/// Scenes in one turn of the fixed cycle of kinds.
const CYCLE: u64 = 20;

/// The choices of one level.
pub(super) struct Rules {
    /// How many scenes of each kind a cycle has; they sum to [`CYCLE`].
    kinds: &'static [(Kind, u64)],
    pub(super) shapes: &'static [Shape],
    pub(super) colours: &'static [Colour],
    pub(super) textures: &'static [Texture],
    /// How many words, from the start of [`super::words::WORDS`].
    pub(super) words: usize,
    pub(super) typefaces: &'static [Typeface],
    pub(super) max_captions: usize,
    /// Whether captions open, turn and front their sentences in different ways.
    pub(super) paraphrases: bool,
    /// Whether captions use other words for the same thing.
    pub(super) synonyms: bool,
    /// Largest deviation of a colour channel from its nominal value, of 255.
    pub(super) colour_jitter: f32,
    /// Largest rotation of an object, in degrees.
    pub(super) rotation: f32,
    /// Whether objects come in two exact sizes and a lone object stands on a grid of eighths, the patches of the preset
    /// `tiny`: shapes are then learned within minutes.
    pub(super) regular: bool,
    /// The relations that two objects may be said to be in. Where the left or the upper one is always named first, as people read, what to
    /// name first teaches where things are; in any order a small network has to learn both at once, and stays at chance.
    pub(super) relations: &'static [Relation],
    /// Largest deviation of a pixel's channel, of 255, and whether the background has a gradient.
    pub(super) noise: f32,
}

const EASY: Rules = Rules {
    kinds: &[(Kind::Single, 8), (Kind::Pair, 10), (Kind::Word, 2)],
    shapes: Shape::ALL.split_at(6).0,
    colours: Colour::ALL.split_at(8).0,
    textures: &[Texture::Plain],
    words: 16,
    typefaces: &[Typeface::Sans],
    max_captions: 1,
    paraphrases: false,
    synonyms: false,
    colour_jitter: 8.0,
    rotation: 0.0,
    regular: true,
    relations: &[Relation::LeftOf, Relation::Above],
    noise: 0.0,
};

const MEDIUM: Rules = Rules {
    kinds: &[(Kind::Single, 4), (Kind::Pair, 7), (Kind::Word, 2), (Kind::WordPair, 3), (Kind::Triple, 4)],
    shapes: Shape::ALL,
    colours: Colour::ALL,
    textures: &[Texture::Plain, Texture::Plain, Texture::Striped, Texture::Dotted],
    words: 32,
    typefaces: &[Typeface::Sans, Typeface::Serif],
    max_captions: 3,
    paraphrases: true,
    synonyms: false,
    colour_jitter: 12.0,
    rotation: 12.0,
    regular: false,
    relations: Relation::ALL,
    noise: 0.0,
};

const HARD: Rules = Rules {
    kinds: &[
        (Kind::Single, 2),
        (Kind::Pair, 5),
        (Kind::Word, 2),
        (Kind::WordPair, 4),
        (Kind::Triple, 5),
        (Kind::WordTriple, 2),
    ],
    textures: Texture::ALL,
    words: 48,
    typefaces: &Typeface::ALL,
    max_captions: 5,
    synonyms: true,
    colour_jitter: 16.0,
    rotation: 16.0,
    noise: 10.0,
    ..MEDIUM
};

impl Rules {
    pub(super) fn of(level: Level) -> &'static Self {
        match level {
            Level::Easy => &EASY,
            Level::Medium => &MEDIUM,
            Level::Hard => &HARD,
        }
    }

    /// Whether there are scenes of the kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|(of, _)| *of == kind)
    }

    /// The kind of the scene at `index` of a split, and how many scenes of this kind come before it.
    ///
    /// Kinds follow a fixed cycle and classes follow the ordinal, so that every prefix of a split has the same mixture
    /// and a held-out split of any size is balanced.
    pub(super) fn kind(&self, index: u64) -> (Kind, u64) {
        let (turn, place) = (index / CYCLE, index % CYCLE);
        let kind = self.kind_at(place);
        let per_turn = (0..CYCLE).filter(|&other| self.kind_at(other) == kind).count() as u64;
        let before = (0..place).filter(|&other| self.kind_at(other) == kind).count() as u64;
        (kind, turn * per_turn + before)
    }

    fn kind_at(&self, place: u64) -> Kind {
        // A stride coprime to the cycle interleaves the kinds.
        let mut slot = place * 7 % CYCLE;
        for &(kind, count) in self.kinds {
            if slot < count {
                return kind;
            }
            slot -= count;
        }
        unreachable!("the counts of the kinds sum to the cycle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_every_level_fill_the_cycle() {
        for level in Level::ALL {
            let rules = Rules::of(level);
            assert_eq!(rules.kinds.iter().map(|(_, count)| count).sum::<u64>(), CYCLE, "{level}");
            let singles = (0..1200).filter(|&index| rules.kind(index).0 == Kind::Single).count() as u64;
            assert_eq!(singles, 60 * rules.kinds[0].1, "{level}");
        }
    }

    #[test]
    fn ordinals_count_the_scenes_of_a_kind() {
        let rules = Rules::of(Level::Easy);
        let ordinals = (0..200).map(|index| rules.kind(index)).filter(|(kind, _)| *kind == Kind::Word).map(|(_, n)| n);
        assert!(ordinals.eq(0..20));
    }
}
