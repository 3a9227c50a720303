//! `cappactl import`: weights of other programs as a checkpoint that jobs start from. The worker's program, which has the model,
//! does it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use cappa_shared::storage;
use clap::Args;

use crate::cli::Global;
use crate::exit::Exit;
use crate::local;
use crate::output::Format;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A .npz of the authors, a .safetensors of timm, transformers or open_clip, or a folder with one and its settings.
    #[arg(value_name = "PATH")]
    source: PathBuf,
    /// A new folder, or its URL in a store that the workers reach.
    #[arg(long, value_name = "URL")]
    out: String,
    /// Attention heads, where nothing tells them.
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Height and width of the images in pixels, of a network with fixed positions.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<u32>,
    /// Longest text in tokens, of a captioner with fixed positions.
    #[arg(long, value_name = "TOKENS")]
    text_length: Option<u32>,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let Arguments { source, out, heads, image_size, text_length } = arguments;
    let program = local::binary("cappa-worker")?;
    let mut worker = Command::new(&program);
    worker.arg("import").arg(source).arg("--out");
    if out.contains("://") {
        worker.arg(out);
    } else {
        let here = std::env::current_dir().context("there is no current folder")?;
        worker.arg(storage::absolute(&here, out.as_ref()));
    }
    for (option, value) in [("--heads", heads), ("--image-size", image_size), ("--text-length", text_length)] {
        if let Some(value) = value {
            worker.arg(option).arg(value.to_string());
        }
    }
    if matches!(global.output, Format::Json) {
        worker.arg("--json");
    }
    let status = worker.status().with_context(|| format!("cannot start {}", program.display()))?;
    // It has said why.
    Ok(if status.success() { Exit::Ok } else { Exit::Failed })
}
