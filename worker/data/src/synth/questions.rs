//! A question about a scene and its answer, so that answering them is data like any other: in canonical words, whatever
//! the level, and with the picture needed to answer.

use super::rng::Rng;
use super::scene::{Content, Item, Scene};
use super::words::WORDS;

/// A question and its only right answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) question: String,
    pub(super) answer: String,
}

/// One of the questions that the scene answers without doubt, each as likely.
pub(super) fn ask(scene: &Scene, rng: &mut Rng) -> Asked {
    let mut kinds: Vec<fn(&Scene, &mut Rng) -> Option<Asked>> = vec![colour, shape, word, relation];
    loop {
        let kind = kinds.swap_remove(rng.below(kinds.len()));
        if let Some(asked) = kind(scene, rng) {
            return asked;
        }
        assert!(!kinds.is_empty(), "two objects differ in shape or colour, and a word can be read");
    }
}

/// Of an object whose shape no other has.
fn colour(scene: &Scene, rng: &mut Rng) -> Option<Asked> {
    let item = pick(objects(scene).filter(|item| is_only(scene, item, |item| item.content.noun())), rng)?;
    Some(Asked { question: format!("what colour is the {}?", noun(item)), answer: item.colour.name().to_owned() })
}

/// Of an object whose colour nothing else has.
fn shape(scene: &Scene, rng: &mut Rng) -> Option<Asked> {
    let item = pick(objects(scene).filter(|item| is_only(scene, item, |item| item.colour)), rng)?;
    Some(Asked { question: format!("what shape is {}?", item.colour.name()), answer: noun(item).to_owned() })
}

/// Of the only word.
fn word(scene: &Scene, _: &mut Rng) -> Option<Asked> {
    let word = scene.items.iter().find(|item| item.content.is_word())?;
    Some(Asked { question: "what word is written?".to_owned(), answer: noun(word).to_owned() })
}

/// Of the first two objects, in either order, where their shapes tell them apart: yes and no are equally likely for every relation, so
/// that neither can be guessed.
fn relation(scene: &Scene, rng: &mut Rng) -> Option<Asked> {
    let [first, second, ..] = scene.items.as_slice() else { return None };
    let can_be_told = |item: &Item| !item.content.is_word() && is_only(scene, item, |item| item.content.noun());
    let relation = scene.relation.filter(|_| can_be_told(first) && can_be_told(second))?;
    let (first, second, relation) =
        if rng.chance(0.5) { (first, second, relation) } else { (second, first, relation.reversed()) };
    let holds = rng.chance(0.5);
    let said = if holds { relation } else { relation.reversed() };
    let question = format!("is the {} {} the {}?", noun(first), said.name(), noun(second));
    Some(Asked { question, answer: if holds { "yes" } else { "no" }.to_owned() })
}

fn objects(scene: &Scene) -> impl Iterator<Item = &Item> {
    scene.items.iter().filter(|item| !item.content.is_word())
}

/// Whether no other item has the same of something.
fn is_only<T: PartialEq>(scene: &Scene, item: &Item, of: impl Fn(&Item) -> T) -> bool {
    scene.items.iter().filter(|other| of(other) == of(item)).count() == 1
}

fn pick<'a>(items: impl Iterator<Item = &'a Item>, rng: &mut Rng) -> Option<&'a Item> {
    let items: Vec<&Item> = items.collect();
    (!items.is_empty()).then(|| rng.pick(&items))
}

fn noun(item: &Item) -> &'static str {
    match item.content {
        Content::Object { shape, .. } => shape.name(),
        Content::Word { word, .. } => WORDS[word],
    }
}
