//! The committed manifest of a checkpoint.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::account::Account;
use super::attempt_folder;
use crate::ids::{Generation, JobId, Step};

/// The version of the format that this program writes and reads.
const VERSION: u32 = 1;

/// What a checkpoint consists of, and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// The job that wrote it.
    pub job: JobId,
    /// Completed updates. Also the cursor of the run: with seed and manifest it fixes all samples that come.
    pub step: Step,
    /// The group that wrote the parts.
    pub generation: Generation,
    /// Ranks of that group.
    pub world_size: u32,
    /// [`JobSpec::digest`](crate::spec::JobSpec::digest) of the job's spec.
    pub spec_digest: String,
    /// [`DataManifest::digest`](crate::manifest::DataManifest::digest) of the training data.
    pub data_digest: String,
    /// The files that hold parameters and optimizer state.
    pub parts: Vec<Part>,
    /// Samples that were found bad up to this step.
    pub quarantined: Vec<Quarantined>,
    /// When it was committed.
    pub created: Timestamp,
    /// How the run came here; older versions kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the attempt's folder; see [`part_name`](super::part_name).
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in lower-case hexadecimal.
    pub sha256: String,
}

/// A bad sample: it weighs nothing, wherever the run goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// Its shard, as the data manifest names it.
    pub shard: String,
    /// Its place in the shard, from zero; where every caption is a sample of its own, among them.
    pub index: u64,
    /// Its key in the shard.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A checkpoint's manifest, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointManifest {
    contents: Contents,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    contents: Contents,
    digest: String,
}

/// Why contents or a document are no checkpoint manifest; every reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the checkpoint's manifest is not valid: {}", .0.join("; "))]
pub struct ManifestProblems(pub Vec<String>);

impl CheckpointManifest {
    /// The manifest of these contents.
    ///
    /// # Errors
    /// Every reason why they are no checkpoint.
    pub fn new(contents: Contents) -> Result<Self, ManifestProblems> {
        let problems = problems(&contents);
        if problems.is_empty() {
            let digest = digest(&contents);
            Ok(Self { contents, digest })
        } else {
            Err(ManifestProblems(problems))
        }
    }

    /// Reads what [`CheckpointManifest::to_json`] wrote.
    ///
    /// # Errors
    /// Every reason why the document is no manifest; a changed one doesn't match its own digest.
    pub fn from_json(document: &[u8]) -> Result<Self, ManifestProblems> {
        let raw: Raw = serde_json::from_slice(document).map_err(|error| ManifestProblems(vec![error.to_string()]))?;
        if raw.version != VERSION {
            let problem = format!("its version is {}, and this program reads {VERSION}", raw.version);
            return Err(ManifestProblems(vec![problem]));
        }
        let manifest = Self::new(raw.contents)?;
        if manifest.digest != raw.digest {
            return Err(ManifestProblems(vec!["it does not match its own digest: it was changed".into()]));
        }
        Ok(manifest)
    }

    /// The document that is committed.
    pub fn to_json(&self) -> Vec<u8> {
        let raw = Raw { version: VERSION, contents: self.contents.clone(), digest: self.digest.clone() };
        serde_json::to_vec_pretty(&raw).expect("texts and numbers always serialise")
    }

    /// What it says.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// SHA-256 of the contents as compact JSON, in lower-case hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether both commit the same state; what they say of the way to it may differ, if another checkpoint was committed
    /// in between.
    pub fn is_same_checkpoint(&self, other: &Self) -> bool {
        let of = |manifest: &Self| Contents { account: None, ..manifest.contents.clone() };
        of(self) == of(other)
    }

    /// Where a part lies in the job's folder.
    pub fn part_path(&self, part: &Part) -> String {
        let Contents { step, generation, .. } = self.contents;
        format!("{}/{}", attempt_folder(step, generation), part.name)
    }

    /// Bytes of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.contents.parts.iter().map(|part| part.bytes).sum()
    }
}

/// The identity of a job's training data: the digest of its manifest, or of the digests of all of them in the spec's order.
pub fn data_digest(manifests: &[&str]) -> String {
    match manifests {
        [only] => (*only).to_owned(),
        several => {
            hex::encode(Sha256::digest(serde_json::to_vec(several).expect("texts and numbers always serialise")))
        }
    }
}

fn digest(contents: &Contents) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(contents).expect("texts and numbers always serialise")))
}

fn problems(contents: &Contents) -> Vec<String> {
    let mut problems = Vec::new();
    let mut require = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    require(contents.world_size > 0, "world_size is 0".into());
    require(is_digest(&contents.spec_digest), "spec_digest is no SHA-256".into());
    require(is_digest(&contents.data_digest), "data_digest is no SHA-256".into());
    require(!contents.parts.is_empty(), "it has no parts".into());
    let mut names = HashSet::new();
    for part in &contents.parts {
        let name = &part.name;
        let is_file = name.ends_with(".safetensors") && !name.contains(['/', '\\']);
        require(is_file, format!("part `{name}` is not the name of a .safetensors file"));
        require(names.insert(name), format!("part `{name}` is listed twice"));
        require(is_digest(&part.sha256), format!("the sha256 of part `{name}` is no SHA-256"));
    }
    problems
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
