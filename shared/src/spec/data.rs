//! The data section of a job: where samples come from and how they become tensors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Augment, Label};
use crate::manifest::Filter;

/// Where samples come from and how they become tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// What is trained on.
    pub train: Sources,
    /// URL of the tokenizer: a `tokenizer.json` or a SentencePiece `.model`.
    pub tokenizer: String,
    /// Where captions are found, and which of several is taken.
    #[serde(default)]
    pub captions: Captions,
    /// Dotted path in a sample's `.json` of a text that comes before its caption and is not predicted; of captioning only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Where a sample's class is found, and which classes there are; of classification only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// Which samples are used, of sources that must be indexed.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// How images are decoded.
    #[serde(default)]
    pub decode: Decode,
    /// Random changes of the images of training; none unless asked for.
    #[serde(default, skip_serializing_if = "Augment::is_off")]
    pub augment: Augment,
    /// Height and width of the model's input in pixels.
    pub image_size: u32,
    /// Tokens of a caption, end-of-text included.
    pub text_length: TextLengths,
    /// Seed of sample order, draws and initialisation.
    pub seed: u64,
    /// Lanes that an epoch is cut into; ranks own whole lanes, so it bounds the world size.
    pub lanes: u32,
    /// Shards that are shuffled together within a lane.
    pub shuffle_window: u32,
    /// The job fails when more than this share of the samples seen is bad.
    pub max_bad_fraction: f64,
}

impl Data {
    /// The same data once it is indexed: of every source, in their order, the manifest. What the filter kept is in those.
    #[must_use]
    pub fn indexed(&self, manifests: Vec<String>) -> Self {
        debug_assert_eq!(manifests.len(), self.train.0.len(), "a manifest for every source");
        let weights = self.train.iter().map(|source| source.weight);
        let sources = manifests.into_iter().zip(weights).map(|(source, weight)| Source { source, weight });
        Self { train: Sources(sources.collect()), filter: Filter::default(), ..self.clone() }
    }
}

/// The sources of a job, at least one; several are mixed by weight (see [`crate::order`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "SourcesForm", into = "SourcesForm")]
pub struct Sources(Vec<Source>);

/// One source of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// URL of a manifest, or a pattern of shards: what does not end in `.json`.
    pub source: String,
    /// Its share of the samples, in relation to the other weights.
    pub weight: f64,
}

impl Source {
    /// Whether it names a manifest rather than shards that are still to be indexed.
    pub fn is_manifest(&self) -> bool {
        is_manifest(&self.source)
    }
}

/// Whether a source names a manifest rather than shards that are still to be indexed.
pub fn is_manifest(source: &str) -> bool {
    source.ends_with(".json")
}

impl Sources {
    pub(super) fn new(sources: Vec<Source>) -> Self {
        Self(sources)
    }

    /// The sources in the spec's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Source> {
        self.0.iter()
    }

    /// The only source, unless there are several.
    pub fn only(&self) -> Option<&Source> {
        match self.0.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether some of them must be indexed before training.
    pub fn need_index(&self) -> bool {
        self.iter().any(|source| !source.is_manifest())
    }
}

/// How sources are written: one alone has no use for a weight.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SourcesForm {
    One(String),
    Several(Vec<Source>),
}

impl From<SourcesForm> for Sources {
    fn from(form: SourcesForm) -> Self {
        match form {
            SourcesForm::One(source) => Self(vec![Source { source, weight: 1.0 }]),
            SourcesForm::Several(sources) => Self(sources),
        }
    }
}

impl From<Sources> for SourcesForm {
    fn from(sources: Sources) -> Self {
        match sources.only() {
            Some(only) => Self::One(only.source.clone()),
            None => Self::Several(sources.0),
        }
    }
}

/// Where a sample's captions are found, and which of several is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captions {
    /// Where.
    #[serde(flatten)]
    pub source: CaptionSource,
    /// Which.
    pub choose: CaptionChoice,
}

/// Where a sample's captions are found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum CaptionSource {
    /// The list `captions` of the `.json` file if there is one, else the `.txt` file.
    #[default]
    Auto,
    /// The `.txt` file.
    Txt,
    /// A field of the `.json` file: a text, or a list of texts.
    Json {
        /// The field.
        field: String,
    },
}

impl std::fmt::Display for CaptionSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Txt => f.write_str("txt"),
            Self::Json { field } => write!(f, "json:{field}"),
        }
    }
}

/// Which of several captions of an image is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptionChoice {
    /// One, drawn anew in every epoch.
    #[default]
    One,
    /// The next one in every epoch, so that K epochs see all K captions of an image.
    Turn,
    /// Each of them: an epoch has every (image, caption) pair once. The manifest must count them
    /// (`cappactl data index --every-caption`).
    All,
}

/// How images are decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// In full, then resized as the authors do.
    #[default]
    Exact,
    /// Large JPEGs are decoded at a part of their size: faster, within a documented tolerance of exact.
    Fast,
}

/// The lengths that texts are padded to, in tokens, ascending, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LengthsForm", into = "LengthsForm")]
pub struct TextLengths(Vec<u32>);

impl TextLengths {
    pub(super) fn new(mut lengths: Vec<u32>) -> Self {
        lengths.sort_unstable();
        Self(lengths)
    }

    /// The length that no text exceeds; what the model is made for.
    pub fn longest(&self) -> u32 {
        self.0.last().copied().unwrap_or_default()
    }

    /// All of them, ascending.
    pub fn all(&self) -> &[u32] {
        &self.0
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum LengthsForm {
    One(u32),
    Several(Vec<u32>),
}

impl From<LengthsForm> for TextLengths {
    fn from(form: LengthsForm) -> Self {
        match form {
            LengthsForm::One(length) => Self(vec![length]),
            LengthsForm::Several(lengths) => Self::new(lengths),
        }
    }
}

impl From<TextLengths> for LengthsForm {
    fn from(lengths: TextLengths) -> Self {
        match lengths.0.as_slice() {
            [only] => Self::One(*only),
            _ => Self::Several(lengths.0),
        }
    }
}
