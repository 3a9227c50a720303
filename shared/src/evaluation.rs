//! What evaluations find: written by the workers as `evaluations/<step>/results.json` in the job's
//! folder, read by the report, the dashboard and people's own scripts.

use serde::{Deserialize, Serialize};

/// The version of [`Results`] that this program writes.
pub const RESULTS_VERSION: u32 = 1;

/// Everything that was measured at one step of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`RESULTS_VERSION`].
    pub version: u32,
    /// The job's id.
    pub job: String,
    /// Completed updates of the model that was evaluated.
    pub step: u64,
    /// Wall time of all evaluations.
    pub seconds: f64,
    /// One entry an evaluation of the spec, in its order.
    pub evaluations: Vec<Outcome>,
}

/// What one evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The evaluation's name in the spec.
    pub name: String,
    /// Samples that took part.
    pub samples: u64,
    /// The task's own numbers.
    #[serde(flatten)]
    pub finding: Finding,
}

/// The numbers of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum Finding {
    /// Zero-shot classification by scoring prompts.
    Classify(Accuracy),
    /// The right caption against a false one.
    Choose(Accuracy),
    /// Linear classification of frozen features, learned from a few examples of each class.
    Fewshot {
        /// One entry a number of examples.
        shots: Vec<Shots>,
    },
    /// Greedy captions.
    Caption {
        /// Pictures with their captions.
        examples: Vec<Captioned>,
        /// Of all of them against their samples' captions; older versions kept none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores: Option<CaptionScores>,
    },
}

/// How often the highest score was the right one, all as shares of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Of the model.
    pub accuracy: f64,
    /// Of the blind decoder: the same model, every image replaced by the mean image.
    pub blind_accuracy: f64,
    /// Of guessing.
    pub chance: f64,
    /// How many labels there were to choose from.
    pub labels: u64,
}

/// The accuracy of linear classifiers that saw so many examples of each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shots {
    /// How many.
    pub shots: u32,
    /// The mean over the draws; blind: the same classifiers, every image replaced by the mean image.
    pub mean: Accuracy,
    /// Of the classifier of each draw of examples, as a share of 1.
    pub draws: Vec<f64>,
}

/// How well captions match those of their samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CaptionScores {
    /// BLEU-4, up to 1.
    pub bleu_4: f64,
    /// CIDEr-D, up to 10 (papers print a hundred times that).
    pub cider_d: f64,
}

/// A picture and what the model says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Captioned {
    /// The sample's key in its shard.
    pub key: String,
    /// The picture as the model sees it: a PNG file in base64.
    pub image_png: String,
    /// The model's caption.
    pub caption: String,
    /// The blind decoder's caption.
    pub blind_caption: String,
    /// The sample's own caption.
    pub reference: String,
    /// Its further captions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
}
