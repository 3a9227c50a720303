//! `cappa-worker caption`: captions of picture files from a committed checkpoint.

use std::time::Duration;

use anyhow::{Context as _, Result};
use cappa_data::corpus;
use cappa_data::stats::PipelineStats;
use cappa_shared::spec::Decoding;

use crate::cli::CaptionArgs;
use crate::evaluate::{caption_of, read_image};
use crate::trained::Trained;

/// Prints a caption for every picture.
pub(crate) fn caption(args: &CaptionArgs) -> Result<()> {
    let Trained { spec, network, runtime } = Trained::open(&args.network)?;
    let model = network.captioner().with_context(|| {
        format!("captions need a decoder, and `{}` trains none; use a job of `cap` or `cappa`", spec.objective.name())
    })?;
    let tokenizer = runtime.block_on(corpus::tokenizer(&spec, Duration::ZERO, &PipelineStats::default()))?;
    for path in &args.images {
        let image =
            read_image(path, spec.data.image_size).with_context(|| format!("{} can't be read", path.display()))?;
        let encoded = tch::no_grad(|| model.encode(&image))?;
        let caption = caption_of(model, &tokenizer, &encoded, Decoding::default())?.concat();
        match args.json {
            true => println!("{}", serde_json::json!({ "image": path, "caption": caption })),
            false => println!("{}\t{caption}", path.display()),
        }
    }
    Ok(())
}
