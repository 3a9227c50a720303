//! Decoding, with the conversions to RGB that PIL's `convert("RGB")` makes: grey is repeated, CMYK is taken as inverted (as Adobe
//! writes it), palettes are looked up, 16 bits become the upper 8, and transparency is dropped. The image is turned as its Exif
//! orientation says, as PIL's `ImageOps.exif_transpose` does.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image_webp::WebPDecoder;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Orientation, RgbImage};

/// Bounds on what is decoded. They are checked before memory is allocated, so that a few bytes can't ask for gigabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of an image. Decoding takes up to 10 bytes for each (progressive JPEG), otherwise 3 or 4.
    pub pixels: usize,
}

impl Default for Limits {
    /// 2²⁶ pixels: photographs of 67 megapixels.
    fn default() -> Self {
        Self { pixels: 1 << 26 }
    }
}

/// Sides that the JPEG format can express; the other formats are held to the same.
pub(super) const MAX_SIDE: usize = 65_535;

/// Why an image can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JPEG, PNG or WebP by its first bytes.
    #[error("not a JPEG, PNG or WebP file ({bytes} bytes)")]
    UnknownFormat {
        /// Size of the file.
        bytes: usize,
    },
    /// More pixels than the [`Limits`] allow.
    #[error("{width} × {height} pixels exceed the limit of {limit}")]
    TooLarge {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// The limit.
        limit: usize,
    },
    /// Damaged, cut off, or of an unsupported kind.
    #[error("damaged {format}: {message}")]
    Damaged {
        /// Name of the format.
        format: &'static str,
        /// What the decoder said.
        message: String,
    },
}

impl DecodeError {
    pub(super) fn damaged(format: Format, message: impl ToString) -> Self {
        Self::Damaged { format: format.name(), message: message.to_string() }
    }
}

/// A file's format, by its first bytes, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    pub(super) fn of(file: &[u8]) -> Result<Self, DecodeError> {
        match file {
            [0xFF, 0xD8, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            _ => Err(DecodeError::UnknownFormat { bytes: file.len() }),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
        }
    }
}

/// Decodes a JPEG, PNG or WebP file within the default [`Limits`]; of an animation the first frame.
///
/// # Errors
/// [`DecodeError`]; a file that is cut off is an error, not an image with a grey part.
pub fn decode(file: &[u8]) -> Result<RgbImage, DecodeError> {
    decode_within(file, &Limits::default())
}

/// [`decode`] within limits of the caller's.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_within(file: &[u8], limits: &Limits) -> Result<RgbImage, DecodeError> {
    let (image, orientation) = decode_stored(file, limits)?;
    Ok(orientation.apply(image))
}

/// The pixels as they are stored, and how they are to be turned.
pub(super) fn decode_stored(file: &[u8], limits: &Limits) -> Result<(RgbImage, Orientation), DecodeError> {
    let format = Format::of(file)?;
    guarded(format, || match format {
        Format::Jpeg => decode_jpeg(file, limits),
        Format::Png => decode_png(file, limits),
        Format::WebP => decode_webp(file, limits),
    })
}

/// Decoders' authors count panics on damaged input as acceptable; here they are one bad sample.
pub(super) fn guarded<T>(format: Format, decode: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(DecodeError::damaged(format, "the decoder panicked")))
}

fn decode_jpeg(file: &[u8], limits: &Limits) -> Result<(RgbImage, Orientation), DecodeError> {
    let damaged = |message: String| DecodeError::damaged(Format::Jpeg, message);
    // Strict, because otherwise a file that is cut off gives an image that is grey from there on.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| damaged(error.to_string()))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("the header has no dimensions".into()))?;
    check_size(width, height, limits)?;
    let pixels = decoder.decode().map_err(|error| damaged(error.to_string()))?;
    Ok((finish(Format::Jpeg, width, height, pixels)?, Orientation::of_jpeg(file)))
}

fn decode_png(file: &[u8], limits: &Limits) -> Result<(RgbImage, Orientation), DecodeError> {
    let damaged = |error: png::DecodingError| DecodeError::damaged(Format::Png, error);
    // Text and profiles are not wanted, and what they unpack to is not bounded by the image's size.
    let mut options = png::DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = png::Decoder::new_with_options(Cursor::new(file), options);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height, limits)?;
    let bytes = reader.output_buffer_size().ok_or(too_large(width, height, limits))?;
    let mut content = vec![0; bytes];
    let frame = reader.next_frame(&mut content).map_err(damaged)?;
    content.truncate(frame.buffer_size());
    let pixels = match frame.color_type {
        png::ColorType::Rgb => content,
        png::ColorType::Rgba => without_alpha(&content),
        png::ColorType::Grayscale => content.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => content.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [grey; 3]).collect(),
        png::ColorType::Indexed => Vec::new(),
    };
    let orientation = reader.info().exif_metadata.as_deref().map(Orientation::from_exif).unwrap_or_default();
    Ok((finish(Format::Png, width, height, pixels)?, orientation))
}

fn decode_webp(file: &[u8], limits: &Limits) -> Result<(RgbImage, Orientation), DecodeError> {
    let damaged = |error: image_webp::DecodingError| DecodeError::damaged(Format::WebP, error);
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, limits)?;
    let bytes = decoder.output_buffer_size().ok_or(too_large(width, height, limits))?;
    let mut content = vec![0; bytes];
    if decoder.is_animated() {
        decoder.read_frame(&mut content).map_err(damaged)?;
    } else {
        decoder.read_image(&mut content).map_err(damaged)?;
    }
    let pixels = if decoder.has_alpha() { without_alpha(&content) } else { content };
    // A block that is not there or can't be read turns nothing.
    let orientation = decoder.exif_metadata().ok().flatten().map(|block| Orientation::from_exif(&block));
    Ok((finish(Format::WebP, width, height, pixels)?, orientation.unwrap_or_default()))
}

fn without_alpha(pixels: &[u8]) -> Vec<u8> {
    pixels.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
}

/// Refuses an image by its header.
pub(super) fn check_size(width: usize, height: usize, limits: &Limits) -> Result<(), DecodeError> {
    let pixels = width.checked_mul(height).filter(|&pixels| pixels <= limits.pixels);
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE || pixels.is_none() {
        return Err(too_large(width, height, limits));
    }
    Ok(())
}

fn too_large(width: usize, height: usize, limits: &Limits) -> DecodeError {
    DecodeError::TooLarge { width, height, limit: limits.pixels }
}

fn finish(format: Format, width: usize, height: usize, pixels: Vec<u8>) -> Result<RgbImage, DecodeError> {
    if pixels.len() != width * height * 3 {
        return Err(DecodeError::damaged(format, "the decoder gave another number of pixels"));
    }
    Ok(RgbImage { width, height, pixels })
}

#[cfg(test)]
mod tests {
    use jpeg_encoder::{ColorType, Encoder};
    use proptest::prelude::*;

    use super::*;

    /// A smooth picture, which JPEG keeps nearly as it is.
    fn gradient(width: u16, height: u16, channels: u16) -> Vec<u8> {
        (0..height)
            .flat_map(|y| {
                (0..width).flat_map(move |x| (0..channels).map(move |c| (x * 3 + y * 2 + c * 40) as u8 / 2 + 30))
            })
            .collect()
    }

    fn jpeg(pixels: &[u8], width: u16, height: u16, color: ColorType, progressive: bool) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 95);
        encoder.set_progressive(progressive);
        encoder.encode(pixels, width, height, color).unwrap();
        file
    }

    fn png(pixels: &[u8], width: u32, height: u32, color: png::ColorType) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(pixels).unwrap();
        file
    }

    fn assert_near(decoded: &RgbImage, expected: &[u8], tolerance: u8) {
        assert_eq!(decoded.pixels.len(), expected.len());
        let worst = decoded.pixels.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(tolerance), "a value differs by {worst:?}");
    }

    #[test]
    fn jpegs_decode_to_what_was_encoded() {
        let pixels = gradient(33, 17, 3);
        for progressive in [false, true] {
            let decoded = decode(&jpeg(&pixels, 33, 17, ColorType::Rgb, progressive)).unwrap();
            assert_eq!((decoded.width, decoded.height), (33, 17));
            assert_near(&decoded, &pixels, 6);
        }
    }

    #[test]
    fn grey_is_repeated_and_cmyk_is_taken_as_inverted() {
        let grey = gradient(16, 16, 1);
        let expected: Vec<u8> = grey.iter().flat_map(|&value| [value; 3]).collect();
        assert_near(&decode(&jpeg(&grey, 16, 16, ColorType::Luma, false)).unwrap(), &expected, 4);

        // The encoder inverts as Adobe does: full cyan ink is stored as 0.
        let ink: Vec<u8> = [255u8, 0, 0, 0].repeat(256);
        let cyan = decode(&jpeg(&ink, 16, 16, ColorType::Cmyk, false)).unwrap();
        assert_near(&cyan, &[0u8, 255, 255].repeat(256), 3);
    }

    #[test]
    fn pngs_decode_exactly_and_lose_transparency() {
        let rgb = gradient(5, 4, 3);
        assert_eq!(decode(&png(&rgb, 5, 4, png::ColorType::Rgb)).unwrap().pixels, rgb);
        let rgba: Vec<u8> = rgb.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 0]).collect();
        assert_eq!(decode(&png(&rgba, 5, 4, png::ColorType::Rgba)).unwrap().pixels, rgb);
        let grey = gradient(5, 4, 1);
        let repeated: Vec<u8> = grey.iter().flat_map(|&value| [value; 3]).collect();
        assert_eq!(decode(&png(&grey, 5, 4, png::ColorType::Grayscale)).unwrap().pixels, repeated);
    }

    #[test]
    fn a_file_that_is_cut_off_is_damaged() {
        let pixels = gradient(64, 64, 3);
        for file in [
            jpeg(&pixels, 64, 64, ColorType::Rgb, false),
            jpeg(&pixels, 64, 64, ColorType::Rgb, true),
            png(&pixels, 64, 64, png::ColorType::Rgb),
        ] {
            for share in [3, 5, 8] {
                let cut = &file[..file.len() * share / 10];
                assert!(matches!(decode(cut), Err(DecodeError::Damaged { .. })), "{share}/10 of {}", file.len());
            }
        }
    }

    #[test]
    fn what_is_no_image_is_named_so() {
        assert_eq!(decode(b"GIF89a"), Err(DecodeError::UnknownFormat { bytes: 6 }));
        assert_eq!(decode(b""), Err(DecodeError::UnknownFormat { bytes: 0 }));
    }

    #[test]
    fn a_decompression_bomb_is_refused_by_its_header() {
        let mut file = jpeg(&gradient(16, 16, 3), 16, 16, ColorType::Rgb, false);
        let frame = file.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
        file[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
        assert_eq!(decode(&file), Err(DecodeError::TooLarge { width: 60_000, height: 60_000, limit: 1 << 26 }));
    }

    proptest! {
        #[test]
        fn damage_anywhere_never_panics(at in 0usize..4000, value: u8, progressive: bool) {
            let mut file = jpeg(&gradient(48, 48, 3), 48, 48, ColorType::Rgb, progressive);
            let length = file.len();
            file[at % length] = value;
            if let Ok(image) = decode(&file) {
                prop_assert_eq!(image.pixels.len(), image.width * image.height * 3);
            }
        }
    }
}
