//! Contact sheets: small pictures of samples on one page.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jpeg_encoder::{ColorType, Encoder, EncodingError};

use super::{Inspection, Shown};
use crate::image::{RgbImage, decode, resize_exact};
use crate::sample::RawSample;
use crate::shards::Shard;

/// The longer side of a picture, in pixels.
const SIDE: usize = 192;
/// Space around pictures of a PNG sheet, in pixels.
const GAP: usize = 8;
/// Pictures in a row of a PNG sheet.
const COLUMNS: usize = 8;
const JPEG_QUALITY: u8 = 85;
const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em;color:#222;background:#fff}
div{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:1.2em}
figure{margin:0}figcaption{overflow-wrap:anywhere}
p{margin:.2em 0}small,.bad{color:#666}.bad{border:1px dashed #999;padding:1em}";

/// How a sheet is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SheetFormat {
    /// A page with the pictures inside, keys and captions below.
    Html,
    /// Pictures only; a picture that can't be decoded is a grey field.
    Png,
}

impl SheetFormat {
    /// The format that a file's name asks for.
    pub fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "html" | "htm" => Some(Self::Html),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// A picture of a sheet could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    /// As JPEG.
    #[error("a small picture cannot be encoded")]
    Jpeg(#[from] EncodingError),
    /// As PNG.
    #[error("the sheet cannot be encoded")]
    Png(#[from] png::EncodingError),
}

/// A sample with its picture made small, or why there is none.
#[derive(Debug, Clone)]
pub struct Thumbnail {
    sample: Shown,
    picture: Result<RgbImage, String>,
}

impl Thumbnail {
    pub(super) fn of(shard: &Shard, index: usize, sample: Shown) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let file = RawSample::find(shard, index).and_then(|raw| raw.image()).map_err(|bad| bad.message);
        let image = file.and_then(|file| decode(&file).map_err(|error| error.to_string()));
        Self { sample, picture: image.map(small) }
    }
}

/// At most [`SIDE`] pixels a side, in the same proportions.
fn small(image: RgbImage) -> RgbImage {
    let longer = image.width.max(image.height);
    if longer <= SIDE {
        return image;
    }
    let scaled = |side: usize| (side * SIDE / longer).max(1);
    let (width, height) = (scaled(image.width), scaled(image.height));
    resize_exact(image, width, height)
}

impl Inspection {
    /// The contact sheet as a file's content.
    ///
    /// # Errors
    /// When a picture can't be encoded.
    pub fn sheet(&self, format: SheetFormat) -> Result<Vec<u8>, SheetError> {
        match format {
            SheetFormat::Html => self.html().map(String::into_bytes),
            SheetFormat::Png => Ok(png(&self.thumbnails)?),
        }
    }

    fn html(&self) -> Result<String, SheetError> {
        let source = escaped(&self.source);
        let (pictures, shards) = (self.thumbnails.len(), self.read_shards);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{source}</title>\n<style>{STYLE}</style>\n\
             <h1>{source}</h1>\n<p>{pictures} samples, evenly from {shards} of {} shards</p>\n<div>\n",
            self.shards
        );
        for Thumbnail { sample, picture } in &self.thumbnails {
            let shown = match picture {
                Ok(image) => format!(
                    "<img width=\"{}\" height=\"{}\" alt=\"\" src=\"data:image/jpeg;base64,{}\">",
                    image.width,
                    image.height,
                    STANDARD.encode(jpeg(image)?)
                ),
                Err(message) => format!("<p class=\"bad\">{}</p>", escaped(message)),
            };
            let size = sample.size.map_or_else(String::new, |(width, height)| format!(", {width} × {height}"));
            let captions: String = sample.captions.iter().map(|text| format!("<p>{}</p>", escaped(text))).collect();
            let (key, shard) = (escaped(&sample.key), escaped(&sample.shard));
            // Writing to a string does not fail.
            let _ = writeln!(
                page,
                "<figure>{shown}<figcaption>{captions}<small title=\"{shard}\">{key}{size}</small></figcaption></figure>"
            );
        }
        page.push_str("</div>\n</html>\n");
        Ok(page)
    }
}

fn jpeg(image: &RgbImage) -> Result<Vec<u8>, EncodingError> {
    let mut file = Vec::new();
    let side = |side: usize| u16::try_from(side).expect("a small picture has few pixels a side");
    let encoder = Encoder::new(&mut file, JPEG_QUALITY);
    encoder.encode(&image.pixels, side(image.width), side(image.height), ColorType::Rgb)?;
    Ok(file)
}

/// The pictures in rows, each centred in a field of equal size.
fn png(thumbnails: &[Thumbnail]) -> Result<Vec<u8>, png::EncodingError> {
    let columns = thumbnails.len().clamp(1, COLUMNS);
    let rows = thumbnails.len().div_ceil(columns).max(1);
    let cell = SIDE + GAP;
    let (width, height) = (columns * cell + GAP, rows * cell + GAP);
    let mut pixels = vec![255; width * height * 3];
    for (place, thumbnail) in thumbnails.iter().enumerate() {
        let (left, top) = (GAP + place % columns * cell, GAP + place / columns * cell);
        let absent;
        let image = match &thumbnail.picture {
            Ok(image) => image,
            Err(_) => {
                absent = RgbImage { width: SIDE, height: SIDE, pixels: vec![224; SIDE * SIDE * 3] };
                &absent
            }
        };
        let (left, top) = (left + (SIDE - image.width) / 2, top + (SIDE - image.height) / 2);
        for (row, line) in image.pixels.chunks_exact(image.width * 3).enumerate() {
            pixels[((top + row) * width + left) * 3..][..line.len()].copy_from_slice(line);
        }
    }
    let mut file = Vec::new();
    let side = |side: usize| u32::try_from(side).map_err(|_| png::EncodingError::LimitsExceeded);
    let mut encoder = png::Encoder::new(&mut file, side(width)?, side(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(file)
}

/// Text that stays text in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
