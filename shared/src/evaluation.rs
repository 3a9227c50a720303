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
    /// The checkpoint that was evaluated, where the job did not train the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Completed updates of the job that was evaluated.
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
    /// The right caption against false ones.
    Choose(Accuracy),
    /// How well captions are predicted.
    Perplexity(Perplexity),
    /// Whether images and their captions find each other.
    Retrieval(Retrieval),
    /// How questions are answered.
    Answer(Answers),
    /// Linear classification of frozen features, learned from a few examples of each class.
    Fewshot {
        /// One entry a number of examples.
        shots: Vec<Shots>,
    },
    /// Of a trained classifier.
    Accuracy {
        /// How often the highest score has the right class.
        top_1: Accuracy,
        /// How often one of the five highest has it.
        top_5: Accuracy,
    },
    /// The likeliest captions.
    Caption {
        /// Pictures with their captions.
        examples: Vec<Captioned>,
        /// Of all of them against their samples' captions; older versions kept none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores: Option<CaptionScores>,
    },
}

/// How often the highest score, or one of several, was the right one, all as shares of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Of the model.
    pub accuracy: f64,
    /// Of the blind decoder: the same model, every image replaced by the mean image; two towers have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_accuracy: Option<f64>,
    /// Of guessing.
    pub chance: f64,
    /// How many labels there were to choose from.
    pub labels: u64,
}

/// How well held-out captions are predicted; means are over all tokens, ends of text counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Mean negative log-likelihood of a token, in nats.
    pub nll: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// The mean of the blind decoder.
    pub blind_nll: f64,
    /// How many tokens there were.
    pub tokens: u64,
}

/// Image-text retrieval among all images and captions of a set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// An image finds one of its captions.
    pub image_to_text: Recall,
    /// A caption finds its image.
    pub text_to_image: Recall,
    /// How many captions there were.
    pub texts: u64,
}

/// How often the right one is among the first so many, as shares of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// It is the first.
    pub at_1: f64,
    /// It is among five.
    pub at_5: f64,
    /// It is among ten.
    pub at_10: f64,
}

/// How often questions were answered rightly, as shares of 1; answers are compared as VQA's own evaluation does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// The answer is one that people gave.
    pub exact_match: f64,
    /// Mean VQA accuracy: three people who gave the answer make it right.
    pub vqa_accuracy: f64,
    /// The same of the blind decoder, which reads the question only.
    pub blind_exact_match: f64,
    /// The same of the blind decoder.
    pub blind_vqa_accuracy: f64,
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
