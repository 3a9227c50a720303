//! What the worker's program does with a trained network: `cappactl export`, `cappactl embed` and `cappactl caption`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use cappa_data::index::IndexOptions;
use cappa_shared::checkpoint::{self, manifest_path};
use cappa_shared::ids::Step;
use cappa_shared::spec::is_manifest;
use cappa_shared::storage;
use clap::{Args, ValueEnum};

use super::audit::JobFolder;
use crate::cli::Global;
use crate::corpus;
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output;

/// A job's network as a checkpoint has it.
#[derive(Debug, Args)]
pub(crate) struct Trained {
    #[command(flatten)]
    job: JobFolder,
    /// The checkpoint's step. Default: the newest.
    #[arg(long, value_name = "STEP")]
    step: Option<u64>,
    /// With --store: the job's spec, as it was submitted or as it ran (`spec` of `cappactl describe JOB -o json`).
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// timm.create_model("local-dir:DIR", pretrained=True).
    Timm,
    /// transformers.SiglipVisionModel.from_pretrained("DIR").
    Transformers,
    /// open_clip.create_model("local-dir:DIR"), of clip and siglip with objective.text_pooling `last`.
    #[value(name = "open_clip")]
    OpenClip,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    network: Trained,
    /// The program that is to load it.
    #[arg(long, value_enum)]
    to: Format,
    /// A new folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Features {
    /// One vector an image: the mean over patches, or what attention pooling makes of them.
    Pooled,
    /// One vector a patch.
    Tokens,
    /// Of clip and siglip: the vector of length 1 that is compared with those of texts.
    Projected,
}

#[derive(Debug, Args)]
pub(crate) struct Embed {
    #[command(flatten)]
    network: Trained,
    /// Picture files, or folders of them.
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "data", conflicts_with = "data")]
    images: Vec<PathBuf>,
    /// All samples of a data manifest (it ends in .json), or of shards: a tar file, a folder, or a pattern such as 'train-*.tar'.
    #[arg(long, value_name = "URL")]
    data: Option<String>,
    /// What is written of each.
    #[arg(long, value_enum, default_value = "pooled")]
    features: Features,
    /// A new file: `.safetensors` or `.npy`. Beside it `.keys.txt` names the picture of every row.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Caption {
    #[command(flatten)]
    network: Trained,
    /// Picture files, or folders of them.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    images: Vec<PathBuf>,
}

pub(crate) async fn caption(global: &Global, arguments: &Caption) -> anyhow::Result<Exit> {
    let json = matches!(global.output, output::Format::Json).then(|| "--json".into());
    let images = arguments.images.iter().map(OsString::from);
    arguments.network.run(global, "caption", json.into_iter().chain(images)).await
}

pub(crate) async fn export(global: &Global, arguments: &Export) -> anyhow::Result<Exit> {
    let rest = ["--to".into(), word(arguments.to), "--out".into(), arguments.out.clone().into()];
    arguments.network.run(global, "export", rest).await
}

pub(crate) async fn embed(global: &Global, arguments: &Embed) -> anyhow::Result<Exit> {
    let Embed { images, data, features, out, .. } = arguments;
    let mut rest: Vec<OsString> = vec!["--features".into(), word(*features), "--out".into(), out.clone().into()];
    let scratch = tempfile::tempdir()?;
    if let Some(data) = data {
        let at = if is_manifest(data) { data.clone() } else { indexed(data, scratch.path()).await? };
        let here = std::env::current_dir().context("there is no current folder")?;
        let at = if at.contains("://") { at.into() } else { storage::absolute(&here, at.as_ref()).into() };
        rest.extend(["--data".into(), at]);
    }
    if !images.is_empty() {
        rest.push("--images".into());
        rest.extend(images.iter().map(OsString::from));
    }
    arguments.network.run(global, "embed", rest).await
}

/// A manifest of shards that are to be read but once.
async fn indexed(shards: &str, scratch: &Path) -> anyhow::Result<String> {
    let manifest = scratch.join("shards.json").display().to_string();
    Ok(corpus::index(&[shards.to_owned()], Some(&manifest), IndexOptions::default()).await?.url)
}

fn word(value: impl ValueEnum) -> OsString {
    value.to_possible_value().expect("no value is hidden").get_name().into()
}

impl Trained {
    /// Runs the worker's program on the checkpoint.
    async fn run(
        &self,
        global: &Global,
        command: &str,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> anyhow::Result<Exit> {
        let document = self.job.spec(global, self.spec.as_deref()).await?;
        let folder = self.job.url(global).await?;
        let at = storage::open(&folder)?;
        let step = match self.step {
            Some(step) => checkpoint::load(&at, Step(step)).await?.contents().step,
            None => match checkpoint::newest(&at).await? {
                Some(newest) => newest.contents().step,
                None => {
                    let message = format!("{folder} has no committed checkpoint yet");
                    return Err(Failure::new(Exit::NotFound, message).into());
                }
            },
        };
        let scratch = tempfile::tempdir()?;
        let spec = scratch.path().join("spec.json");
        std::fs::write(&spec, document)?;
        let program = local::binary("cappa-worker")?;
        let mut worker = Command::new(&program);
        worker.arg(command).arg("--checkpoint").arg(format!("{folder}/{}", manifest_path(step)));
        let status = worker.arg("--spec").arg(&spec).args(arguments).status();
        let status = status.with_context(|| format!("cannot start {}", program.display()))?;
        // It has said why.
        Ok(if status.success() { Exit::Ok } else { Exit::Failed })
    }
}
