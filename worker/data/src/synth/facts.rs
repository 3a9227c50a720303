//! What is written beside each picture, and beside the shards, for evaluations to read.

use serde::{Deserialize, Serialize};

use super::grammar::{self, Said};
use super::questions::Asked;
use super::rules::{Kind, Rules};
use super::scene::{Content, Item, Scene};
use super::words::WORDS;

/// The `.json` of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// True captions, all different; the first one is also the sample's `.txt`.
    pub captions: Vec<String>,
    /// `single`, `pair`, `word`, `word_pair`, `triple` or `word_triple`.
    pub kind: String,
    /// The shapes, in the order in which they are related.
    pub objects: Vec<ObjectFacts>,
    /// The words that can be read in the picture.
    pub words: Vec<String>,
    /// How and where those words are drawn, in the same order.
    pub texts: Vec<TextFacts>,
    /// Where the first item lies, seen from the second: `left of`, `right of`, `above` or `below`.
    /// The items are the objects; in a `word_pair` they are the object and the word, see [`Facts::word_first`].
    pub relation: Option<String>,
    /// Where the third item lies, seen from both others.
    pub third_relation: Option<String>,
    /// Whether the word is the first item of the relation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub word_first: bool,
    /// Colour and shape of the only object; absent in other scenes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The only thing in the picture, if that is a word; absent in other scenes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<String>,
    /// Such as `what colour is the star?`, `what shape is red?`, `what word is written?` or `is the star above the ring?`.
    pub question: String,
    /// The right answer: a colour, a shape, the word as it is drawn, `yes` or `no`.
    pub answer: String,
    /// Captions that are false of the picture.
    pub negatives: Negatives,
}

/// An object, in canonical words; lengths are fractions of the picture's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectFacts {
    /// Such as `star`.
    pub shape: String,
    /// Such as `red`.
    pub colour: String,
    /// `small` or `large`.
    pub size: String,
    /// `plain`, `striped`, `dotted` or `checked`.
    pub texture: String,
    /// Of the centre, from the left.
    pub x: f32,
    /// Of the centre, from the top.
    pub y: f32,
    /// Of the circle around the object.
    pub radius: f32,
}

/// A rendered word; lengths are fractions of the picture's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextFacts {
    /// As it is drawn and as captions spell it.
    pub word: String,
    /// Such as `red`.
    pub colour: String,
    /// Of the centre, from the left.
    pub x: f32,
    /// Of the centre, from the top.
    pub y: f32,
    /// Of the box around the letters.
    pub width: f32,
    /// Of the box around the letters.
    pub height: f32,
}

/// False captions, in the words and the grammar of the first true one. One is absent where the change would not make
/// the caption false, or would not change it. The kinds are those of SugarCrepe (Hsieh et al., arXiv 2306.14610): swap (of attributes),
/// replace, add; and the relation of ARO (Yuksekgonul et al., arXiv 2210.01936).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Negatives {
    /// The colours of the first two items exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// The first two items in each other's place, which reverses their relation in the same words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// A colour, a shape or a word replaced by one that is not in the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<String>,
    /// An object added that is not in the picture: to a lone one, or at the levels that have three items, to a pair. It is longer than the true one, so
    /// a blind decoder tells them apart: report its number beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<String>,
}

/// `classes.json`: what zero-shot classification scores. The n-th prompt is the caption of the n-th label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classes {
    /// Every value of [`Facts::class`]: each colour with each shape.
    pub class: Vec<String>,
    /// Every value of [`Facts::word`].
    pub word: Vec<String>,
    /// The captions of both.
    pub prompts: Prompts,
}

/// Captions of the classes, of the form that training captions have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompts {
    /// For [`Classes::class`], such as `a red star`.
    pub class: Vec<String>,
    /// For [`Classes::word`], such as `the word MOON`.
    pub word: Vec<String>,
}

impl Classes {
    pub(super) fn of(rules: &Rules) -> Self {
        let pairs = || rules.colours.iter().flat_map(|&colour| rules.shapes.iter().map(move |&shape| (colour, shape)));
        let words = &WORDS[..rules.words];
        Self {
            class: pairs().map(|(colour, shape)| format!("{} {}", colour.name(), shape.name())).collect(),
            word: words.iter().map(ToString::to_string).collect(),
            prompts: Prompts {
                class: pairs().map(|(colour, shape)| grammar::class_prompt(colour, shape)).collect(),
                word: words.iter().map(|word| grammar::word_prompt(word)).collect(),
            },
        }
    }
}

impl Facts {
    pub(super) fn new(scene: &Scene, said: Said, asked: Asked) -> Self {
        let objects: Vec<ObjectFacts> = scene.items.iter().filter_map(ObjectFacts::of).collect();
        let texts: Vec<TextFacts> = scene.items.iter().filter_map(TextFacts::of).collect();
        let words: Vec<String> = texts.iter().map(|text| text.word.clone()).collect();
        Self {
            captions: said.captions,
            kind: scene.kind.name().to_owned(),
            class: (scene.kind == Kind::Single).then(|| format!("{} {}", objects[0].colour, objects[0].shape)),
            word: (scene.kind == Kind::Word).then(|| words[0].clone()),
            word_first: scene.kind == Kind::WordPair && scene.items[0].content.is_word(),
            objects,
            words,
            texts,
            relation: scene.relation.map(|relation| relation.name().to_owned()),
            third_relation: scene.third.map(|relation| relation.name().to_owned()),
            question: asked.question,
            answer: asked.answer,
            negatives: said.negatives,
        }
    }
}

impl ObjectFacts {
    fn of(item: &Item) -> Option<Self> {
        let Content::Object { shape, size, texture } = item.content else {
            return None;
        };
        Some(Self {
            shape: shape.name().to_owned(),
            colour: item.colour.name().to_owned(),
            size: size.name().to_owned(),
            texture: texture.name().to_owned(),
            x: rounded(item.place.centre[0]),
            y: rounded(item.place.centre[1]),
            radius: rounded(item.place.half[0]),
        })
    }
}

impl TextFacts {
    fn of(item: &Item) -> Option<Self> {
        let Content::Word { word, .. } = item.content else {
            return None;
        };
        Some(Self {
            word: WORDS[word].to_owned(),
            colour: item.colour.name().to_owned(),
            x: rounded(item.place.centre[0]),
            y: rounded(item.place.centre[1]),
            width: rounded(2.0 * item.place.half[0]),
            height: rounded(2.0 * item.place.half[1]),
        })
    }
}

/// Four decimals: a tenth of a pixel of the largest picture.
fn rounded(length: f32) -> f32 {
    (length * 1e4).round() / 1e4
}
