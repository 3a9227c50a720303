//! `cappactl data`.

use std::path::PathBuf;

use cappa_data::synth::{Level, SynthConfig};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Global;
use crate::corpus;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a synthetic corpus of rendered scenes with captions, as WebDataset shards.
    Synth(Synth),
    /// Write the manifest of shards, which training reads.
    Index(Index),
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
    /// A tar file, a folder of them, or a pattern such as 'train-*.tar' or 's3://bucket/train-{000..127}.tar'.
    #[arg(value_name = "SHARDS")]
    pattern: String,
    /// The manifest to write, a path or URL; paths in it are relative to it [default: beside the shards].
    #[arg(long, value_name = "FILE")]
    out: Option<String>,
}

/// What a command wrote.
#[derive(Serialize)]
struct Written {
    path: String,
    shards: u64,
    samples: u64,
    bytes: u64,
}

pub(crate) async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let written = match command {
        Command::Synth(arguments) => synth(arguments).await?,
        Command::Index(arguments) => corpus::index(&arguments.pattern, arguments.out.as_deref()).await?.into(),
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
    })
}

impl From<corpus::Indexed> for Written {
    fn from(indexed: corpus::Indexed) -> Self {
        let manifest = &indexed.manifest;
        Self {
            shards: manifest.shards().len() as u64,
            samples: manifest.total_samples(),
            bytes: manifest.total_bytes(),
            path: indexed.url,
        }
    }
}

impl Present for Written {
    fn table(&self) -> String {
        let (samples, shards) = (units::grouped(self.samples), units::grouped(self.shards));
        format!("{}: {samples} samples in {shards} shards, {}", self.path, units::bytes(self.bytes))
    }

    fn names(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
}
