//! A small corpus with its manifests and tokenizer, made by the same commands that people use.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Result, bail};
use cappa_test_stores::S3Server;
use tempfile::TempDir;

use crate::process::binary;

/// A corpus in a folder of its own.
pub struct Corpus {
    folder: TempDir,
}

impl Corpus {
    /// So many training samples, in shards of 50, each with one caption.
    pub fn new(samples: u32) -> Result<Self> {
        Self::of_level(samples, "easy")
    }

    /// So many training samples, in shards of 50, of a level of the synthetic corpus.
    pub fn of_level(samples: u32, level: &str) -> Result<Self> {
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
            "--level",
            level,
        ])?;
        corpus.index(&[])?;
        cappactl(&["data", "index", &at("shards/heldout-*.tar"), "--out", &at("heldout.json")])?;
        cappactl(&["tokenizer", "train", &at("train.json"), "--out", &at("tokenizer.json")])?;
        Ok(corpus)
    }

    /// Writes the training manifest, of the shards as they are, with further arguments of `data index`.
    pub fn index(&self, more: &[&str]) -> Result<()> {
        let at = |name: &str| self.path(name).display().to_string();
        let arguments = ["data", "index", &at("shards/train-*.tar"), "--out", &at("train.json")];
        cappactl(&[&arguments, more].concat())?;
        Ok(())
    }

    /// Serves all of it from an S3 server, in this bucket; the URL of a file there is `s3://BUCKET/` and its name here.
    pub fn serve(&self, bucket: &str) -> Result<S3Server> {
        let server = S3Server::start(&[bucket]);
        self.put_into(&server, bucket)?;
        Ok(server)
    }

    /// Puts all of it into a bucket of a server, as [`Self::serve`] does.
    pub fn put_into(&self, server: &S3Server, bucket: &str) -> Result<()> {
        for name in ["train.json", "heldout.json", "tokenizer.json"] {
            server.put(bucket, name, std::fs::read(self.path(name))?);
        }
        for shard in std::fs::read_dir(self.path("shards"))? {
            let shard = shard?;
            server.put(bucket, &format!("shards/{}", shard.file_name().display()), std::fs::read(shard.path())?);
        }
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
    let output = cappactl_ended(arguments, &[])?;
    if !output.status.success() {
        bail!("cappactl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs cappactl to whatever end, with further environment.
pub fn cappactl_ended(arguments: &[&str], env: &[(&str, String)]) -> Result<Output> {
    Ok(Command::new(binary("cappactl")?).args(arguments).envs(env.iter().map(|(k, v)| (k, v))).output()?)
}
