//! Reads a corpus back, as someone would who only knows the WebDataset layout.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use cappa_data::synth::{Facts, Level, SynthConfig, generate};
use tempfile::TempDir;
use zune_core::bytestream::ZCursor;
use zune_jpeg::JpegDecoder;

/// One sample of a shard.
pub(crate) struct Sample {
    pub(crate) key: String,
    pub(crate) picture: Vec<u8>,
    pub(crate) text: String,
    pub(crate) facts: Facts,
}

impl Sample {
    /// RGB, row by row.
    pub(crate) fn pixels(&self) -> Vec<u8> {
        JpegDecoder::new(ZCursor::new(&self.picture)).decode().expect("the picture is a JPEG")
    }
}

/// A corpus in a folder of its own.
pub(crate) struct Corpus {
    pub(crate) folder: TempDir,
    pub(crate) train: Vec<Sample>,
    pub(crate) heldout: Vec<Sample>,
}

pub(crate) fn config(level: Level, samples: u64, heldout: u64) -> SynthConfig {
    SynthConfig { level, samples, heldout, samples_per_shard: 500, seed: 17, image_size: 64 }
}

pub(crate) fn corpus(config: &SynthConfig) -> Corpus {
    let folder = tempfile::tempdir().expect("a temporary folder");
    generate(config, folder.path(), &|_, _| ()).expect("the corpus is written");
    let (train, heldout) = (read_split(folder.path(), "train"), read_split(folder.path(), "heldout"));
    Corpus { folder, train, heldout }
}

/// All samples of the shards with this prefix, in order.
pub(crate) fn read_split(folder: &Path, prefix: &str) -> Vec<Sample> {
    let names = shards(folder).into_iter();
    let of_split = names.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    of_split.flat_map(|path| read_shard(&path)).collect()
}

/// The shards of a folder, sorted.
pub(crate) fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    paths.sort();
    paths
}

fn read_shard(path: &Path) -> Vec<Sample> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let mut files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    });
    let mut samples = Vec::new();
    while let Some((name, picture)) = files.next() {
        let key = name.strip_suffix(".jpg").expect("a sample begins with its picture").to_owned();
        let (text_name, text) = files.next().unwrap();
        let (facts_name, facts) = files.next().unwrap();
        assert_eq!((text_name, facts_name), (format!("{key}.txt"), format!("{key}.json")));
        let facts = serde_json::from_slice(&facts).expect("the facts are JSON");
        samples.push(Sample { key, picture, text: String::from_utf8(text).unwrap(), facts });
    }
    samples
}
