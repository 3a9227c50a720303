//! `cappactl tokenizer`.

use std::path::PathBuf;

use cappa_data::text::DEFAULT_VOCABULARY;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Global;
use crate::corpus;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a tokenizer from captions; it is a `tokenizer.json` as Hugging Face's tokenizers read it.
    Train(Train),
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// Tar files with the captions, or manifests of them.
    #[arg(required = true, value_name = "SHARD")]
    inputs: Vec<PathBuf>,
    /// Tokens of the vocabulary, padding and end-of-text included.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_VOCABULARY)]
    vocabulary: usize,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "tokenizer.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Trained {
    path: PathBuf,
    captions: u64,
}

pub(crate) async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let Command::Train(Train { inputs, vocabulary, out }) = command;
    let captions = corpus::train_tokenizer(inputs, vocabulary, out.clone()).await?;
    output::print(global.output, &Trained { path: out, captions })?;
    Ok(Exit::Ok)
}

impl Present for Trained {
    fn table(&self) -> String {
        format!("{}: trained from {} captions", self.path.display(), units::grouped(self.captions))
    }

    fn names(&self) -> Vec<String> {
        vec![self.path.display().to_string()]
    }
}
