//! The likeliest captions with their pictures, for people to look at, and how well they match the samples' own.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cappa_data::image::Preparation;
use cappa_data::text::Tokenizer;
use cappa_model::{Captioner, Search};
use cappa_shared::evaluation::{Captioned, Finding};
use cappa_shared::spec::Decoding;
use tch::Tensor;

use super::Evaluator;
use super::samples::{Samples, add_images};
use super::scores::{Judged, scores};
use crate::train::outcome::Departure;

/// Captions every sample of the range, on all ranks, and gathers them.
pub(super) fn captions(
    evaluator: &Evaluator<'_>,
    samples: &Samples,
    decoding: Decoding,
) -> Result<(u64, Finding), Departure> {
    let model = evaluator.decoder()?;
    let tokenizer = &evaluator.tokenizer;
    let mut mine: Vec<Captioned> = Vec::new();
    let mut images_sum = None;
    samples.chunks(
        evaluator,
        |record| (!record.captions.is_empty()).then_some(()),
        |images, chunk| {
            add_images(&mut images_sum, &images);
            let encoded = tch::no_grad(|| model.encode(&images))?;
            let captions = caption_of(model, tokenizer, &encoded, decoding)?;
            for ((record, ()), caption) in chunk.into_iter().zip(captions) {
                let mut references = record.captions.into_iter();
                mine.push(Captioned {
                    image_png: BASE64.encode(png(&record.image)),
                    key: record.key,
                    caption,
                    blind_caption: String::new(),
                    reference: references.next().unwrap_or_default(),
                    references: references.collect(),
                });
            }
            Ok(())
        },
    )?;
    let mean = evaluator.encode_mean(images_sum, mine.len() as i64)?;
    let blind = caption_of(model, tokenizer, &mean, decoding)?.into_iter().next().unwrap_or_default();
    for captioned in &mut mine {
        captioned.blind_caption.clone_from(&blind);
    }
    let lists = evaluator.gather(&serde_json::to_string(&mine).expect("captions are plain data"))?;
    let lists = lists.iter().map(|list| serde_json::from_str::<Vec<Captioned>>(list));
    let examples: Vec<_> = lists.collect::<Result<Vec<_>, _>>().expect("the ranks wrote them").concat();
    let judged = |captioned: &Captioned| {
        let references: Vec<_> = [&captioned.reference].into_iter().chain(&captioned.references).collect();
        Judged::new(&captioned.caption, &references)
    };
    let scores = scores(&examples.iter().map(judged).collect::<Vec<_>>());
    Ok((examples.len() as u64, Finding::Caption { examples, scores }))
}

/// How the model's crate seeks texts of at most so many tokens.
pub(super) fn search(Decoding { beams, length_penalty }: Decoding, max_length: usize) -> Search {
    Search { beams: beams as usize, length_penalty, max_length }
}

/// Captions of encoded images `[B, P, E]`.
pub(crate) fn caption_of(
    model: &Captioner,
    tokenizer: &Tokenizer,
    encoded: &Tensor,
    decoding: Decoding,
) -> Result<Vec<String>, Departure> {
    let rows = model.generate(encoded, &[], &search(decoding, model.config().text_length as usize))?;
    let text = |ids: Vec<i64>| tokenizer.decode(&ids).map_err(|e| Departure::Unsuitable(e.to_string()));
    rows.into_iter().map(text).collect()
}

/// A picture file as the model sees it: `[1, size, size, 3]`, u8.
pub(crate) fn read_image(path: &Path, size: u32) -> anyhow::Result<Tensor> {
    let pixels = Preparation::exact(size as usize).prepare(&std::fs::read(path)?, None)?.pixels;
    Ok(Tensor::from_slice(&pixels).view([1, size.into(), size.into(), 3]))
}

/// A square RGB picture as a PNG file.
fn png(pixels: &[u8]) -> Vec<u8> {
    let side = ((pixels.len() / 3) as f64).sqrt().round() as u32;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(pixels))
        .expect("a picture of known size is written to memory");
    file
}
