//! `cappa-worker embed`: what an encoder makes of pictures, as arrays for other programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cappa_data::records::Records;
use cappa_data::shards::{FetchConfig, PoolConfig};
use cappa_data::stats::PipelineStats;
use cappa_data::{Sources, corpus};
use tch::{Device, Kind, Tensor};

use crate::cli::{EmbedArgs, FeatureKind};
use crate::evaluate::read_image;
use crate::train::network::{Features, Network};
use crate::trained::Trained;

/// Pictures that are encoded at a time.
const CHUNK: usize = 64;
/// How long an absent store is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bound of the shards that lie on this machine at once.
const CACHE_BYTES: u64 = 20 << 30;
/// Endings of picture files in a folder; what a file is, its content says.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Writes the features of every picture that can be read, and their keys beside them.
pub(crate) fn embed(args: &EmbedArgs) -> Result<()> {
    let extension = args.out.extension().and_then(|extension| extension.to_str());
    if !matches!(extension, Some("safetensors" | "npy")) {
        bail!("--out {} must end in .safetensors or .npy", args.out.display());
    }
    let trained = Trained::open(&args.network)?;
    let kind = match args.features {
        FeatureKind::Pooled => Features::Pooled,
        FeatureKind::Tokens => Features::Tokens,
        FeatureKind::Projected => Features::Projected,
    };
    let mut rows =
        Rows { network: &trained.network, kind, keys: Vec::new(), waiting: Vec::new(), features: Vec::new() };
    match &args.data {
        Some(url) => of_corpus(url, &trained, &args.cache, &mut rows)?,
        None => of_files(&args.images, trained.spec.data.image_size, &mut rows)?,
    }
    let (keys, features) = rows.finish()?;
    match extension {
        Some("npy") => features.write_npy(&args.out)?,
        _ => Tensor::write_safetensors(&[("features", &features)], &args.out)?,
    }
    let names = args.out.with_extension("keys.txt");
    fs::write(&names, keys.iter().map(|key| format!("{key}\n")).collect::<String>())?;
    eprintln!("{} rows of {:?} in {}", keys.len(), &features.size()[1..], args.out.display());
    Ok(())
}

/// What is collected.
struct Rows<'a> {
    network: &'a Network,
    kind: Features,
    keys: Vec<String>,
    /// Pictures `[1, H, W, 3]` that are still to be encoded.
    waiting: Vec<Tensor>,
    features: Vec<Tensor>,
}

impl Rows<'_> {
    fn add(&mut self, key: String, image: Tensor) -> Result<()> {
        self.keys.push(key);
        self.waiting.push(image);
        if self.waiting.len() == CHUNK { self.encode() } else { Ok(()) }
    }

    fn encode(&mut self) -> Result<()> {
        let images = Tensor::cat(&std::mem::take(&mut self.waiting), 0);
        let features = self.network.features(&images, self.kind)?;
        self.features.push(features.to_device(Device::Cpu).to_kind(Kind::Float));
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<String>, Tensor)> {
        if !self.waiting.is_empty() {
            self.encode()?;
        }
        if self.features.is_empty() {
            bail!("there is no picture that can be read");
        }
        Ok((self.keys, Tensor::cat(&self.features, 0)))
    }
}

fn of_files(paths: &[PathBuf], size: u32, rows: &mut Rows<'_>) -> Result<()> {
    for path in paths {
        for file in pictures(path)? {
            match read_image(&file, size) {
                Ok(image) => rows.add(file.display().to_string(), image)?,
                Err(error) => eprintln!("{} is left out: {error:#}", file.display()),
            }
        }
    }
    Ok(())
}

/// The picture files of a folder, by name, those of its folders too; a file is itself.
pub(crate) fn pictures(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.with_context(|| format!("{} can't be read", path.display()))?;
    let mut entries: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    entries.sort_unstable();
    let mut found = Vec::new();
    for entry in entries {
        let ending = entry.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        if entry.is_dir() || ending.is_some_and(|ending| PICTURES.contains(&ending.as_str())) {
            found.extend(pictures(&entry)?);
        }
    }
    Ok(found)
}

fn of_corpus(url: &str, trained: &Trained, cache: &Path, rows: &mut Rows<'_>) -> Result<()> {
    let stats = Arc::<PipelineStats>::default();
    let (manifest, origin) = trained.runtime.block_on(corpus::manifest(url, PATIENCE, &stats))?;
    let size = trained.spec.data.image_size;
    let config = PoolConfig {
        sources: Arc::new(Sources::alone(manifest, origin)),
        cache_folder: cache.to_owned(),
        cache_bytes: CACHE_BYTES,
        fetch: FetchConfig { patience: PATIENCE, ..FetchConfig::default() },
        stats,
    };
    let records = Records::open(config, size as usize)?;
    let side = i64::from(size);
    for number in 0..records.len() {
        match records.get(number)? {
            Ok(record) => rows.add(record.key, Tensor::from_slice(&record.image).view([1, side, side, 3]))?,
            Err(bad) => eprintln!("sample {number} is left out: {bad}"),
        }
    }
    Ok(())
}
