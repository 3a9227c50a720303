//! `cappactl data`.

use std::path::PathBuf;

use cappa_data::index::{IndexOptions, Verified};
use cappa_data::sample::CaptionSource;
use cappa_data::synth::{Level, SynthConfig};
use cappa_shared::manifest::{Filter, ScoreRange};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::inspect::{self, Inspect};
use crate::cli::Global;
use crate::corpus;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;

/// Shards whose headers are read at the same time.
const QUICK_PARALLEL: usize = 64;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a synthetic corpus of rendered scenes with captions, as WebDataset shards.
    Synth(Synth),
    /// Write the manifest of shards, which training reads.
    Index(Index),
    /// Read all that a manifest names, decode every image, and name what is bad.
    Verify(Verify),
    /// Show what a corpus is like: counts, sizes, captions, fields, first samples, a contact sheet.
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub(crate) struct Synth {
    /// The folder to write: new, empty, or of an earlier synthetic corpus.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How hard the scenes are to tell apart: easy, medium or hard.
    #[arg(long, default_value_t = SynthConfig::default().level)]
    level: Level,
    /// Training samples.
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().samples)]
    samples: u64,
    /// Held-out samples, of combinations that training does not have.
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().heldout)]
    heldout: u64,
    /// Height and width of the pictures in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = SynthConfig::default().image_size)]
    image_size: u32,
    /// Samples in a shard.
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().samples_per_shard)]
    samples_per_shard: u64,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = SynthConfig::default().seed)]
    seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Index {
    /// Tar files (.tar, .tar.gz, .tar.zst), folders of them or of loose pictures, or patterns such as 'train-*.tar',
    /// 's3://bucket/*/train-{000..127}.tar' or 'corpus/**/*.tar'.
    #[arg(value_name = "SHARDS", required = true)]
    patterns: Vec<String>,
    /// The manifest to write, a path or URL; paths in it are relative to it [default: beside the shards].
    #[arg(long, value_name = "FILE")]
    out: Option<String>,
    /// Read only shards that are new or changed by size or ETag; the manifest that is there knows the others.
    #[arg(long)]
    update: bool,
    /// Of plain tar files in a store read only the headers, about one request a sample, and know them by ETag and size
    /// instead of a digest. Filters need the contents.
    #[arg(long, conflicts_with_all = ["every_caption", "min_side", "max_side", "max_aspect", "min_caption", "max_caption", "scores", "fields"])]
    quick: bool,
    /// Shards that are read at the same time [default: by the cores; 64 with --quick, which waits more than it reads].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: Option<u16>,
    /// Where captions are: auto, txt, or json:FIELD. Counts for bounds on their length and for --every-caption.
    #[arg(long, value_name = "SOURCE", default_value = "auto", value_parser = caption_source)]
    captions: CaptionSource,
    /// Count the captions of every sample, for jobs with `captions: {choose: all}`.
    #[arg(long)]
    every_caption: bool,
    #[command(flatten)]
    filter: Bounds,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The manifest, a path or URL.
    #[arg(value_name = "MANIFEST")]
    manifest: String,
    /// Where captions are: auto, txt, or json:FIELD.
    #[arg(long, value_name = "SOURCE", default_value = "auto", value_parser = caption_source)]
    captions: CaptionSource,
}

/// Which samples are used. The manifest records the bounds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
struct Bounds {
    /// Keep images whose shorter side has at least so many pixels.
    #[arg(long, value_name = "PIXELS")]
    min_side: Option<u32>,
    /// Keep images whose longer side has at most so many pixels.
    #[arg(long, value_name = "PIXELS")]
    max_side: Option<u32>,
    /// Keep images whose longer side is at most so many times the shorter one.
    #[arg(long, value_name = "RATIO")]
    max_aspect: Option<f64>,
    /// Keep samples whose captions all have at least so many characters.
    #[arg(long, value_name = "CHARACTERS")]
    min_caption: Option<u32>,
    /// Keep samples whose captions all have at most so many characters.
    #[arg(long, value_name = "CHARACTERS")]
    max_caption: Option<u32>,
    /// Keep samples whose number FIELD in the .json is within MIN and MAX; either may be left out.
    #[arg(long = "score", value_name = "FIELD=MIN..MAX", value_parser = score)]
    scores: Vec<ScoreRange>,
    /// Keep samples whose .json has FIELD; dots lead inwards.
    #[arg(long = "has", value_name = "FIELD")]
    fields: Vec<String>,
}

pub(super) fn caption_source(text: &str) -> Result<CaptionSource, String> {
    match (text, text.strip_prefix("json:")) {
        ("auto", _) => Ok(CaptionSource::Auto),
        ("txt", _) => Ok(CaptionSource::Txt),
        (_, Some(field)) if !field.is_empty() => Ok(CaptionSource::Json { field: field.to_owned() }),
        _ => Err("write auto, txt, or json: and the name of a field".into()),
    }
}

fn score(text: &str) -> Result<ScoreRange, String> {
    let form = || "write FIELD=MIN..MAX, like similarity=0.3..".to_owned();
    let (field, range) = text.rsplit_once('=').ok_or_else(form)?;
    let (min, max) = range.split_once("..").ok_or_else(form)?;
    let bound = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{text:?} is no number; {}", form())),
    };
    Ok(ScoreRange { field: field.to_owned(), min: bound(min)?, max: bound(max)? })
}

impl From<Index> for IndexOptions {
    fn from(index: Index) -> Self {
        let Bounds { min_side, max_side, max_aspect, min_caption, max_caption, scores, fields } = index.filter;
        let filter = Filter { min_side, max_side, max_aspect, min_caption, max_caption, scores, fields };
        let usual = Self::default();
        let parallel = if index.quick { QUICK_PARALLEL } else { usual.parallel };
        let parallel = index.parallel.map_or(parallel, usize::from);
        let Index { captions, every_caption, update, quick, .. } = index;
        Self { filter, captions, every_caption, update, quick, parallel }
    }
}

/// What a command wrote.
#[derive(Serialize)]
struct Written {
    path: String,
    shards: u64,
    samples: u64,
    bytes: u64,
    /// Captions of all samples, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<u64>,
    /// Shards that an earlier index had read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<u64>,
}

pub(crate) async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let written = match command {
        Command::Verify(arguments) => {
            let verified = corpus::verify(&arguments.manifest, arguments.captions).await?;
            output::print(global.output, &verified)?;
            return Ok(if verified.bad.is_empty() { Exit::Ok } else { Exit::Failed });
        }
        Command::Inspect(arguments) => return inspect::run(global.output, arguments).await,
        Command::Synth(arguments) => synth(arguments).await?,
        Command::Index(arguments) => {
            let (patterns, out) = (arguments.patterns.clone(), arguments.out.clone());
            corpus::index(&patterns, out.as_deref(), arguments.into()).await?.into()
        }
    };
    output::print(global.output, &written)?;
    Ok(Exit::Ok)
}

async fn synth(arguments: Synth) -> anyhow::Result<Written> {
    let Synth { out, level, samples, heldout, image_size, samples_per_shard, seed } = arguments;
    let config = SynthConfig { level, samples, heldout, image_size, samples_per_shard, seed };
    let report = corpus::synthesize(config, out.clone()).await?;
    let splits = [&report.train, &report.heldout];
    Ok(Written {
        path: out.display().to_string(),
        shards: splits.iter().map(|split| split.shards).sum(),
        samples: splits.iter().map(|split| split.samples).sum(),
        bytes: splits.iter().map(|split| split.bytes).sum(),
        captions: None,
        unchanged: None,
    })
}

impl From<corpus::Indexed> for Written {
    fn from(indexed: corpus::Indexed) -> Self {
        let manifest = &indexed.report.manifest;
        Self {
            shards: manifest.shards().len() as u64,
            samples: manifest.total_samples(),
            bytes: manifest.total_bytes(),
            captions: manifest.caption_counts().map(|counts| counts.into_iter().map(u64::from).sum()),
            unchanged: Some(indexed.report.unchanged as u64),
            path: indexed.url,
        }
    }
}

impl Present for Verified {
    fn table(&self) -> String {
        let all = format!("{} samples in {} shards", units::grouped(self.samples), units::grouped(self.shards as u64));
        if self.bad.is_empty() {
            return format!("{all}, nothing is bad");
        }
        let rows = self.bad.iter().map(|bad| {
            vec![bad.shard.clone(), bad.key.clone().unwrap_or_else(|| "(all of it)".into()), bad.message.clone()]
        });
        format!("{}\n\n{all}, {} bad", output::columns(&["SHARD", "SAMPLE", "WHAT IS WRONG"], rows), self.bad.len())
    }

    fn names(&self) -> Vec<String> {
        self.bad.iter().map(|bad| format!("{} {}", bad.shard, bad.key.as_deref().unwrap_or_default())).collect()
    }
}

impl Present for Written {
    fn table(&self) -> String {
        let (samples, shards) = (units::grouped(self.samples), units::grouped(self.shards));
        let captions = self.captions.map(|captions| format!(" with {} captions", units::grouped(captions)));
        let captions = captions.unwrap_or_default();
        format!("{}: {samples} samples{captions} in {shards} shards, {}", self.path, units::bytes(self.bytes))
    }

    fn names(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
}
