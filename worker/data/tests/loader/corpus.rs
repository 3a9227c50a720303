//! Small corpora on disk, whole or spoiled.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cappa_data::image::Preparation;
use cappa_data::shards::FetchConfig;
use cappa_data::text::{Buckets, Tokenizer, train};
use cappa_data::{Batch, Loader, LoaderConfig, Sources, Target};
use cappa_shared::ids::Step;
use cappa_shared::manifest::{DataManifest, Shard};
use cappa_shared::order::{JobOrder, Weights};
use cappa_shared::spec::{Augment, Captions};
use cappa_shared::storage::{self, Location};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const IMAGE_SIZE: usize = 8;
pub(crate) const TEXT_LENGTH: usize = 8;
pub(crate) const LANES: u32 = 4;
pub(crate) const BATCH_SIZE: u64 = 8;

/// The files of a sample: extension and content.
pub(crate) type Files = Vec<(&'static str, Vec<u8>)>;

/// Shards in a temporary folder, with their manifest.
pub(crate) struct Corpus {
    pub(crate) folder: TempDir,
    pub(crate) manifest: DataManifest,
}

/// A good sample; its picture and captions tell its number.
pub(crate) fn sample(number: usize) -> Files {
    let captions = format!(r#"{{"captions": ["star {number}", "a star of number {number}"]}}"#);
    vec![("jpg", jpeg(number)), ("txt", format!("star {number}").into_bytes()), ("json", captions.into_bytes())]
}

/// A JPEG of 12 × 10 pixels, of one colour.
pub(crate) fn jpeg(number: usize) -> Vec<u8> {
    let pixels = [(number * 37 % 251) as u8, (number * 91 % 251) as u8, (number * 13 % 251) as u8].repeat(120);
    let mut file = Vec::new();
    jpeg_encoder::Encoder::new(&mut file, 90).encode(&pixels, 12, 10, jpeg_encoder::ColorType::Rgb).unwrap();
    file
}

impl Corpus {
    /// Shards of `counts` good samples.
    pub(crate) fn of(counts: &[usize]) -> Self {
        let mut number = 0..;
        Self::with(counts.iter().map(|&count| number.by_ref().take(count).map(sample).collect()).collect())
    }

    /// Shards of these samples.
    pub(crate) fn with(shards: Vec<Vec<Files>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let entries = shards.iter().enumerate().map(|(number, samples)| {
            let path = folder.path().join(format!("train-{number:06}.tar"));
            write_tar(&path, number, samples);
            entry(&path, samples.len() as u32)
        });
        let manifest = DataManifest::new(entries.collect()).unwrap();
        Self { manifest, folder }
    }

    pub(crate) fn shard(&self, number: usize) -> PathBuf {
        self.folder.path().join(&self.manifest.shards()[number].path)
    }

    /// Spoils a shard and records it in the manifest as it is then: damage that was there when it was indexed.
    pub(crate) fn spoil(&mut self, number: usize, spoil: impl FnOnce(&mut Vec<u8>)) {
        let mut content = fs::read(self.shard(number)).unwrap();
        spoil(&mut content);
        fs::write(self.shard(number), content).unwrap();
        let mut shards = self.manifest.shards().to_vec();
        shards[number] = entry(&self.shard(number), shards[number].samples);
        self.manifest = DataManifest::new(shards).unwrap();
    }

    pub(crate) fn origin(&self) -> Location {
        storage::open(self.folder.path().join("train.manifest.json").to_str().unwrap()).unwrap()
    }

    /// The configuration of the only rank, from step 0.
    pub(crate) fn config(&self) -> LoaderConfig {
        config(self.at(self.origin()), &Weights::alone(), self.folder.path())
    }

    /// The corpus, read from a place.
    pub(crate) fn at(&self, origin: Location) -> Sources {
        Sources::alone(self.manifest.clone(), origin)
    }

    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.config().order.steps_per_epoch().unwrap()
    }

    /// All batches of the first epoch.
    pub(crate) fn first_epoch(&self) -> Vec<Batch> {
        take(self.config(), self.steps_per_epoch())
    }
}

/// The configuration of the only rank, from step 0, with its cache below a folder.
pub(crate) fn config(sources: Sources, weights: &Weights, folder: &Path) -> LoaderConfig {
    let order = JobOrder::new(sources.sample_counts(), weights, 7, LANES, 2, BATCH_SIZE).unwrap();
    LoaderConfig {
        sources: Arc::new(sources),
        order: Arc::new(order),
        lanes: 0..LANES,
        first_step: Step(0),
        end_step: None,
        preparation: Preparation::exact(IMAGE_SIZE),
        augment: Augment::default(),
        text_lengths: Buckets::new(vec![TEXT_LENGTH]).unwrap(),
        tokenizer: tokenizer(),
        captions: Captions::default(),
        target: Target::default(),
        parallel_fraction: 0.75,
        masking_ratio: 1.0,
        cache_folder: folder.join("cache"),
        cache_bytes: 1 << 30,
        decode_threads: 3,
        fetch: FetchConfig::default(),
        depth: 3,
        stats: Arc::default(),
    }
}

/// The next `count` batches of a configuration, without the times, which differ from run to run.
pub(crate) fn take(config: LoaderConfig, count: u64) -> Vec<Batch> {
    let mut loader = Loader::start(config).unwrap();
    (0..count).map(|_| Batch { timing: Default::default(), ..loader.next_batch().unwrap() }).collect()
}

pub(crate) fn tokenizer() -> Tokenizer {
    let captions: Vec<String> = (0..50).map(|number| format!("a star of number {number}")).collect();
    Tokenizer::from_bytes(&train(captions.iter(), 100).unwrap()).unwrap()
}

pub(crate) fn entry(path: &Path, samples: u32) -> Shard {
    let content = fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    Shard::tar(name, content.len() as u64, hex::encode(Sha256::digest(&content)), samples)
}

fn write_tar(path: &Path, shard: usize, samples: &[Files]) {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (number, files) in samples.iter().enumerate() {
        for (extension, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{shard:03}{number:04}.{extension}"), content.as_slice()).unwrap();
        }
    }
    tar.finish().unwrap();
}
