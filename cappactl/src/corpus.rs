//! Making a corpus: synthetic shards, their manifest, a tokenizer, with progress.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs};

use anyhow::Context as _;
use cappa_data::index::{self, IndexError, IndexOptions, IndexProgress, IndexReport, InspectOptions, Inspection};
use cappa_data::sample::{CaptionSource, RawSample};
use cappa_data::shards::Shard;
use cappa_data::synth::{self, SynthConfig, SynthError, SynthReport};
use cappa_data::text;
use cappa_shared::causes::with_causes;
use cappa_shared::manifest::DataManifest;
use cappa_shared::storage::{self, StorageError};

use crate::exit::{Exit, Failure};
use crate::progress::Meter;
use crate::units;

/// Writes a synthetic corpus.
pub(crate) async fn synthesize(config: SynthConfig, dir: PathBuf) -> anyhow::Result<SynthReport> {
    on_a_thread(move || {
        let meter = Mutex::new(Meter::new("rendering", config.samples + config.heldout));
        let progress = |done, _| meter.lock().expect("no holder of the meter panics").set(done, "samples");
        synth::generate(&config, &dir, &progress).map_err(refused)
    })
    .await
}

/// Writes a synthetic corpus into `corpus` of a folder, a manifest of each split beside its shards, and `tokenizer.json`, trained on
/// its captions: all that a job needs.
pub(crate) async fn ready(config: SynthConfig, dir: &Path) -> anyhow::Result<()> {
    let folder = dir.join("corpus");
    eprintln!("writing a synthetic corpus of {} scenes", units::grouped(config.samples + config.heldout));
    synthesize(config, folder.clone()).await?;
    for split in ["train", "heldout"] {
        let file = |name: String| folder.join(name).to_string_lossy().into_owned();
        let (shards, manifest) = (file(format!("{split}-*.tar")), file(format!("{split}.json")));
        index(&[shards], Some(&manifest), IndexOptions::default()).await?;
    }
    train_tokenizer(vec![folder.join("train.json")], text::DEFAULT_VOCABULARY, dir.join("tokenizer.json")).await?;
    Ok(())
}

/// A configuration that cannot be and a folder that is taken are mistakes of the command line.
fn refused(error: SynthError) -> anyhow::Error {
    let failure = match &error {
        SynthError::Config { problems } => {
            Failure::new(Exit::Usage, "the corpus cannot be made as asked").details(problems.clone())
        }
        SynthError::FolderInUse { .. } => Failure::new(Exit::Usage, error.to_string()),
        _ => return error.into(),
    };
    failure.into()
}

/// A manifest that was written.
pub(crate) struct Indexed {
    /// URL of the manifest.
    pub(crate) url: String,
    pub(crate) report: IndexReport,
}

/// Writes the manifest of the shards that patterns name, at `out` or at the usual place beside the shards. What is
/// wrong with shards goes to stderr.
pub(crate) async fn index(patterns: &[String], out: Option<&str>, options: IndexOptions) -> anyhow::Result<Indexed> {
    let patterns = patterns.iter().map(|pattern| absolute(pattern)).collect::<anyhow::Result<Vec<_>>>()?;
    let out = out.map(absolute).transpose()?;
    on_a_thread(move || {
        let location = match out {
            Some(out) => storage::open(&out).map_err(|error| failed(error.into()))?,
            None => index::default_manifest(&patterns).map_err(failed)?,
        };
        let mut meter = Meter::new("indexing", 0);
        let found = index::index(&patterns, &location, &options, |progress| {
            meter.set_total(progress.of as u64);
            let read = format!("{} samples, {}", units::grouped(progress.samples), units::bytes(progress.bytes));
            meter.set(progress.shards as u64, &format!("shards, {read}"));
        })
        .map_err(failed)?;
        drop(meter);
        for problem in found.problems() {
            eprintln!("{problem}");
        }
        for path in &found.removed {
            eprintln!("{path}: is gone, and no longer in the manifest");
        }
        let dropped: Vec<String> =
            found.dropped().iter().map(|(bound, count)| format!("{count} by {bound:?}")).collect();
        if !dropped.is_empty() {
            eprintln!("the filter dropped {}", dropped.join(", ").to_lowercase());
        }
        Ok(Indexed { url: location.url().to_owned(), report: found })
    })
    .await
}

/// Reads all that a manifest names and says what is bad.
pub(crate) async fn verify(manifest: &str, captions: CaptionSource) -> anyhow::Result<index::Verified> {
    let manifest = absolute(manifest)?;
    on_a_thread(move || {
        let location = storage::open(&manifest).map_err(|error| failed(error.into()))?;
        let document = cappa_data::read_manifest(&location)?;
        let mut meter = Meter::new("verifying", document.shards().len() as u64);
        let parallel = IndexOptions::default().parallel;
        let verified = index::verify(&location, &document, &captions, parallel, |progress| {
            let read = format!("{} samples, {}", units::grouped(progress.samples), units::bytes(progress.bytes));
            meter.set(progress.shards as u64, &format!("shards, {read}"));
        });
        verified.map_err(failed)
    })
    .await
}

/// Looks into the corpus of a manifest, or into the shards that patterns name.
pub(crate) async fn inspect(inputs: &[String], options: InspectOptions) -> anyhow::Result<Inspection> {
    let inputs = inputs.iter().map(|input| absolute(input)).collect::<anyhow::Result<Vec<_>>>()?;
    on_a_thread(move || {
        let mut meter = Meter::new("reading", 0);
        let progress = |progress: IndexProgress| {
            meter.set_total(progress.of as u64);
            meter.set(progress.shards as u64, &format!("shards, {} samples", units::grouped(progress.samples)));
        };
        match inputs.as_slice() {
            [manifest] if manifest.ends_with(".json") => {
                let location = storage::open(manifest).map_err(|error| failed(error.into()))?;
                let document = cappa_data::read_manifest(&location)?;
                Ok(index::inspect_manifest(&location, &document, &options, progress))
            }
            patterns => Ok(index::inspect_patterns(patterns, &options, progress).map_err(failed)?),
        }
    })
    .await
}

/// What was asked for in a way that can't be is a mistake of the command line; a store that is away is waited for by trying again.
fn failed(error: IndexError) -> anyhow::Error {
    let exit = match &error {
        IndexError::Pattern(_) | IndexError::Filter(_) | IndexError::NoShards(_) => Exit::Usage,
        IndexError::Storage(StorageError::BadUrl { .. }) => Exit::Usage,
        IndexError::Storage(source) => source.code().exit(),
        _ => return error.into(),
    };
    let exit = if exit == Exit::JobFailed { Exit::Failed } else { exit };
    let failure = Failure::new(exit, error.to_string());
    match error.source() {
        Some(source) => failure.source(with_causes(source)).into(),
        None => failure.into(),
    }
}

/// A URL as it is, a path from the root on.
fn absolute(place: &str) -> anyhow::Result<String> {
    if place.contains("://") {
        return Ok(place.to_owned());
    }
    let here = env::current_dir().context("the working folder is gone")?;
    Ok(storage::absolute(&here, Path::new(place)).to_string_lossy().into_owned())
}

/// Trains a tokenizer from the captions of shards and of the shards of manifests; gives its number of captions.
pub(crate) async fn train_tokenizer(inputs: Vec<PathBuf>, vocabulary: usize, out: PathBuf) -> anyhow::Result<u64> {
    on_a_thread(move || {
        let shards = shards_of(&inputs)?;
        let mut meter = Meter::new("reading captions", shards.len() as u64);
        let mut captions = Vec::new();
        for (index, path) in shards.iter().enumerate() {
            read_captions(path, &mut captions)?;
            meter.set(index as u64 + 1, "shards");
        }
        let count = captions.len() as u64;
        write(&out, &text::train(captions.into_iter(), vocabulary)?)?;
        Ok(count)
    })
    .await
}

/// The tar files that the arguments name, each once: themselves, or by a manifest beside them.
fn shards_of(inputs: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for input in inputs {
        if input.extension().is_none_or(|extension| extension != "json") {
            shards.push(input.clone());
            continue;
        }
        let document = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
        let manifest = DataManifest::from_json(&document).with_context(|| input.display().to_string())?;
        let folder = input.parent().unwrap_or(Path::new("."));
        for shard in manifest.shards() {
            if shard.path.contains("://") {
                let message = format!("{} names {}, which is not on this machine", input.display(), shard.path);
                let remedy = "name shards that are; a sample of the corpus is enough for a tokenizer";
                return Err(Failure::new(Exit::Usage, message).remedy(remedy).into());
            }
            shards.push(folder.join(&shard.path));
        }
    }
    shards.sort();
    shards.dedup();
    Ok(shards)
}

/// Adds the captions of a shard. Samples without a usable one are left out, as training does.
fn read_captions(path: &Path, captions: &mut Vec<String>) -> anyhow::Result<()> {
    let shard = Shard::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    if let Some(damage) = shard.damage() {
        eprintln!("{}: {damage}; what lies before it is read", path.display());
    }
    for index in 0..u32::try_from(shard.samples().len())? {
        let found = RawSample::find(&shard, index).and_then(|sample| sample.captions(&CaptionSource::Auto));
        captions.extend(found.into_iter().flatten());
    }
    Ok(())
}

/// Writes a file whole or not at all, with the folders above it.
pub(crate) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let attempt = || {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
        std::io::Write::write_all(&mut file, content)?;
        file.persist(path).map_err(|error| error.error)
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Temporary files are for their owner only; what is made of them is for everybody.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the work ended unexpectedly")?
}
