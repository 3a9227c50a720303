//! Shards, rendered on all cores.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use super::config::{Split, SynthConfig};
use super::facts::{Classes, Facts};
use super::folder::{Folder, shard_name};
use super::rng::{Rng, Stream};
use super::rules::Rules;
use super::scene::Scene;
use super::{SynthError, grammar, questions, render};

/// Samples between two calls of the progress function, from one thread.
const PROGRESS_EVERY: u64 = 64;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynthReport {
    /// Of the training split.
    pub train: SplitReport,
    /// Of the held-out split.
    pub heldout: SplitReport,
}

/// What was written of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Number of samples.
    pub samples: u64,
    /// Number of shards.
    pub shards: u64,
    /// Size of all shards together.
    pub bytes: u64,
}

/// Writes the corpus into `out_dir`, which is created, or holds an earlier corpus, which is replaced.
///
/// `progress` is called from all threads with the samples done so far, of how many; the numbers of two threads may
/// arrive in either order. An interrupted run leaves whole shards and a [`super::CorpusCard`] that says it is incomplete.
///
/// # Errors
///
/// A configuration out of bounds, a folder that holds something else, or one that can't be written. The first error
/// stops all threads.
pub fn generate(
    config: &SynthConfig,
    out_dir: &Path,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<SynthReport, SynthError> {
    config.check()?;
    let folder = Folder::claim(out_dir, config)?;
    let report = Run::new(config, &folder, progress).write_shards()?;
    folder.write_classes(&Classes::of(Rules::of(config.level)))?;
    folder.finish(config, &report)?;
    Ok(report)
}

/// A shard to write: its split and its number there.
type Shard = (Split, u64);

/// What the threads of one run share.
struct Run<'a> {
    config: &'a SynthConfig,
    folder: &'a Folder,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    shards: Vec<Shard>,
    next_shard: AtomicUsize,
    samples_done: AtomicU64,
    failed: AtomicBool,
}

impl<'a> Run<'a> {
    fn new(config: &'a SynthConfig, folder: &'a Folder, progress: &'a (dyn Fn(u64, u64) + Sync)) -> Self {
        let shards_of = |split: Split| (0..config.shards(split)).map(move |shard| (split, shard));
        Self {
            config,
            folder,
            progress,
            shards: shards_of(Split::Train).chain(shards_of(Split::Heldout)).collect(),
            next_shard: AtomicUsize::new(0),
            samples_done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    fn write_shards(&self) -> Result<SynthReport, SynthError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(self.shards.len());
        let reports: Result<Vec<SynthReport>, SynthError> = thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work())).collect();
            let join = |handle: thread::ScopedJoinHandle<'_, _>| handle.join().expect("rendering does not panic");
            handles.into_iter().map(join).collect()
        });
        Ok(reports?.iter().fold(SynthReport::default(), |mut total, part| {
            total.train.add(&part.train);
            total.heldout.add(&part.heldout);
            total
        }))
    }

    /// One thread: takes shard after shard until none is left, or another thread failed.
    fn work(&self) -> Result<SynthReport, SynthError> {
        let mut report = SynthReport::default();
        while !self.failed.load(Ordering::Relaxed) {
            let Some(&shard) = self.shards.get(self.next_shard.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let written = self.write_shard(shard);
            if written.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            match shard.0 {
                Split::Train => report.train.add(&written?),
                Split::Heldout => report.heldout.add(&written?),
            }
        }
        Ok(report)
    }

    fn write_shard(&self, (split, shard): Shard) -> Result<SplitReport, SynthError> {
        let start = shard * self.config.samples_per_shard;
        let samples = self.config.samples_per_shard.min(self.config.samples(split) - start);
        let name = shard_name(split, shard);
        let path = self.folder.path_of(&name);
        let bytes = self.folder.write_whole(&name, |file| {
            let mut tar = tar::Builder::new(file);
            for within in 0..samples {
                let sample = Sample::new(self.config, split, shard, within)?;
                sample.append_to(&mut tar).map_err(SynthError::io("write", &path))?;
                if (within + 1) % PROGRESS_EVERY == 0 {
                    self.advance(PROGRESS_EVERY);
                }
            }
            self.advance(samples % PROGRESS_EVERY);
            tar.finish().map_err(SynthError::io("write", &path))
        })?;
        Ok(SplitReport { samples, shards: 1, bytes })
    }

    fn advance(&self, samples: u64) {
        if samples > 0 {
            let done = self.samples_done.fetch_add(samples, Ordering::Relaxed) + samples;
            (self.progress)(done, self.config.samples + self.config.heldout);
        }
    }
}

impl SplitReport {
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.shards += other.shards;
        self.bytes += other.bytes;
    }
}

/// The three files of a sample.
struct Sample {
    key: String,
    picture: Vec<u8>,
    facts: Facts,
}

impl Sample {
    /// The sample `within` a shard.
    fn new(config: &SynthConfig, split: Split, shard: u64, within: u64) -> Result<Self, SynthError> {
        let rules = Rules::of(config.level);
        let index = shard * config.samples_per_shard + within;
        let rng = |stream: Stream| Rng::new(config.seed, split, index, stream);
        let scene = Scene::draw(rules, split, index, &mut rng(Stream::Scene));
        let (mut captions, mut changes) = (rng(Stream::Captions), rng(Stream::Negatives));
        let said = grammar::describe(&scene, rules, split, &mut captions, &mut changes);
        let asked = questions::ask(&scene, &mut rng(Stream::Questions));
        let pixels = render::render(&scene, rules, config.image_size, &mut rng(Stream::Pixels));
        let key = sample_key(config.samples_per_shard, shard, within);
        match render::encode_jpeg(&pixels, config.image_size) {
            Ok(picture) => Ok(Self { key, picture, facts: Facts::new(&scene, said, asked) }),
            Err(source) => Err(SynthError::Encode { key, source }),
        }
    }

    fn append_to(&self, tar: &mut tar::Builder<&mut BufWriter<File>>) -> io::Result<()> {
        let facts = serde_json::to_vec(&self.facts).expect("plain data has a JSON form");
        append(tar, &format!("{}.jpg", self.key), &self.picture)?;
        append(tar, &format!("{}.txt", self.key), self.facts.captions[0].as_bytes())?;
        append(tar, &format!("{}.json", self.key), &facts)
    }
}

/// As img2dataset names samples: the shard's number, then the sample's number in it with as many digits as a full
/// shard needs.
fn sample_key(samples_per_shard: u64, shard: u64, within: u64) -> String {
    let digits = (samples_per_shard - 1).checked_ilog10().map_or(1, |log| log as usize + 1);
    format!("{shard:06}{within:0digits$}")
}

/// Appends a file without an owner or a time, so that equal corpora are equal bytes.
fn append(tar: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_as_many_digits_as_a_full_shard_needs() {
        assert_eq!(sample_key(1, 3, 0), "0000030");
        assert_eq!(sample_key(1000, 12, 999), "000012999");
        assert_eq!(sample_key(10_000, 0, 7), "0000000007");
    }
}
