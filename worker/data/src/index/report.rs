//! What an index found, beyond the manifest.

use std::collections::BTreeMap;
use std::fmt;

use cappa_shared::manifest::{DataManifest, Dropped};

use crate::sample::IMAGE_EXTENSIONS;
use crate::shards::Scan;

/// A manifest and what is wrong with the shards.
#[derive(Debug, Clone)]
pub struct IndexReport {
    /// The manifest; shards without samples are left out.
    pub manifest: DataManifest,
    /// Every shard that was scanned; those taken over from an earlier index are not.
    pub shards: Vec<ShardReport>,
    /// How many shards were taken over as an earlier index had found them.
    pub unchanged: usize,
    /// Shards of the earlier manifest that are no longer there.
    pub removed: Vec<String>,
}

/// What the scan of a shard found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// The shard as the manifest names it.
    pub path: String,
    /// Samples that it holds, used or not.
    pub samples: usize,
    /// Samples without an image file.
    pub without_image: usize,
    /// Samples with neither a `.txt` nor a `.json`.
    pub without_caption: usize,
    /// Samples that the filter dropped, by the first bound that they don't meet.
    pub dropped: BTreeMap<Dropped, usize>,
    /// Hard and symbolic links that were skipped.
    pub links: u32,
    /// Sparse files that were skipped.
    pub sparse: u32,
    /// What ended the scan early.
    pub damage: Option<String>,
}

impl IndexReport {
    /// The shards with which something is wrong.
    pub fn problems(&self) -> impl Iterator<Item = &ShardReport> {
        self.shards.iter().filter(|shard| shard.has_problems())
    }

    /// Samples that the filter dropped from the shards that were scanned, by the first bound that they don't meet.
    pub fn dropped(&self) -> BTreeMap<Dropped, usize> {
        let mut sum = BTreeMap::new();
        for (reason, count) in self.shards.iter().flat_map(|shard| &shard.dropped) {
            *sum.entry(*reason).or_default() += count;
        }
        sum
    }
}

impl ShardReport {
    pub(super) fn new(path: String, scan: &Scan, dropped: BTreeMap<Dropped, usize>) -> Self {
        let without = |extensions: &[&str]| scan.samples.iter().filter(|s| s.file(extensions).is_none()).count();
        Self {
            path,
            samples: scan.samples.len(),
            without_image: without(&IMAGE_EXTENSIONS),
            without_caption: without(&["txt", "json"]),
            dropped,
            links: scan.links,
            sparse: scan.sparse,
            damage: scan.damage.as_ref().map(ToString::to_string),
        }
    }

    /// Whether something is wrong with the shard. That a filter drops samples is not.
    pub fn has_problems(&self) -> bool {
        let counts = [self.without_image, self.without_caption, self.links as usize, self.sparse as usize];
        self.samples == 0 || counts.iter().any(|count| *count > 0) || self.damage.is_some()
    }
}

impl fmt::Display for ShardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} samples", self.path, self.samples)?;
        for (count, what) in [
            (self.without_image, "without an image"),
            (self.without_caption, "without a caption"),
            (self.links as usize, "links skipped"),
            (self.sparse as usize, "sparse files skipped"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        for (bound, count) in &self.dropped {
            write!(f, ", {count} dropped by {}", format!("{bound:?}").to_lowercase())?;
        }
        self.damage.iter().try_for_each(|damage| write!(f, ", {damage}"))
    }
}
