//! `cappa-worker caption`: captions of picture files from a committed checkpoint.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cappa_data::corpus;
use cappa_data::stats::PipelineStats;
use cappa_shared::spec::JobSpec;
use tch::Device;

use crate::checkpoint::read_weights;
use crate::cli::CaptionArgs;
use crate::evaluate::{caption_of, read_image};
use crate::train::config;

/// Prints a caption for every picture.
pub(crate) fn caption(args: &CaptionArgs) -> Result<()> {
    let document = std::fs::read(&args.spec).with_context(|| format!("cannot read --spec {}", args.spec.display()))?;
    let spec: JobSpec = serde_json::from_slice(&document)
        .with_context(|| format!("--spec {} is not a job's spec as it ran", args.spec.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if spec.objective.is_contrastive() {
        bail!("captions need a decoder, and `{}` trains none", spec.objective.name());
    }
    let mut model = config::captioner(&spec, Device::Cpu).context("the spec's model can't be built")?;
    let weights = runtime
        .block_on(read_weights(&args.checkpoint))
        .with_context(|| format!("--checkpoint {} can't be read", args.checkpoint))?;
    model.params_mut().load_named(&weights).context("the checkpoint does not belong to the spec's model")?;
    let tokenizer = runtime.block_on(corpus::tokenizer(&spec, Duration::ZERO, &PipelineStats::default()))?;
    for path in &args.images {
        let image =
            read_image(path, spec.data.image_size).with_context(|| format!("{} can't be read", path.display()))?;
        let encoded = tch::no_grad(|| model.encode(&image))?;
        let caption = caption_of(&model, &tokenizer, &encoded)?.concat();
        match args.json {
            true => println!("{}", serde_json::json!({ "image": path, "caption": caption })),
            false => println!("{}\t{caption}", path.display()),
        }
    }
    Ok(())
}
