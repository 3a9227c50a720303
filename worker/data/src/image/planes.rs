//! JPEG files as planes: luma and chroma at the sizes they are stored in, or at 1/2, 1/4 or 1/8 of them.
//!
//! The reduced sizes come from a smaller inverse DCT, which leaves out the high frequencies of a block instead of computing and
//! then averaging them away (as libjpeg's `scale_num`).

use rusty_jpeg::decode::{CodingProcess, Decoder, PixelFormat, PlanarImage};

use super::decode::{DecodeError, Format, Limits, check_size, guarded};

/// A decoded JPEG whose colours are grey or Y'CbCr.
pub(super) struct Planes {
    /// One plane of grey, or three.
    pub(super) image: PlanarImage,
    /// Eighths of the full size that the image is at: 1, 2, 4 or 8.
    pub(super) eighths: usize,
    /// The largest sampling factors, horizontal and vertical, to which those of a plane are relative.
    pub(super) sampling: (usize, usize),
    /// Full size.
    pub(super) width: usize,
    /// Full size.
    pub(super) height: usize,
}

/// Decodes at the reduction that `choose` takes for width and height (in eighths); nothing when the file is of a kind that only the
/// full decoder handles: CMYK, RGB, lossless, or with planes of unusual sizes.
pub(super) fn decode_planes(
    file: &[u8],
    limits: &Limits,
    choose: impl FnOnce(usize, usize) -> usize,
) -> Result<Option<Planes>, DecodeError> {
    guarded(Format::Jpeg, || {
        let damaged = |error: rusty_jpeg::decode::Error| DecodeError::damaged(Format::Jpeg, error);
        let mut decoder = Decoder::new(file);
        // Images are decoded side by side; threads within one would only compete.
        decoder.set_single_threaded(true);
        decoder.read_info().map_err(damaged)?;
        let Some(info) = decoder.info() else {
            return Err(DecodeError::damaged(Format::Jpeg, "the header has no dimensions"));
        };
        let (width, height) = (usize::from(info.width), usize::from(info.height));
        check_size(width, height, limits)?;
        let colours = match info.pixel_format {
            PixelFormat::L8 => 1,
            PixelFormat::RGB24 if !is_rgb(file) => 3,
            _ => return Ok(None),
        };
        if matches!(info.coding_process, CodingProcess::Lossless) {
            return Ok(None);
        }
        let eighths = choose(width, height);
        if eighths < 8 {
            // The decoder takes the smallest reduction that gives one of the sides asked for.
            let side = (width * eighths).div_ceil(8);
            decoder.scale(u16::try_from(side).unwrap_or(u16::MAX), u16::MAX).map_err(damaged)?;
        }
        let image = decoder.decode_planar().map_err(damaged)?;
        let sampling = |of: fn(&rusty_jpeg::decode::PlanarComponent) -> u8| {
            image.components.iter().map(of).max().map_or(1, usize::from)
        };
        let sampling =
            (sampling(|plane| plane.horizontal_sampling_factor), sampling(|plane| plane.vertical_sampling_factor));
        let scaled = |side: usize| (side * eighths).div_ceil(8);
        let as_asked = usize::from(image.width) == scaled(width) && usize::from(image.height) == scaled(height);
        Ok((image.components.len() == colours && as_asked).then_some(Planes {
            image,
            eighths,
            sampling,
            width,
            height,
        }))
    })
}

/// Whether three components are red, green and blue: Adobe's marker says that nothing was transformed, or, where neither it nor
/// JFIF's is there, the components are named so (as libjpeg takes it).
fn is_rgb(file: &[u8]) -> bool {
    let mut rest = file.get(2..).unwrap_or_default();
    let (mut jfif, mut adobe, mut named) = (false, None, false);
    while let [0xFF, marker, after @ ..] = rest {
        if *marker == 0xFF {
            rest = &rest[1..];
            continue;
        }
        let Some(length) = after.first_chunk().map(|&length| usize::from(u16::from_be_bytes(length))) else { break };
        let Some(content) = after.get(2..length) else { break };
        match marker {
            0xE0 => jfif |= content.starts_with(b"JFIF\0"),
            0xEE if content.starts_with(b"Adobe") => adobe = content.get(11).copied(),
            0xC0..=0xC2 => named = [6, 9, 12].map(|at| content.get(at).copied()) == [b'R', b'G', b'B'].map(Some),
            0xDA => break,
            _ => {}
        }
        rest = &after[length..];
    }
    match adobe {
        _ if jfif => false,
        Some(transform) => transform == 0,
        None => named,
    }
}
