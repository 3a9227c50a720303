//! `score-bench`: how much faster zero-shot classification scores all labels of an image together than label by label; prints one
//! JSON line.
//!
//! Label by label is what the definition says: for every label, the images are encoded and the whole text is decoded. Both ways
//! are timed on the same images and labels, and their scores compared.

use std::time::Instant;

use anyhow::Context;
use cappa_model::{Captioner, END_OF_TEXT, ModelConfig};
use clap::Parser;
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// Times zero-shot scoring.
#[derive(Debug, Parser)]
struct Args {
    /// Sizes of the network: tiny, s16, m16, b16 or l14.
    #[arg(long, default_value = "s16")]
    preset: String,
    /// Images of a batch.
    #[arg(long, default_value_t = 4)]
    images: i64,
    /// Labels of every image.
    #[arg(long, default_value_t = 64)]
    labels: i64,
    /// Tokens that all prompts begin with.
    #[arg(long, default_value_t = 6)]
    prompt: i64,
    /// Tokens of each label, its end counted.
    #[arg(long, default_value_t = 3)]
    label: i64,
    /// libtorch's threads.
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tch::set_num_threads(args.threads);
    tch::manual_seed(1);
    let config = ModelConfig::preset(&args.preset).context("no such preset: use tiny, s16, m16, b16 or l14")?;
    let captioner = Captioner::new(&config, 1, Device::Cpu)?;
    // The output layer starts at zero, where all scores would be equal.
    let kernel = captioner.params().get("decoder/LogitsDense/kernel").context("a captioner predicts")?;
    let _ = tch::no_grad(|| kernel.shallow_clone().normal_(0.0, 0.02));
    let [height, width] = config.image_size;
    let images = Tensor::randint(256, [args.images, height, width, 3], (Kind::Uint8, Device::Cpu));
    let labels = prompts(&args, &config);

    let begun = Instant::now();
    let together = captioner.score(&images, &labels)?;
    let together_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let alone = (0..args.labels).map(|place| {
        let encoded = tch::no_grad(|| captioner.encode(&images))?;
        let rows = labels.narrow(0, place, 1).expand([args.images, -1], false);
        captioner.log_likelihood(&encoded, &rows)
    });
    let alone = Tensor::stack(&alone.collect::<Result<Vec<_>, _>>()?, 1);
    let alone_seconds = begun.elapsed().as_secs_f64();
    let difference = (&together - &alone).abs().max().double_value(&[]);
    let line = json!({
        "preset": args.preset, "images": args.images, "labels": args.labels, "prompt_tokens": args.prompt,
        "label_tokens": args.label, "text_length": config.text_length, "threads": args.threads,
        "together_seconds": together_seconds, "label_by_label_seconds": alone_seconds,
        "speedup": alone_seconds / together_seconds, "largest_difference": difference,
    });
    println!("{line}");
    Ok(())
}

/// Random labels behind one prompt, `[N, L]`.
fn prompts(args: &Args, config: &ModelConfig) -> Tensor {
    let options = (Kind::Int64, Device::Cpu);
    let random = |rows: i64, tokens: i64| Tensor::randint_low(2, config.vocab, [rows, tokens], options);
    let prompt = random(1, args.prompt).expand([args.labels, -1], false);
    let ends = Tensor::full([args.labels, 1], END_OF_TEXT, options);
    let text = Tensor::cat(&[prompt, random(args.labels, args.label - 1), ends], 1);
    text.constant_pad_nd([0, config.text_length - args.prompt - args.label]).to_kind(Kind::Int64)
}
