//! What a picture shows, before anything is said about it or drawn.

use super::config::Split;
use super::layout::{self, Place};
use super::rng::{Rng, fold};
use super::rules::{Kind, Rules};
use super::vocabulary::{Colour, Relation, Shape, Size, Texture};
use super::words::Typeface;

/// One in this many compositions is held out.
const HELDOUT_SHARE: u64 = 8;
/// Draws of an object that is to be added: one in eight makes a combination that is held out.
const ADDITIONS: usize = 100;

/// What an item is, apart from its colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Content {
    Object {
        shape: Shape,
        size: Size,
        texture: Texture,
    },
    /// `WORDS[word]`.
    Word {
        word: usize,
        typeface: Typeface,
    },
}

impl Content {
    /// The noun: the shape or the word. Two items of one noun are told apart by colour only.
    pub(super) fn noun(self) -> (bool, usize) {
        match self {
            Self::Object { shape, .. } => (false, shape as usize),
            Self::Word { word, .. } => (true, word),
        }
    }

    pub(super) fn is_word(self) -> bool {
        matches!(self, Self::Word { .. })
    }
}

/// An object or a word, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) content: Content,
    pub(super) colour: Colour,
    pub(super) place: Place,
    /// Clockwise rotation, in degrees.
    pub(super) angle: f32,
}

/// A scene: one to three items.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scene {
    pub(super) kind: Kind,
    pub(super) items: Vec<Item>,
    /// Of the first item to the second.
    pub(super) relation: Option<Relation>,
    /// Of the third item to both others.
    pub(super) third: Option<Relation>,
}

impl Scene {
    /// Draws the scene at `index` of a split.
    pub(super) fn draw(rules: &Rules, split: Split, index: u64, rng: &mut Rng) -> Self {
        let (kind, ordinal) = rules.kind(index);
        let items = loop {
            let items = draw_items(rules, kind, ordinal, rng);
            // One draw in eight is held out, so this ends after eight rounds on average, at most.
            if !kind.is_composed() || split_of(&items) == split {
                break items;
            }
        };
        let (relation, third) = draw_relations(rules, kind, &items, rng);
        let mut scene = Self { kind, items, relation, third };
        layout::arrange(&mut scene, rules.regular, rng);
        scene
    }

    /// The same scene with the colours of the first two items exchanged, as something to say, not to draw.
    ///
    /// None where that could still be true of the picture: equal colours, or equal nouns.
    pub(super) fn with_attributes_exchanged(&self) -> Option<Self> {
        let [first, second, ..] = self.items.as_slice() else {
            return None;
        };
        if first.colour == second.colour || first.content.noun() == second.content.noun() {
            return None;
        }
        let mut scene = self.clone();
        scene.items[0].colour = second.colour;
        scene.items[1].colour = first.colour;
        Some(scene)
    }

    /// The same scene with the first two items in each other's place, as something to say, not to draw: the same words in another
    /// relation (the form of ARO's relations).
    pub(super) fn with_relation_reversed(&self) -> Option<Self> {
        self.relation?;
        let mut scene = self.clone();
        scene.items.swap(0, 1);
        Some(scene)
    }

    /// The scenes, as something to say, in which one noun or one colour of this one is another that nothing in it has; in a drawn
    /// order, and of combinations of the same split, so that no false caption is better known than the true one.
    pub(super) fn with_one_replaced(&self, rules: &Rules, split: Split, rng: &mut Rng) -> Vec<Self> {
        let mut changed = Vec::new();
        for (place, item) in self.items.iter().enumerate() {
            let nouns = match item.content {
                Content::Object { size, texture, .. } => {
                    let shapes = rules.shapes.iter();
                    shapes.map(|&shape| Content::Object { shape, size, texture }).collect::<Vec<_>>()
                }
                Content::Word { typeface, .. } => {
                    (0..rules.words).map(|word| Content::Word { word, typeface }).collect()
                }
            };
            let nouns =
                nouns.into_iter().filter(|content| self.items.iter().all(|i| i.content.noun() != content.noun()));
            let colours = rules.colours.iter().filter(|colour| self.items.iter().all(|i| i.colour != **colour));
            let items = nouns.map(|content| Item { content, ..item.clone() });
            let items = items.chain(colours.map(|&colour| Item { colour, ..item.clone() }));
            changed.extend(items.map(|item| {
                let mut scene = self.clone();
                scene.items[place] = item;
                scene
            }));
        }
        changed.retain(|scene| !self.kind.is_composed() || split_of(&scene.items) == split);
        for last in (1..changed.len()).rev() {
            changed.swap(last, rng.below(last + 1));
        }
        changed
    }

    /// The same scene with one object more, which is of another shape than all in it, as something to say: a lone object becomes
    /// a pair, and where the level has them, a pair a triple. Of a combination of the split, as scenes of that kind are.
    pub(super) fn with_one_added(&self, rules: &Rules, split: Split, rng: &mut Rng) -> Option<Self> {
        let makes_triple = match self.kind {
            Kind::Single => false,
            Kind::Pair if rules.has(Kind::Triple) => true,
            _ => return None,
        };
        (0..ADDITIONS).find_map(|_| {
            let (item, is_first) = (any_object(rules, rng), rng.chance(0.5));
            let is_new = self.items.iter().all(|other| other.content.noun() != item.content.noun());
            let mut scene = self.clone();
            match (makes_triple, self.relation) {
                (true, Some(relation)) => {
                    scene.items.push(item);
                    scene.third = Some(rng.pick(&relation.across()));
                }
                _ => {
                    scene.items.insert(usize::from(!is_first), item);
                    scene.relation = Some(rng.pick(rules.relations));
                }
            }
            (is_new && split_of(&scene.items) == split).then_some(scene)
        })
    }
}

fn draw_items(rules: &Rules, kind: Kind, ordinal: u64, rng: &mut Rng) -> Vec<Item> {
    match kind {
        Kind::Single => {
            let class = (ordinal % (rules.shapes.len() * rules.colours.len()) as u64) as usize;
            let shape = rules.shapes[class % rules.shapes.len()];
            vec![object(rules, shape, rules.colours[class / rules.shapes.len()], rng)]
        }
        Kind::Word => vec![word(rules, (ordinal % rules.words as u64) as usize, rng)],
        Kind::Pair => draw_pair(rules, rng),
        Kind::WordPair => {
            let mut items = vec![any_word(rules, rng), any_object(rules, rng)];
            if rng.chance(0.5) {
                items.swap(0, 1);
            }
            items
        }
        Kind::Triple => draw_distinct_shapes(rules, 3, rng),
        Kind::WordTriple => {
            let mut items = draw_distinct_shapes(rules, 2, rng);
            items.push(any_word(rules, rng));
            items
        }
    }
}

/// Two objects that differ in colour or shape, so that a caption can tell them apart without their sizes.
fn draw_pair(rules: &Rules, rng: &mut Rng) -> Vec<Item> {
    loop {
        let (first, second) = (any_object(rules, rng), any_object(rules, rng));
        if first.colour != second.colour || first.content.noun() != second.content.noun() {
            return vec![first, second];
        }
    }
}

/// Objects of pairwise different shapes: with three, an exchange of colours is only surely false if no other has the shape.
fn draw_distinct_shapes(rules: &Rules, count: usize, rng: &mut Rng) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::with_capacity(count);
    while items.len() < count {
        let item = any_object(rules, rng);
        if items.iter().all(|other| other.content.noun() != item.content.noun()) {
            items.push(item);
        }
    }
    items
}

fn any_object(rules: &Rules, rng: &mut Rng) -> Item {
    let (shape, colour) = (rng.pick(rules.shapes), rng.pick(rules.colours));
    object(rules, shape, colour, rng)
}

fn object(rules: &Rules, shape: Shape, colour: Colour, rng: &mut Rng) -> Item {
    let (size, texture) = (rng.pick(Size::ALL), rng.pick(rules.textures));
    let angle = rng.range(-rules.rotation, rules.rotation);
    Item { content: Content::Object { shape, size, texture }, colour, place: Place::default(), angle }
}

fn any_word(rules: &Rules, rng: &mut Rng) -> Item {
    let index = rng.below(rules.words);
    word(rules, index, rng)
}

fn word(rules: &Rules, word: usize, rng: &mut Rng) -> Item {
    let (typeface, colour) = (rng.pick(rules.typefaces), rng.pick(rules.colours));
    Item { content: Content::Word { word, typeface }, colour, place: Place::default(), angle: 0.0 }
}

fn draw_relations(rules: &Rules, kind: Kind, items: &[Item], rng: &mut Rng) -> (Option<Relation>, Option<Relation>) {
    let relation = match kind {
        Kind::Single | Kind::Word => return (None, None),
        Kind::Pair | Kind::Triple => rng.pick(rules.relations),
        // A word is as wide as the picture, nearly: nothing fits beside it.
        Kind::WordPair => rng.pick(&[Relation::Above, Relation::Below]),
        Kind::WordTriple => rng.pick(&[Relation::LeftOf, Relation::RightOf]),
    };
    let third = (items.len() > 2).then(|| rng.pick(&relation.across()));
    (Some(relation), third)
}

/// The split that a combination of items belongs to, whatever the seed.
///
/// Only which nouns and which colours occur decides, not which noun has which colour or where it is. An exchanged
/// caption therefore falls into the same split as the right one, and a model that knows the training captions by
/// heart gains nothing by it.
pub(super) fn split_of(items: &[Item]) -> Split {
    let mut nouns: Vec<_> = items.iter().map(|item| item.content.noun()).collect();
    let mut colours: Vec<_> = items.iter().map(|item| item.colour).collect();
    nouns.sort_unstable();
    colours.sort_unstable();
    let noun_codes = nouns.into_iter().map(|(is_word, index)| 2 * index as u64 + u64::from(is_word));
    let colour_codes = colours.into_iter().map(|colour| colour as u64);
    let hash = noun_codes.chain(colour_codes).fold(0, fold);
    if hash % HELDOUT_SHARE == 0 { Split::Heldout } else { Split::Train }
}
