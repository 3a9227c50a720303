//! What is measured of a network, and how.

use serde::{Deserialize, Serialize};

use super::is_default;

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What the report calls it. A DNS label.
    pub name: String,
    /// URL of the manifest with the held-out samples.
    pub data: String,
    /// What to do with them.
    pub task: Task,
    /// Use the first so many suitable samples; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What an evaluation does with its samples. Field names are keys of a sample's `.json`; samples
/// without the field don't take part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Task {
    /// Zero-shot classification: the label whose prompt has the highest log-likelihood, or with two towers is most similar.
    Classify {
        /// Field with the sample's label.
        label: String,
        /// All labels; the labels that occur in the data when empty.
        labels: Vec<String>,
        /// The prompts.
        template: Templates,
    },
    /// Which of several captions describes the image: the true one, or one that is false.
    Choose {
        /// Field of the true caption; the sample's first caption when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caption: Option<String>,
        /// Dotted path of the false caption or of a list of them, e.g. `negatives.attribute`; absent where `shuffle` is set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        negative: Option<String>,
        /// The false caption has the words of the true one in another order.
        #[serde(default, skip_serializing_if = "is_default")]
        shuffle: bool,
    },
    /// Linear classification of frozen features from a few labelled samples of each class, in closed form.
    Fewshot {
        /// Field with the sample's label.
        label: String,
        /// URL of the manifest whose samples the examples are drawn from.
        train: String,
        /// Examples of each class, ascending.
        shots: Vec<u32>,
        /// How often they are drawn.
        draws: u32,
    },
    /// The likeliest captions, with their pictures, for people to look at, and how well they match the samples' own.
    Caption(Decoding),
    /// How well the decoder predicts the samples' captions.
    Perplexity,
    /// Whether images and captions find each other by similarity (two towers).
    Retrieval,
    /// How often a trained classifier's highest scores have the right class.
    Accuracy,
    /// Questions about the image: the decoder goes on from the question.
    Answer {
        /// Field of the question.
        question: String,
        /// Field of the answer, or of a list of those that people gave; `answers` or `answer` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
        /// How the answer is sought.
        #[serde(flatten)]
        decoding: Decoding,
    },
}

/// Prompts of zero-shot classification, each with `{}` for the label; what several of them say of a label is averaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "TemplatesForm", into = "TemplatesForm")]
pub struct Templates(Vec<String>);

impl Templates {
    pub(super) fn new(templates: Vec<String>) -> Self {
        Self(templates)
    }

    /// All of them, as they were given.
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// Every label in every prompt, label by label.
    pub fn prompts(&self, labels: &[String]) -> Vec<String> {
        labels.iter().flat_map(|label| self.0.iter().map(move |template| template.replace("{}", label))).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TemplatesForm {
    One(String),
    Several(Vec<String>),
}

impl From<TemplatesForm> for Templates {
    fn from(form: TemplatesForm) -> Self {
        match form {
            TemplatesForm::One(template) => Self(vec![template]),
            TemplatesForm::Several(templates) => Self(templates),
        }
    }
}

impl From<Templates> for TemplatesForm {
    fn from(Templates(mut templates): Templates) -> Self {
        match templates.len() {
            1 => Self::One(templates.remove(0)),
            _ => Self::Several(templates),
        }
    }
}

/// How the likeliest text is sought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Texts that are followed at a time; 1 is greedy decoding.
    #[serde(default = "one_beam", skip_serializing_if = "is_one_beam")]
    pub beams: u32,
    /// Ended texts are compared by log-likelihood / tokens ^ `length_penalty`.
    #[serde(default = "mean", skip_serializing_if = "is_mean")]
    pub length_penalty: f64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { beams: one_beam(), length_penalty: mean() }
    }
}

fn one_beam() -> u32 {
    1
}

fn is_one_beam(beams: &u32) -> bool {
    *beams == one_beam()
}

fn mean() -> f64 {
    1.0
}

fn is_mean(length_penalty: &f64) -> bool {
    *length_penalty == mean()
}

impl Task {
    /// What samples must have in their `.json` for the task: of each group of dotted paths one.
    pub fn fields(&self) -> Vec<Vec<&str>> {
        match self {
            Self::Classify { label, .. } | Self::Fewshot { label, .. } => vec![vec![label]],
            Self::Choose { caption, negative, .. } => {
                [caption, negative].into_iter().flatten().map(|path| vec![path.as_str()]).collect()
            }
            Self::Answer { question, answer, .. } => {
                let answers = answer.as_deref().map_or(vec!["answers", "answer"], |path| vec![path]);
                vec![vec![question], answers]
            }
            Self::Caption(_) | Self::Perplexity | Self::Retrieval | Self::Accuracy => Vec::new(),
        }
    }
}
