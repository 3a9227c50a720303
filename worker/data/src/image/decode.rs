//! Decoding, with the conversions to RGB that PIL's `convert("RGB")` makes: grey is repeated, CMYK is taken as inverted (as Adobe
//! writes it), palettes are looked up and transparency is dropped.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::RgbImage;

/// The largest image that is decoded. The bound is checked before memory is allocated, so that a few bytes can't ask for
/// gigabytes.
pub const MAX_PIXELS: usize = 1 << 26;

/// Sides that the JPEG format can express; PNG is held to the same.
const MAX_SIDE: usize = 65_535;

/// Why an image can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither JPEG nor PNG by its first bytes.
    #[error("neither a JPEG nor a PNG file ({bytes} bytes)")]
    UnknownFormat {
        /// Size of the file.
        bytes: usize,
    },
    /// More pixels than [`MAX_PIXELS`].
    #[error("{width} × {height} pixels exceed the limit of {MAX_PIXELS}")]
    TooLarge {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
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

/// Decodes a JPEG or PNG file; its first bytes say which it is, whatever its name.
///
/// # Errors
/// [`DecodeError`]; a file that is cut off is an error, not an image with a grey part.
pub fn decode(file: &[u8]) -> Result<RgbImage, DecodeError> {
    let format = match file {
        [0xFF, 0xD8, ..] => "JPEG",
        [0x89, b'P', b'N', b'G', ..] => "PNG",
        _ => return Err(DecodeError::UnknownFormat { bytes: file.len() }),
    };
    let decoder = if format == "JPEG" { decode_jpeg } else { decode_png };
    // The JPEG decoder's authors count panics on damaged input as acceptable; here they are one bad sample.
    catch_unwind(AssertUnwindSafe(|| decoder(file)))
        .unwrap_or_else(|_| Err(DecodeError::Damaged { format, message: "the decoder panicked".into() }))
}

fn decode_jpeg(file: &[u8]) -> Result<RgbImage, DecodeError> {
    let damaged = |message: String| DecodeError::Damaged { format: "JPEG", message };
    // Strict, because otherwise a file that is cut off gives an image that is grey from there on.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| damaged(error.to_string()))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("the header has no dimensions".into()))?;
    check_size(width, height)?;
    let pixels = decoder.decode().map_err(|error| damaged(error.to_string()))?;
    finish(width, height, pixels).ok_or_else(|| damaged("the decoder gave another number of pixels".into()))
}

fn decode_png(file: &[u8]) -> Result<RgbImage, DecodeError> {
    let damaged = |error: png::DecodingError| DecodeError::Damaged { format: "PNG", message: error.to_string() };
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height)?;
    let bytes = reader.output_buffer_size().ok_or(DecodeError::TooLarge { width, height })?;
    let mut content = vec![0; bytes];
    let frame = reader.next_frame(&mut content).map_err(damaged)?;
    content.truncate(frame.buffer_size());
    let pixels = match frame.color_type {
        png::ColorType::Rgb => content,
        png::ColorType::Rgba => content.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        png::ColorType::Grayscale => content.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => content.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [grey; 3]).collect(),
        png::ColorType::Indexed => Vec::new(),
    };
    finish(width, height, pixels).ok_or_else(|| DecodeError::Damaged {
        format: "PNG",
        message: "the decoder gave another number of pixels".into(),
    })
}

fn check_size(width: usize, height: usize) -> Result<(), DecodeError> {
    let pixels = width.checked_mul(height).filter(|&pixels| pixels <= MAX_PIXELS);
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE || pixels.is_none() {
        return Err(DecodeError::TooLarge { width, height });
    }
    Ok(())
}

fn finish(width: usize, height: usize, pixels: Vec<u8>) -> Option<RgbImage> {
    (pixels.len() == width * height * 3).then_some(RgbImage { width, height, pixels })
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
        assert_eq!(decode(&file), Err(DecodeError::TooLarge { width: 60_000, height: 60_000 }));
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
