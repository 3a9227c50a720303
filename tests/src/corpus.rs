//! A small corpus with its manifests and tokenizer, made by the same commands that people use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::process::binary;

/// A corpus in a folder of its own.
pub struct Corpus {
    folder: TempDir,
}

impl Corpus {
    /// So many training samples, in shards of 50.
    pub fn new(samples: u32) -> Result<Self> {
        let corpus = Self { folder: tempfile::tempdir()? };
        let at = |name: &str| corpus.path(name).display().to_string();
        let samples = samples.to_string();
        cappactl(&[
            "data",
            "synth",
            "--out",
            &at("shards"),
            "--samples",
            &samples,
            "--heldout",
            "100",
            "--samples-per-shard",
            "50",
        ])?;
        corpus.index()?;
        cappactl(&["data", "index", &at("shards/heldout-*.tar"), "--out", &at("heldout.json")])?;
        cappactl(&["tokenizer", "train", &at("train.json"), "--out", &at("tokenizer.json")])?;
        Ok(corpus)
    }

    /// Writes the training manifest, of the shards as they are.
    pub fn index(&self) -> Result<()> {
        let shards = self.path("shards/train-*.tar").display().to_string();
        cappactl(&["data", "index", &shards, "--out", &self.path("train.json").display().to_string()])?;
        Ok(())
    }

    /// A file of the corpus: `train.json`, `heldout.json`, `tokenizer.json`, `shards/train-000000.tar`, ….
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Runs cappactl to a good end; what it wrote to stdout.
pub fn cappactl(arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary("cappactl")?).args(arguments).output()?;
    if !output.status.success() {
        bail!("cappactl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
