//! The index: reads the shards that patterns name, several at a time, and writes down what they hold.
//!
//! Shards are read whole, for their digest; where that takes too long, a quick index reads the headers of plain tar files in stores and
//! knows these by ETag and size. Where the samples lie in a shard is not written down: a shard is read whole in training
//! too, and finding its samples again takes microseconds a sample.

mod find;
mod inspect;
mod journal;
mod pattern;
mod read;
mod report;
mod verify;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cappa_shared::manifest::{AppliedFilter, DataManifest, Filter, ManifestError, ManifestProblem, Recipe, Shard};
use cappa_shared::storage::{Location, StorageError};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::Value;

pub use inspect::{
    Captions, Field, Images, InspectOptions, Inspection, Percentiles, SheetError, SheetFormat, Shown, Thumbnail,
    inspect_manifest, inspect_patterns,
};
pub use journal::Journal;
pub use pattern::{PatternError, places};
pub use report::{IndexReport, ShardReport};
pub use verify::{Bad, Verified, verify};

use crate::manifest::{ManifestFileError, read_manifest, write_manifest};
use crate::sample::CaptionSource;
use find::{Found, find};
use journal::PERIOD;

/// Why shards can't be indexed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The filter is not possible; every problem is listed.
    #[error("the filter is not possible: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Filter(Vec<ManifestProblem>),
    /// Nothing matches the pattern.
    #[error(
        "no shard matches {0:?}; name tar files (.tar, .tar.gz, .tar.zst), a folder of them or of loose pictures, or a pattern like train-*.tar"
    )]
    NoShards(String),
    /// There are shards, but not one sample.
    #[error("the shards of {pattern:?} hold no samples that can be used: {problems}")]
    NoSamples {
        /// What was asked for.
        pattern: String,
        /// What is wrong with the shards.
        problems: String,
    },
    /// The store failed.
    #[error("the shards cannot be read; run the index again when the store answers, it goes on where it was")]
    Storage(#[from] StorageError),
    /// This machine's disk failed.
    #[error("shard {location} cannot be read")]
    Disk {
        /// The shard.
        location: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A shard was written while it was read.
    #[error("shard {location} was written while it was read; run the index again when nobody writes it")]
    Changing {
        /// The shard.
        location: String,
    },
    /// Whoever asked for the index wants it no more.
    #[error("the index was stopped; it goes on where it was when it is made again")]
    Stopped,
    /// A shard has more samples than a manifest can say.
    #[error("shard {location} has too many samples; split it")]
    TooLarge {
        /// The shard.
        location: String,
    },
    /// The shards make no manifest.
    #[error("the shards make no manifest")]
    Manifest(#[from] ManifestError),
    /// The manifest can't be read or written.
    #[error(transparent)]
    File(#[from] ManifestFileError),
}

/// How an index is made.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Which samples are used; by default all.
    pub filter: Filter,
    /// Where captions are looked for, for a filter on their length and to count them.
    pub captions: CaptionSource,
    /// Whether the captions of every sample are counted, for jobs that take each of them as a sample of its own.
    pub every_caption: bool,
    /// Whether shards that the manifest at the place of the new one knows, and whose size and ETag (for a folder: files, sizes and
    /// times) are as they were, are taken over without reading them.
    pub update: bool,
    /// Whether of plain tar files in a store only the headers are read, about one request a sample, and the shards known by ETag and
    /// size instead of a digest. Has no effect on what is local, packed, without a strong ETag, has to pass a filter, or whose captions
    /// are counted.
    pub quick: bool,
    /// Shards that are read at the same time.
    pub parallel: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        let parallel = std::thread::available_parallelism().map_or(4, std::num::NonZero::get).clamp(2, 16);
        Self {
            filter: Filter::default(),
            captions: CaptionSource::default(),
            every_caption: false,
            update: false,
            quick: false,
            parallel,
        }
    }
}

/// How far an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexProgress {
    /// Shards done.
    pub shards: usize,
    /// Shards to do.
    pub of: usize,
    /// Bytes of the shards done.
    pub bytes: u64,
    /// Samples found in them.
    pub samples: u64,
}

/// Indexes the shards that `patterns` name and writes the manifest. A pattern is a tar file (plain, gzip or zstd), a folder or a
/// store's prefix (all tar files directly in it; where there are none, a local folder's loose files and those of the folders below
/// it), or has braces and, in any part, wildcards. Local patterns are absolute. Paths in the manifest are relative to `manifest`'s
/// folder where they can be. Shards without samples are left out and reported. Blocks.
///
/// An index that was killed goes on where it was when it is called again: see the journal beside the manifest. The manifest
/// appears whole or not at all.
///
/// # Errors
/// When nothing matches, nothing has samples, or a shard can't be read. A damaged shard is no error: what is readable of it
/// is indexed, and the damage reported.
pub fn index(
    patterns: &[String],
    manifest: &Location,
    options: &IndexOptions,
    progress: impl FnMut(IndexProgress),
) -> Result<IndexReport, IndexError> {
    let (report, journal) = scan(patterns, manifest, options, &AtomicBool::new(false), progress)?;
    write_manifest(manifest, &report.manifest)?;
    journal.remove()?;
    Ok(report)
}

/// As [`index()`], but writes no manifest: the caller does, in the folder of `manifest`, and then removes the journal. Ends before
/// the next shard once `stop` is set.
///
/// # Errors
/// As [`index()`], and [`IndexError::Stopped`].
pub fn scan(
    patterns: &[String],
    manifest: &Location,
    options: &IndexOptions,
    stop: &AtomicBool,
    mut progress: impl FnMut(IndexProgress),
) -> Result<(IndexReport, Journal), IndexError> {
    let problems = options.filter.problems();
    if !problems.is_empty() {
        return Err(IndexError::Filter(problems));
    }
    let recipe = recipe(options);
    let found = find(patterns)?;
    let folder = format!("{}/", manifest.parent().url());
    let paths: Vec<String> =
        found.iter().map(|f| f.location.url().strip_prefix(&folder).unwrap_or(f.location.url()).to_owned()).collect();
    let (journal, mut known) = Journal::open(manifest, recipe.clone())?;
    let earlier = if options.update { earlier(manifest)? } else { None };
    let mut removed = Vec::new();
    if let Some(earlier) = earlier {
        let present: HashSet<&String> = paths.iter().collect();
        removed
            .extend(earlier.shards().iter().map(|shard| &shard.path).filter(|path| !present.contains(path)).cloned());
        if *earlier.recipe() == recipe {
            earlier.shards().iter().for_each(|shard| {
                known.entry(shard.path.clone()).or_insert_with(|| shard.clone());
            });
        }
    }
    let mut work = Work { found: &found, paths: &paths, options, journal, shards: vec![None; found.len()] };
    let unchanged = work.take_over(&known);
    let reports = work.read(stop, &mut progress)?;
    let Work { shards, journal, .. } = work;
    let used: Vec<Shard> = shards.into_iter().flatten().filter(|shard| shard.samples > 0).collect();
    if used.is_empty() {
        let pattern = patterns.join(", ");
        let problems = reports.iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(IndexError::NoSamples { pattern, problems });
    }
    let manifest = DataManifest::indexed(recipe, used)?;
    Ok((IndexReport { manifest, shards: reports, unchanged, removed }, journal))
}

/// What is asked for, as the manifest records it.
fn recipe(options: &IndexOptions) -> Recipe {
    let asks = options.filter.asks_captions();
    let captions = || serde_json::to_value(&options.captions).expect("a caption source always serialises");
    let filter = (!options.filter.is_empty()).then(|| AppliedFilter {
        bounds: options.filter.clone(),
        captions: if asks { captions() } else { Value::Null },
    });
    Recipe { filter, captions: options.every_caption.then(|| options.captions.clone()) }
}

/// The manifest that is there.
fn earlier(manifest: &Location) -> Result<Option<DataManifest>, IndexError> {
    match read_manifest(manifest) {
        Ok(earlier) => Ok(Some(earlier)),
        Err(ManifestFileError::Storage { source: StorageError::NotFound { .. }, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What reading one shard came to.
type Read = Result<(Shard, ShardReport), IndexError>;

/// An index under way.
struct Work<'a> {
    found: &'a [Found],
    paths: &'a [String],
    options: &'a IndexOptions,
    journal: Journal,
    /// What is known of every shard.
    shards: Vec<Option<Shard>>,
}

impl Work<'_> {
    /// Takes over the shards that are as they were; gives their number.
    fn take_over(&mut self, known: &HashMap<String, Shard>) -> usize {
        let mut count = 0;
        for (place, (found, path)) in self.found.iter().zip(self.paths).enumerate() {
            let is_same = |shard: &&Shard| {
                // Without an ETag nothing tells that a shard of the same size is the same.
                (shard.bytes, shard.format) == (found.bytes, found.format)
                    && found.etag.is_some()
                    && shard.etag() == found.etag.as_deref()
                    && (self.options.quick || shard.sha256().is_some())
            };
            if let Some(shard) = known.get(path).filter(is_same) {
                self.shards[place] = Some(shard.clone());
                count += 1;
            }
        }
        count
    }

    /// Reads the shards that are not known, several at a time. What was read before one failed is in the journal.
    fn read(
        &mut self,
        stop: &AtomicBool,
        progress: &mut impl FnMut(IndexProgress),
    ) -> Result<Vec<ShardReport>, IndexError> {
        let todo: Vec<usize> = (0..self.found.len()).filter(|place| self.shards[*place].is_none()).collect();
        let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, results) = crossbeam_channel::bounded(self.options.parallel.max(1));
        let (found, paths, options) = (self.found, self.paths, self.options);
        let mut reports = std::thread::scope(|scope| {
            for number in 0..self.options.parallel.clamp(1, todo.len().max(1)) {
                let (sender, next, has_failed, todo) = (sender.clone(), &next, &has_failed, &todo);
                let read = move || {
                    while !has_failed.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                        let Some(&place) = todo.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                        let outcome = read::index_shard(&found[place], paths[place].clone(), options);
                        if sender.send((place, outcome)).is_err() {
                            return;
                        }
                    }
                };
                std::thread::Builder::new()
                    .name(format!("index-{number}"))
                    .spawn_scoped(scope, read)
                    .map_err(|source| disk(&found[0].location, source))?;
            }
            drop(sender);
            self.take_in(&results, &has_failed, progress)
        })?;
        if stop.load(Ordering::Relaxed) {
            return Err(IndexError::Stopped);
        }
        reports.sort_by_key(|(place, _)| *place);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    /// Takes in what the readers find, until they end; after a failure they are told to.
    fn take_in(
        &mut self,
        results: &Receiver<(usize, Read)>,
        has_failed: &AtomicBool,
        progress: &mut impl FnMut(IndexProgress),
    ) -> Result<Vec<(usize, ShardReport)>, IndexError> {
        let mut state = IndexProgress { shards: 0, of: self.found.len(), bytes: 0, samples: 0 };
        self.shards.iter().flatten().for_each(|shard| state.add(shard));
        progress(state);
        let (mut reports, mut failed) = (Vec::new(), None);
        loop {
            let taken = match results.recv_timeout(PERIOD) {
                Ok((place, outcome)) => outcome.and_then(|(shard, report)| {
                    self.journal.add(&shard)?;
                    state.add(&shard);
                    progress(state);
                    self.shards[place] = Some(shard);
                    reports.push((place, report));
                    Ok(())
                }),
                // A shard that takes long must not keep those before it out of the journal.
                Err(RecvTimeoutError::Timeout) => self.journal.write(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = taken {
                has_failed.store(true, Ordering::Relaxed);
                failed.get_or_insert(error);
            }
        }
        self.journal.write()?;
        failed.map_or(Ok(reports), Err)
    }
}

impl IndexProgress {
    fn add(&mut self, shard: &Shard) {
        self.shards += 1;
        self.bytes += shard.bytes;
        self.samples += u64::from(shard.samples);
    }
}

/// The manifest's usual place: beside the shards, named by what their names have in common, as `train.manifest.json` for
/// `train-000000.tar`.
///
/// # Errors
/// When the pattern names no shard.
pub fn default_manifest(patterns: &[String]) -> Result<Location, IndexError> {
    let found = find(patterns)?;
    let name = |found: &Found| found.location.prefix.filename().unwrap_or_default().to_owned();
    let first = name(&found[0]);
    let first = first.split(".t").next().unwrap_or(&first).to_owned();
    let common = found.iter().map(name).fold(first, |common, name| {
        let same = common.chars().zip(name.chars()).take_while(|(left, right)| left == right);
        same.map(|(character, _)| character).collect()
    });
    let stem = common.trim_end_matches(|character: char| character.is_ascii_digit() || "-_.".contains(character));
    let stem = if stem.is_empty() { "data" } else { stem };
    Ok(found[0].location.parent().join(&format!("{stem}.manifest.json"))?)
}

fn disk(location: &Location, source: io::Error) -> IndexError {
    IndexError::Disk { location: location.to_string(), source }
}
