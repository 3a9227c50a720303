//! The data manifest: which shards a corpus has, how large they are and how many samples each holds.
//!
//! It fixes the sample order, so it carries a digest of its own content; two jobs with the same digest and seed see the
//! same samples in the same order.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The version of the format that this code writes and reads.
pub const MANIFEST_VERSION: u32 = 1;

/// A validated data manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataManifest {
    shards: Vec<Shard>,
    digest: String,
}

/// One shard of a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Where it is: a path relative to the manifest's folder, or a URL.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in lowercase hexadecimal.
    pub sha256: String,
    /// Samples it holds.
    pub samples: u32,
}

/// The document as it is written, before anything is checked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    version: u32,
    shards: Vec<Shard>,
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

fn list(problems: &[ManifestProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl DataManifest {
    /// A manifest of these shards, in this order.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] with every problem.
    pub fn new(shards: Vec<Shard>) -> Result<Self, ManifestError> {
        let digest = content_digest(&shards);
        Self::validate(RawManifest { version: MANIFEST_VERSION, shards, digest })
    }

    /// Reads and validates a manifest's JSON document.
    ///
    /// # Errors
    /// [`ManifestError::Syntax`], or [`ManifestError::Invalid`] with every problem, among them a digest that is not that of
    /// the content.
    pub fn from_json(document: &[u8]) -> Result<Self, ManifestError> {
        Self::validate(serde_json::from_slice(document).map_err(ManifestError::Syntax)?)
    }

    /// The JSON document, indented for people and ending in a line feed.
    pub fn to_json(&self) -> Vec<u8> {
        let raw = RawManifest { version: MANIFEST_VERSION, shards: self.shards.clone(), digest: self.digest.clone() };
        let mut document = serde_json::to_vec_pretty(&raw).expect("strings and numbers always serialise");
        document.push(b'\n');
        document
    }

    /// The shards, in the order that numbers them.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// SHA-256 of the content, in lowercase hexadecimal: the identity of the corpus.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Samples over all shards.
    pub fn total_samples(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.samples)).sum()
    }

    /// Bytes over all shards.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Samples of every shard, as the sample order takes them.
    pub fn sample_counts(&self) -> Vec<u32> {
        self.shards.iter().map(|shard| shard.samples).collect()
    }

    fn validate(raw: RawManifest) -> Result<Self, ManifestError> {
        let mut problems = Vec::new();
        let mut problem = |path: String, message: String| problems.push(ManifestProblem { path, message });
        if raw.version != MANIFEST_VERSION {
            problem("version".into(), format!("is {}, but this program reads {MANIFEST_VERSION}", raw.version));
        }
        if raw.shards.is_empty() {
            problem("shards".into(), "is empty".into());
        }
        let mut paths = HashSet::new();
        for (place, shard) in raw.shards.iter().enumerate() {
            for (field, message) in shard_problems(shard) {
                problem(format!("shards[{place}].{field}"), message);
            }
            if !paths.insert(shard.path.as_str()) {
                problem(format!("shards[{place}].path"), format!("{:?} is listed twice", shard.path));
            }
        }
        let digest = content_digest(&raw.shards);
        if raw.digest != digest {
            problem("digest".into(), format!("is {:?}, but the content has {digest}: it was edited", raw.digest));
        }
        if problems.is_empty() {
            Ok(Self { shards: raw.shards, digest })
        } else {
            Err(ManifestError::Invalid(problems))
        }
    }
}

/// What is wrong with a shard by itself: the field and a message.
fn shard_problems(shard: &Shard) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if let Some(message) = path_problem(&shard.path) {
        problems.push(("path", message));
    }
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if shard.sha256.len() != 64 || !shard.sha256.bytes().all(is_hex) {
        problems.push(("sha256", format!("{:?} is not 64 lowercase hexadecimal digits", shard.sha256)));
    }
    if shard.samples > 0 && shard.bytes == 0 {
        problems.push(("bytes", format!("is 0, but the shard has {} samples", shard.samples)));
    }
    problems
}

/// Relative paths stay below the manifest's folder, so that a manifest can't reach for other files of the machine.
fn path_problem(path: &str) -> Option<String> {
    if path.is_empty() {
        Some("is empty".into())
    } else if path.contains("://") {
        None
    } else if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        Some(format!("{path:?} leaves the manifest's folder; move the manifest or use a URL"))
    } else {
        None
    }
}

/// SHA-256 of the compact JSON `{"version":…,"shards":[{"path":…,"bytes":…,"sha256":…,"samples":…}]}`, which any JSON library
/// that keeps the order of keys can reproduce.
fn content_digest(shards: &[Shard]) -> String {
    #[derive(Serialize)]
    struct Content<'a> {
        version: u32,
        shards: &'a [Shard],
    }
    let content = serde_json::to_vec(&Content { version: MANIFEST_VERSION, shards })
        .expect("strings and numbers always serialise");
    hex::encode(Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(path: &str, samples: u32) -> Shard {
        Shard { path: path.into(), bytes: 1024, sha256: "ab".repeat(32), samples }
    }

    #[test]
    fn a_manifest_survives_writing_and_reading() {
        let manifest = DataManifest::new(vec![shard("train-0.tar", 3), shard("s3://bucket/train-1.tar", 4)]).unwrap();
        assert_eq!(DataManifest::from_json(&manifest.to_json()).unwrap(), manifest);
        assert_eq!(manifest.total_samples(), 7);
        assert_eq!(manifest.sample_counts(), [3, 4]);
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_place() {
        let bad = r#"{"version": 2, "digest": "x", "shards": [
            {"path": "a.tar", "bytes": 0, "sha256": "short", "samples": 1},
            {"path": "a.tar", "bytes": 1, "sha256": "short", "samples": 1},
            {"path": "../b.tar", "bytes": 1, "sha256": "short", "samples": 1},
            {"path": "", "bytes": 1, "sha256": "short", "samples": 1}]}"#;
        let Err(ManifestError::Invalid(problems)) = DataManifest::from_json(bad.as_bytes()) else {
            panic!("the manifest was accepted");
        };
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        for path in [
            "version",
            "digest",
            "shards[0].bytes",
            "shards[0].sha256",
            "shards[1].path",
            "shards[2].path",
            "shards[3].path",
        ] {
            assert!(paths.contains(&path), "{path} is missing from {paths:?}");
        }
    }

    #[test]
    fn an_edited_manifest_is_refused() {
        let document = DataManifest::new(vec![shard("train-0.tar", 3)]).unwrap().to_json();
        let edited = String::from_utf8(document).unwrap().replace("\"samples\": 3", "\"samples\": 4");
        let error = DataManifest::from_json(edited.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("it was edited"), "{error}");
    }

    #[test]
    fn the_digest_stays_the_same_across_versions() {
        let manifest = DataManifest::new(vec![shard("train-0.tar", 3)]).unwrap();
        let content = format!(
            r#"{{"version":1,"shards":[{{"path":"train-0.tar","bytes":1024,"sha256":"{}","samples":3}}]}}"#,
            "ab".repeat(32)
        );
        assert_eq!(manifest.digest(), hex::encode(Sha256::digest(content)));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = DataManifest::from_json(br#"{"version":1,"shards":[],"digest":"","extra":1}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Syntax(_)), "{error}");
    }
}
