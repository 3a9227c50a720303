//! The data manifest: which shards a corpus has, how large they are, how many samples each holds, which of them a filter kept,
//! and where that was asked for how many captions each has.
//!
//! It fixes the sample order, so it carries a digest of its own content; two jobs with the same digest and seed see the
//! same samples in the same order.

mod bits;
mod captions;
mod filter;
mod kept;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::spec::{CaptionChoice, CaptionSource, Captions};

pub use captions::{CaptionCounts, Pairs};
pub use filter::{Dropped, Filter, SampleFacts, ScoreRange};
pub use kept::Kept;
use shard::RawShard;
pub use shard::{Format, FoundShard, Identity, Shard};

/// The version of the format that this code writes; it reads version 1 too, which had plain tar files and no filters.
pub const MANIFEST_VERSION: u32 = 2;

/// A validated data manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataManifest {
    version: u32,
    recipe: Recipe,
    shards: Vec<Shard>,
    digest: String,
}

/// What an index was asked for, beside its shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The filter by which the samples were chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<AppliedFilter>,
    /// Where the captions of every sample were counted, if they were; every shard has their numbers then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<CaptionSource>,
}

/// The filter by which a manifest's samples were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedFilter {
    /// The bounds.
    pub bounds: Filter,
    /// Where the captions were found whose length it bounds, as the job spec writes it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub captions: Value,
}

/// The document as it is written, before anything is checked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<AppliedFilter>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    captions: Option<CaptionSource>,
    shards: Vec<RawShard>,
    digest: String,
}

/// One thing wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestProblem {
    /// Where in the document, like `shards[3].sha256`.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Why a document is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the manifest's form.
    #[error("the data manifest cannot be read; write it again with `cappactl data index`")]
    Syntax(#[source] serde_json::Error),
    /// The form is right and the content is not; every problem is listed.
    #[error("the data manifest is not valid: {}", list(.0))]
    Invalid(Vec<ManifestProblem>),
}

/// The manifest does not say how many captions its samples have where a job looks for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found}, and `choose: all` takes every caption as a sample; write the manifest again with \
     `cappactl data index --every-caption --captions {wanted}`"
)]
pub struct UncountedCaptions {
    found: String,
    wanted: String,
}

fn list(problems: &[ManifestProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl DataManifest {
    /// A manifest of these shards, in this order, of which no filter dropped anything.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] with every problem.
    pub fn new(shards: Vec<Shard>) -> Result<Self, ManifestError> {
        Self::indexed(Recipe::default(), shards)
    }

    /// A manifest of these shards, in this order, which were indexed by a recipe.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] with every problem.
    pub fn indexed(recipe: Recipe, shards: Vec<Shard>) -> Result<Self, ManifestError> {
        let digest = content_digest(MANIFEST_VERSION, &recipe, &shards);
        Self { version: MANIFEST_VERSION, recipe, shards, digest }.validate(Vec::new())
    }

    /// Reads and validates a manifest's JSON document.
    ///
    /// # Errors
    /// [`ManifestError::Syntax`], or [`ManifestError::Invalid`] with every problem, among them a digest that is not that of
    /// the content.
    pub fn from_json(document: &[u8]) -> Result<Self, ManifestError> {
        let RawManifest { version, filter, captions, shards: raw, digest } =
            serde_json::from_slice(document).map_err(ManifestError::Syntax)?;
        let mut problems = Vec::new();
        let mut problem = |path: String, message: String| problems.push(ManifestProblem { path, message });
        if !(1..=MANIFEST_VERSION).contains(&version) {
            problem("version".into(), format!("is {version}, but this program reads 1 to {MANIFEST_VERSION}"));
        }
        let recipe = Recipe { filter, captions };
        if version == 1 && (recipe != Recipe::default() || !raw.iter().all(RawShard::is_of_version_1)) {
            problem("version".into(), "is 1, but the document uses what came with version 2".into());
        }
        let mut shards = Vec::with_capacity(raw.len());
        for (place, raw) in raw.into_iter().enumerate() {
            match Shard::try_from(raw) {
                Ok(shard) => shards.push(shard),
                Err(found) => {
                    found.into_iter().for_each(|(field, message)| problem(format!("shards[{place}].{field}"), message));
                }
            }
        }
        // Where a shard can't be read, the digest of the rest says nothing.
        if problems.is_empty() {
            let content = content_digest(version, &recipe, &shards);
            if digest != content {
                let message = format!("is {digest:?}, but the content has {content}: it was edited");
                problems.push(ManifestProblem { path: "digest".into(), message });
            }
        }
        Self { version, recipe, shards, digest }.validate(problems)
    }

    /// The JSON document, indented for people and ending in a line feed.
    pub fn to_json(&self) -> Vec<u8> {
        let raw = RawManifest {
            version: self.version,
            filter: self.recipe.filter.clone(),
            captions: self.recipe.captions.clone(),
            shards: self.shards.iter().map(RawShard::from).collect(),
            digest: self.digest.clone(),
        };
        let mut document = serde_json::to_vec_pretty(&raw).expect("strings and numbers always serialise");
        document.push(b'\n');
        document
    }

    /// The shards, in the order that numbers them.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The filter that chose the samples, if one did.
    pub fn filter(&self) -> Option<&AppliedFilter> {
        self.recipe.filter.as_ref()
    }

    /// What the index was asked for.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// SHA-256 of the content, in lowercase hexadecimal: the identity of the corpus.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Samples over all shards: those that are used.
    pub fn total_samples(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.samples)).sum()
    }

    /// Bytes over all shards, as they lie in the store.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Samples of every shard that are used.
    pub fn sample_counts(&self) -> Vec<u32> {
        self.shards.iter().map(|shard| shard.samples).collect()
    }

    /// Captions of every shard's used samples, where they were counted.
    pub fn caption_counts(&self) -> Option<Vec<u32>> {
        self.shards.iter().map(|shard| shard.captions.as_ref().map(CaptionCounts::captions)).collect()
    }

    /// What an epoch of a job has of every shard, as the sample order takes it: samples, or where every caption of a sample is
    /// one of its own, captions.
    ///
    /// # Errors
    /// When every caption is wanted, and they were not counted there.
    pub fn epoch_counts(&self, captions: &Captions) -> Result<Vec<u32>, UncountedCaptions> {
        if captions.choose != CaptionChoice::All {
            return Ok(self.sample_counts());
        }
        let wanted = captions.source.to_string();
        match &self.recipe.captions {
            Some(counted) if *counted == captions.source => Ok(self.caption_counts().expect("it was validated")),
            Some(counted) => Err(UncountedCaptions {
                found: format!("counts the captions of `{counted}`, not of `{wanted}`"),
                wanted,
            }),
            None => Err(UncountedCaptions { found: "does not count the captions of its samples".into(), wanted }),
        }
    }

    /// Adds to `problems` what is wrong with the whole.
    fn validate(self, mut problems: Vec<ManifestProblem>) -> Result<Self, ManifestError> {
        let unread = !problems.is_empty();
        let mut problem = |path: String, message: String| problems.push(ManifestProblem { path, message });
        if self.shards.is_empty() && !unread {
            problem("shards".into(), "is empty".into());
        }
        let mut paths = HashSet::new();
        for (place, shard) in self.shards.iter().enumerate() {
            for (field, message) in shard.problems() {
                problem(format!("shards[{place}].{field}"), message);
            }
            if !paths.insert(shard.path.as_str()) {
                problem(format!("shards[{place}].path"), format!("{:?} is listed twice", shard.path));
            }
        }
        for (place, shard) in self.shards.iter().enumerate() {
            match (&self.recipe.captions, &shard.captions) {
                (Some(_), None) => {
                    problem(format!("shards[{place}].captions"), "is absent, but captions are counted".into());
                }
                (None, Some(_)) => {
                    problem(format!("shards[{place}].captions"), "is there, but nothing says which".into());
                }
                _ => {}
            }
        }
        if let Some(filter) = &self.recipe.filter {
            for found in filter.bounds.problems() {
                problem(format!("filter.bounds.{}", found.path), found.message);
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(ManifestError::Invalid(problems)) }
    }
}

/// SHA-256 of the compact JSON `{"version":…,"filter":…,"captions":…,"shards":[…]}`, fields in the order of the document and absent ones left
/// out, which any JSON library that keeps the order of keys can reproduce. An ETag beside a sha256 is left out too.
fn content_digest(version: u32, recipe: &Recipe, shards: &[Shard]) -> String {
    #[derive(Serialize)]
    struct Content<'a> {
        version: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        filter: Option<&'a AppliedFilter>,
        #[serde(skip_serializing_if = "Option::is_none")]
        captions: Option<&'a CaptionSource>,
        #[serde(serialize_with = "contents")]
        shards: &'a [Shard],
    }
    fn contents<S: serde::Serializer>(shards: &[Shard], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(shards.iter().map(RawShard::content))
    }
    let mut hasher = Sha256::new();
    let (filter, captions) = (recipe.filter.as_ref(), recipe.captions.as_ref());
    serde_json::to_writer(&mut hasher, &Content { version, filter, captions, shards })
        .expect("strings and numbers always serialise");
    hex::encode(hasher.finalize())
}
