//! What is measured of every network of a study, and what the measures are called.

use cappa_shared::evaluation::{Accuracy, Finding, Outcome};
use serde::{Deserialize, Serialize};

use super::plan::System;

/// Of frozen features, and of captions that are true or false: all systems alike.
pub(super) const EVERYWHERE: [&str; 9] = [
    "{ name: few-shot-objects, data: corpus/heldout.json, task: { type: fewshot, label: class, train: corpus/few-shot.json } }",
    "{ name: few-shot-words, data: corpus/heldout.json, task: { type: fewshot, label: word, train: corpus/few-shot.json } }",
    OBJECTS,
    "{ name: words, data: corpus/heldout.json, task: { type: classify, label: word, template: 'the word {}' } }",
    "{ name: attributes, data: corpus/heldout.json, task: { type: choose, negative: negatives.attribute } }",
    "{ name: relations, data: corpus/heldout.json, task: { type: choose, negative: negatives.relation } }",
    "{ name: replaced, data: corpus/heldout.json, task: { type: choose, negative: negatives.replace } }",
    "{ name: added, data: corpus/heldout.json, task: { type: choose, negative: negatives.add } }",
    "{ name: order, data: corpus/heldout.json, task: { type: choose, shuffle: true } }",
];
pub(super) const OBJECTS: &str =
    "{ name: objects, data: corpus/heldout.json, task: { type: classify, label: class, template: 'a {}' } }";
pub(super) const CAPTIONS: &str = "{ name: captions, data: corpus/heldout.json, task: caption, limit: 300 }";
pub(super) const PERPLEXITY: &str = "{ name: perplexity, data: corpus/heldout.json, task: perplexity }";
pub(super) const RETRIEVAL: &str = "{ name: retrieval, data: corpus/heldout.json, task: retrieval }";
pub(super) const ANSWERS: &str = "{ name: answers, data: corpus/heldout.json, task: answer, limit: 600 }";
pub(super) const CLASSES: &str = "{ name: classes, data: corpus/heldout-objects.json, task: accuracy }";

/// What only systems of the kind can do.
pub(super) fn own(system: System) -> &'static [&'static str] {
    if system.is_captioner() { &[CAPTIONS, PERPLEXITY] } else { &[RETRIEVAL] }
}

/// The entries of `evaluate`.
pub(super) fn evaluations(of: &[&[&str]]) -> String {
    of.iter().copied().flatten().map(|evaluation| format!("  - {evaluation}\n")).collect()
}

/// One number of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Score {
    /// What was measured, such as `attributes`.
    pub(crate) measure: String,
    pub(crate) value: f64,
    /// Of the blind decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blind: Option<f64>,
    /// Of guessing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chance: Option<f64>,
}

impl Score {
    /// How far it is above guessing and above the blind decoder; none where there is neither.
    pub(super) fn lead(&self) -> Option<f64> {
        let floor = self.blind.into_iter().chain(self.chance).reduce(f64::max)?;
        Some(self.value - floor)
    }
}

/// The numbers of an evaluation, named after it, and after `transfer` where another network was trained for it.
pub(super) fn scores(outcome: &Outcome, transfer: Option<&str>) -> Vec<Score> {
    let name = match transfer {
        Some(transfer) => format!("{} ({transfer})", outcome.name),
        None => outcome.name.clone(),
    };
    let plain = |measure: String, value| Score { measure, value, blind: None, chance: None };
    let of = |measure, accuracy: &Accuracy| Score {
        measure,
        value: accuracy.accuracy,
        blind: accuracy.blind_accuracy,
        chance: Some(accuracy.chance),
    };
    match &outcome.finding {
        Finding::Classify(accuracy) | Finding::Choose(accuracy) => vec![of(name, accuracy)],
        Finding::Fewshot { shots } => {
            shots.iter().map(|shots| of(format!("{name}, {} a class", shots.shots), &shots.mean)).collect()
        }
        Finding::Caption { scores, .. } => {
            scores.iter().map(|scores| plain(format!("{name}, CIDEr-D"), scores.cider_d)).collect()
        }
        Finding::Perplexity(found) => vec![plain(format!("{name} of a token"), found.perplexity)],
        Finding::Retrieval(found) => vec![
            plain(format!("{name}, text of image, R@1"), found.image_to_text.at_1),
            plain(format!("{name}, image of text, R@1"), found.text_to_image.at_1),
        ],
        Finding::Answer(found) => {
            vec![Score { measure: name, value: found.exact_match, blind: Some(found.blind_exact_match), chance: None }]
        }
        Finding::Accuracy { top_1, .. } => vec![of(name, top_1)],
    }
}
