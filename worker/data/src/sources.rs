//! The corpora that a job reads: one, or several whose shards are numbered through, as the job's order numbers them.

use std::sync::Arc;

use cappa_shared::manifest::{DataManifest, Shard, UncountedCaptions};
use cappa_shared::spec::Captions;
use cappa_shared::storage::{Location, StorageError};

/// A corpus in a store.
#[derive(Debug, Clone)]
pub struct Source {
    /// What it has.
    pub manifest: Arc<DataManifest>,
    /// Where the manifest lies; shards are beside it.
    pub origin: Location,
}

/// The sources of a job, at least one.
#[derive(Debug, Clone)]
pub struct Sources {
    sources: Vec<Source>,
    /// The first shard of every source.
    firsts: Vec<usize>,
}

impl Sources {
    /// Sources in the order of the job's spec. There must be one.
    pub fn new(sources: Vec<Source>) -> Self {
        assert!(!sources.is_empty(), "a job has at least one source");
        let next = |next: &mut usize, source: &Source| {
            let first = *next;
            *next += source.manifest.shards().len();
            Some(first)
        };
        Self { firsts: sources.iter().scan(0, next).collect(), sources }
    }

    /// One source alone.
    pub fn alone(manifest: impl Into<Arc<DataManifest>>, origin: Location) -> Self {
        Self::new(vec![Source { manifest: manifest.into(), origin }])
    }

    /// The sources.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter()
    }

    /// What an epoch has of every shard of every source, as the sample order takes it.
    ///
    /// # Errors
    /// When every caption is wanted and a manifest does not count them: the manifest's URL and the reason.
    pub fn epoch_counts(&self, captions: &Captions) -> Result<Vec<Vec<u32>>, (String, UncountedCaptions)> {
        let counts = |source: &Source| {
            source.manifest.epoch_counts(captions).map_err(|reason| (source.origin.url().to_owned(), reason))
        };
        self.iter().map(counts).collect()
    }

    /// Samples of every shard of every source.
    pub fn sample_counts(&self) -> Vec<Vec<u32>> {
        self.iter().map(|source| source.manifest.sample_counts()).collect()
    }

    /// Samples over all sources.
    pub fn total_samples(&self) -> u64 {
        self.iter().map(|source| source.manifest.total_samples()).sum()
    }

    /// Shards over all sources.
    pub fn shards(&self) -> u32 {
        let shards: usize = self.iter().map(|source| source.manifest.shards().len()).sum();
        u32::try_from(shards).expect("the sample order refuses more than 2^32 shards")
    }

    /// A shard and its source, by its number.
    pub fn shard(&self, number: u32) -> (&Source, &Shard) {
        let number = number as usize;
        let source = self.firsts.partition_point(|&first| first <= number) - 1;
        // An empty source before it begins at the same number; the last that begins there has the shard.
        (&self.sources[source], &self.sources[source].manifest.shards()[number - self.firsts[source]])
    }

    /// Where a shard lies.
    ///
    /// # Errors
    /// When its path leads nowhere.
    pub fn location(&self, number: u32) -> Result<Location, StorageError> {
        let (source, shard) = self.shard(number);
        source.origin.sibling(&shard.path)
    }

    /// What messages and records call a shard: its path in the only manifest, or among several its URL.
    pub fn name(&self, number: u32) -> String {
        let path = self.shard(number).1.path.clone();
        match self.sources.as_slice() {
            [_] => path,
            _ => self.location(number).map_or(path, |location| location.to_string()),
        }
    }
}
