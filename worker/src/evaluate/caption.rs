//! Greedy captions with their pictures, for people to look at, and how well they match the samples' own.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cappa_data::image::Preparation;
use cappa_data::text::Tokenizer;
use cappa_model::Captioner;
use cappa_shared::evaluation::{Captioned, Finding};
use tch::{Device, Kind, Tensor};

use super::Evaluator;
use super::samples::{Samples, add_images};
use super::scores::{Judged, scores};
use crate::train::outcome::Departure;

/// Captions every sample of the range, on all ranks, and gathers them.
pub(super) fn captions(evaluator: &Evaluator<'_>, samples: &Samples) -> Result<(u64, Finding), Departure> {
    let model = evaluator.state.model.captioner().ok_or_else(|| {
        Departure::Unsuitable("captions need a decoder, which the job's objective does not train".to_owned())
    })?;
    let tokenizer = &evaluator.tokenizer;
    let mut mine: Vec<Captioned> = Vec::new();
    let mut images_sum = None;
    samples.chunks(
        |_| Some(()),
        |images, chunk| {
            add_images(&mut images_sum, &images);
            let encoded = tch::no_grad(|| model.encode(&images))?;
            let captions = caption_of(model, tokenizer, &encoded)?;
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
    let size = i64::from(evaluator.assignment.spec.data.image_size);
    let images_sum = images_sum.unwrap_or_else(|| Tensor::zeros([size, size, 3], (Kind::Double, Device::Cpu)));
    let mean = evaluator.encode_mean(&images_sum, mine.len() as i64)?;
    let blind = caption_of(model, tokenizer, &mean)?.into_iter().next().unwrap_or_default();
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

/// Greedy captions of encoded images `[B, P, E]`.
pub(crate) fn caption_of(model: &Captioner, tokenizer: &Tokenizer, encoded: &Tensor) -> Result<Vec<String>, Departure> {
    let tokens = model.greedy_encoded(encoded, model.config().text_length);
    let rows = Vec::<Vec<i64>>::try_from(tokens).expect("rows of token ids");
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
