//! `cappa-worker caption`: captions of picture files from a committed checkpoint.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cappa_data::corpus;
use cappa_data::stats::PipelineStats;
use cappa_shared::spec::Decoding;

use crate::cli::CaptionArgs;
use crate::embed::pictures;
use crate::evaluate::{caption_of, read_image};
use crate::trained::Trained;

/// Prints a caption for every picture that can be read.
pub(crate) fn caption(args: &CaptionArgs) -> Result<()> {
    let Trained { spec, network, runtime } = Trained::open(&args.network)?;
    let model = network.captioner().with_context(|| {
        format!("captions need a decoder, and `{}` trains none; use a job of `cap` or `cappa`", spec.objective.name())
    })?;
    let tokenizer = runtime.block_on(corpus::tokenizer(&spec, Duration::ZERO, &PipelineStats::default()))?;
    let files = args.images.iter().map(|path| pictures(path)).collect::<Result<Vec<_>>>()?;
    let mut captioned = 0;
    for path in files.iter().flatten() {
        let image = match read_image(path, spec.data.image_size) {
            Ok(image) => image,
            Err(error) => {
                eprintln!("{} is left out: {error:#}", path.display());
                continue;
            }
        };
        let encoded = tch::no_grad(|| model.encode(&image))?;
        let caption = caption_of(model, &tokenizer, &encoded, Decoding::default())?.concat();
        match args.json {
            true => println!("{}", serde_json::json!({ "image": path, "caption": caption })),
            false => println!("{}\t{caption}", path.display()),
        }
        captioned += 1;
    }
    ensure!(captioned > 0, "there is no picture that can be read");
    Ok(())
}
