//! What an index found, beyond the manifest.

use std::fmt;

use cappa_shared::manifest::DataManifest;

use crate::sample::IMAGE_EXTENSIONS;
use crate::shards::Scan;

/// A manifest and what is wrong with the shards.
#[derive(Debug, Clone)]
pub struct IndexReport {
    /// The manifest; shards without samples are left out.
    pub manifest: DataManifest,
    /// Every shard that was scanned.
    pub shards: Vec<ShardReport>,
}

/// What the scan of a shard found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardReport {
    /// The shard as the manifest names it.
    pub path: String,
    /// Samples that it holds.
    pub samples: usize,
    /// Samples without a `.jpg` or `.png`.
    pub without_image: usize,
    /// Samples with neither a `.txt` nor a `.json`.
    pub without_caption: usize,
    /// What ended the scan early.
    pub damage: Option<String>,
}

impl IndexReport {
    /// The shards with which something is wrong.
    pub fn problems(&self) -> impl Iterator<Item = &ShardReport> {
        self.shards.iter().filter(|shard| shard.has_problems())
    }
}

impl ShardReport {
    pub(super) fn new(path: String, scan: &Scan) -> Self {
        let without = |extensions: &[&str]| scan.samples.iter().filter(|s| s.file(extensions).is_none()).count();
        Self {
            path,
            samples: scan.samples.len(),
            without_image: without(&IMAGE_EXTENSIONS),
            without_caption: without(&["txt", "json"]),
            damage: scan.damage.as_ref().map(ToString::to_string),
        }
    }

    /// Whether something is wrong with the shard.
    pub fn has_problems(&self) -> bool {
        self.samples == 0 || self.without_image > 0 || self.without_caption > 0 || self.damage.is_some()
    }
}

impl fmt::Display for ShardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} samples", self.path, self.samples)?;
        if self.without_image > 0 {
            write!(f, ", {} without an image", self.without_image)?;
        }
        if self.without_caption > 0 {
            write!(f, ", {} without a caption", self.without_caption)?;
        }
        self.damage.iter().try_for_each(|damage| write!(f, ", {damage}"))
    }
}
