//! One shard of a corpus: where it is, what it must be, and which of its samples are used.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{CaptionCounts, Kept};

/// How a shard is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// A tar file, read in place by offset.
    #[default]
    #[serde(rename = "tar")]
    Tar,
    /// A tar file packed by gzip; it is unpacked before samples are read.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A tar file packed by zstd; it is unpacked before samples are read.
    #[serde(rename = "tar.zst")]
    TarZst,
    /// A folder of loose files on this machine.
    #[serde(rename = "folder")]
    Folder,
}

impl Format {
    /// What the name of a file says; nothing for names of other files.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".tar"]) {
            Some(Self::Tar)
        } else if ends(&[".tar.gz", ".tgz"]) {
            Some(Self::TarGz)
        } else if ends(&[".tar.zst", ".tar.zstd", ".tzst"]) {
            Some(Self::TarZst)
        } else {
            None
        }
    }

    /// Whether the shard has to be unpacked before its samples can be read by offset.
    pub fn is_packed(self) -> bool {
        matches!(self, Self::TarGz | Self::TarZst)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tar => "tar",
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
            Self::Folder => "folder",
        })
    }
}

/// By what a shard is known to be the one that was indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// SHA-256 of its content in lowercase hexadecimal. For a folder, see the index. The ETag that the store gave it, if any, only
    /// spares the next index a look at it.
    Content {
        /// The digest.
        sha256: String,
        /// The store's ETag when it was indexed.
        etag: Option<String>,
    },
    /// The store's ETag: nobody has read the whole shard.
    Tag {
        /// The ETag.
        etag: String,
    },
}

/// One shard of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Where it is: a path relative to the manifest's folder, or a URL.
    pub path: String,
    /// Size in bytes, as it lies in the store.
    pub bytes: u64,
    /// How it is packed.
    pub format: Format,
    /// Size in bytes once it is unpacked; the same as `bytes` where nothing has to be.
    pub unpacked_bytes: u64,
    /// By what it is known.
    pub identity: Identity,
    /// Samples that are used: those that the order counts.
    pub samples: u32,
    /// Which of the shard's samples those are; all of them where there is nothing.
    pub kept: Option<Kept>,
    /// How many captions each of the used samples has, where that was counted.
    pub captions: Option<CaptionCounts>,
}

/// What was found where a shard should be. What is not known is left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct FoundShard<'a> {
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// SHA-256 of the content in lowercase hexadecimal.
    pub sha256: Option<&'a str>,
    /// The store's ETag.
    pub etag: Option<&'a str>,
}

impl Shard {
    /// A plain tar file of which all samples are used.
    pub fn tar(path: impl Into<String>, bytes: u64, sha256: impl Into<String>, samples: u32) -> Self {
        Self {
            path: path.into(),
            bytes,
            format: Format::Tar,
            unpacked_bytes: bytes,
            identity: Identity::Content { sha256: sha256.into(), etag: None },
            samples,
            kept: None,
            captions: None,
        }
    }

    /// SHA-256 of the content, where it is recorded.
    pub fn sha256(&self) -> Option<&str> {
        match &self.identity {
            Identity::Content { sha256, .. } => Some(sha256),
            Identity::Tag { .. } => None,
        }
    }

    /// The store's ETag, where it is recorded.
    pub fn etag(&self) -> Option<&str> {
        match &self.identity {
            Identity::Content { etag, .. } => etag.as_deref(),
            Identity::Tag { etag } => Some(etag),
        }
    }

    /// Samples in the shard, used or not.
    pub fn all_samples(&self) -> u32 {
        self.kept.as_ref().map_or(self.samples, Kept::of)
    }

    /// Index in the shard of the `n`-th sample that the order counts; nothing from [`Shard::samples`] on.
    pub fn index_in_shard(&self, n: u32) -> Option<u32> {
        match &self.kept {
            Some(kept) => kept.index_in_shard(n),
            None => (n < self.samples).then_some(n),
        }
    }

    /// A name for the content that holds wherever the same content lies: the digest, or where only the ETag is known, a digest of
    /// `url`, ETag and size.
    pub fn content_key(&self, url: &str) -> String {
        match &self.identity {
            Identity::Content { sha256, .. } => sha256.clone(),
            Identity::Tag { etag } => hex::encode(Sha256::digest(format!("{url}\n{etag}\n{}", self.bytes))),
        }
    }

    /// How what was found differs from what the manifest records, as far as it is known; nothing where it does not.
    ///
    /// A known size and digest must be those recorded. The ETag counts where no digest is recorded: then the store must give one.
    pub fn difference(&self, found: &FoundShard<'_>) -> Option<String> {
        if let Some(bytes) = found.bytes.filter(|bytes| *bytes != self.bytes) {
            let expected = self.bytes;
            return Some(format!("the shard has {bytes} bytes where the manifest records {expected}; index it again"));
        }
        match (&self.identity, found.sha256, found.etag) {
            (Identity::Content { sha256, .. }, Some(digest), _) if digest != sha256 => {
                Some(format!("the shard's sha256 is {digest} where the manifest records {sha256}; index it again"))
            }
            (Identity::Content { .. }, ..) => None,
            (Identity::Tag { etag }, _, Some(other)) if other != etag => {
                Some(format!("the shard's ETag is {other} where the manifest records {etag}; index it again"))
            }
            (Identity::Tag { .. }, _, Some(_)) => None,
            (Identity::Tag { .. }, _, None) => Some(
                "the manifest knows the shard by its ETag, but here it has none; index it again without --quick".into(),
            ),
        }
    }

    /// What is wrong with the shard by itself: the field and a message.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Some(message) = path_problem(&self.path) {
            problems.push(("path", message));
        }
        match &self.identity {
            Identity::Content { sha256, .. } if !is_sha256(sha256) => {
                problems.push(("sha256", format!("{sha256:?} is not 64 lowercase hexadecimal digits")));
            }
            Identity::Tag { etag } if etag.is_empty() => {
                problems.push(("etag", "is empty, and there is no sha256".into()));
            }
            _ => {}
        }
        if self.samples > 0 && self.bytes == 0 {
            problems.push(("bytes", format!("is 0, but the shard has {} samples", self.samples)));
        }
        if !self.format.is_packed() && self.unpacked_bytes != self.bytes {
            problems.push(("unpacked_bytes", format!("differs from bytes, but a {} is not packed", self.format)));
        }
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.len() != self.samples) {
            problems.push(("kept", format!("keeps {} samples where samples says {}", kept.len(), self.samples)));
        }
        if let Some(captions) = self.captions.as_ref().filter(|captions| captions.samples() != self.samples) {
            let of = captions.samples();
            problems.push(("captions", format!("counts those of {of} samples where samples says {}", self.samples)));
        }
        problems
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
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

/// A shard as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShard {
    path: String,
    bytes: u64,
    #[serde(default, skip_serializing_if = "is_tar")]
    format: Format,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unpacked_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    samples: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    captions: Option<String>,
}

fn is_tar(format: &Format) -> bool {
    *format == Format::Tar
}

impl RawShard {
    /// What of a shard the manifest's digest covers: all but an ETag beside a digest, which says nothing about content.
    pub(super) fn content(shard: &Shard) -> Self {
        let etag = match &shard.identity {
            Identity::Tag { etag } => Some(etag.clone()),
            Identity::Content { .. } => None,
        };
        Self { etag, ..Self::from(shard) }
    }

    /// Whether it has only the fields that version 1 had.
    pub(super) fn is_of_version_1(&self) -> bool {
        matches!(
            self,
            Self {
                format: Format::Tar,
                unpacked_bytes: None,
                sha256: Some(_),
                etag: None,
                kept: None,
                captions: None,
                ..
            }
        )
    }
}

impl From<&Shard> for RawShard {
    fn from(shard: &Shard) -> Self {
        Self {
            path: shard.path.clone(),
            bytes: shard.bytes,
            format: shard.format,
            unpacked_bytes: shard.format.is_packed().then_some(shard.unpacked_bytes),
            sha256: shard.sha256().map(str::to_owned),
            etag: shard.etag().map(str::to_owned),
            samples: shard.samples,
            kept: shard.kept.as_ref().map(ToString::to_string),
            captions: shard.captions.as_ref().map(ToString::to_string),
        }
    }
}

impl TryFrom<RawShard> for Shard {
    type Error = Vec<(&'static str, String)>;

    fn try_from(raw: RawShard) -> Result<Self, Self::Error> {
        let mut problems = Vec::new();
        let kept = match raw.kept.as_deref().map(Kept::parse).transpose() {
            Ok(kept) => kept,
            Err(message) => {
                problems.push(("kept", message));
                None
            }
        };
        let captions = match raw.captions.as_deref().map(CaptionCounts::parse).transpose() {
            Ok(captions) => captions,
            Err(message) => {
                problems.push(("captions", message));
                None
            }
        };
        if raw.format.is_packed() && raw.unpacked_bytes.is_none() {
            problems.push(("unpacked_bytes", format!("is absent, but the format is {}", raw.format)));
        }
        let identity = match (raw.sha256, raw.etag) {
            (Some(sha256), etag) => Identity::Content { sha256, etag },
            (None, etag) => Identity::Tag { etag: etag.unwrap_or_default() },
        };
        let unpacked_bytes = raw.unpacked_bytes.unwrap_or(raw.bytes);
        let RawShard { path, bytes, format, samples, .. } = raw;
        let shard = Self { path, bytes, format, unpacked_bytes, identity, samples, kept, captions };
        problems.extend(shard.problems());
        if problems.is_empty() { Ok(shard) } else { Err(problems) }
    }
}
