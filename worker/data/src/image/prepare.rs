//! From an image's file to the pixels that the model takes.

use cappa_shared::spec::Decode;
use rusty_jpeg::decode::PlanarComponent;

use super::augment::Augmentation;
use super::decode::{DecodeError, Format, Limits, decode_stored};
use super::planes::{Planes, decode_planes};
use super::resize_fast::{Raster, Span, resize_fast};
use super::{Orientation, RgbImage, Window, colour, resize_exact};

/// A reduced JPEG is at least this many times as large as the result, in both directions. Bilinear resizing looks at two pixels
/// a direction, so more reduction would lose detail that the whole image would have given.
const OVERSAMPLING: usize = 1;

/// How images are prepared; the same for every image of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparation {
    /// How they are decoded.
    pub mode: Decode,
    /// Width and height of the result, in pixels.
    pub size: usize,
    /// Bounds on what is decoded.
    pub limits: Limits,
}

impl Preparation {
    /// Exact, to squares of `size` pixels, within the default limits.
    pub fn exact(size: usize) -> Self {
        Self { mode: Decode::Exact, size, limits: Limits::default() }
    }

    /// An image as the model takes it, `[size, size, 3]`: decoded, turned as its camera says, cropped where `augmentation` says so,
    /// resized whatever its aspect, then mirrored and recoloured.
    ///
    /// Both modes resize bilinearly between half-pixel centres without antialiasing, as the authors do ([`resize_exact`]). `fast`
    /// decodes a JPEG at the smallest of 1/8, 1/4, 1/2 and 1 of its size that is not below the result's, resizes luma and chroma
    /// separately, and rounds where `exact` truncates. On camera-like images of which all is decoded a value then differs from that of
    /// `exact` by 0.45 levels in the mean, at most 3; reduced ones, whose finest detail is averaged away where `exact` would alias
    /// it, by 1.1 in the mean. The test `fast_stays_within_its_tolerance` asserts it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no image, damaged or too large.
    pub fn prepare(&self, file: &[u8], augmentation: Option<Augmentation<'_>>) -> Result<RgbImage, DecodeError> {
        let mut image = match self.mode {
            Decode::Exact => self.in_full(file, augmentation)?,
            Decode::Fast => self.reduced(file, augmentation)?,
        };
        if let Some(augmentation) = augmentation {
            augmentation.change(&mut image);
        }
        Ok(image)
    }

    fn in_full(&self, file: &[u8], augmentation: Option<Augmentation<'_>>) -> Result<RgbImage, DecodeError> {
        let (image, orientation) = decode_stored(file, &self.limits)?;
        let window = stored_window(image.width, image.height, orientation, augmentation);
        Ok(resize_exact(orientation.apply(image.window(window)), self.size, self.size))
    }

    fn reduced(&self, file: &[u8], augmentation: Option<Augmentation<'_>>) -> Result<RgbImage, DecodeError> {
        if Format::of(file)? == Format::Jpeg {
            let orientation = Orientation::of_jpeg(file);
            let window = |width, height| stored_window(width, height, orientation, augmentation);
            let choose = |width, height| self.reduction(&window(width, height));
            if let Some(planes) = decode_planes(file, &self.limits, choose)? {
                let window = window(planes.width, planes.height);
                return Ok(orientation.apply(self.resize_planes(&planes, &window)));
            }
        }
        let (image, orientation) = decode_stored(file, &self.limits)?;
        let window = stored_window(image.width, image.height, orientation, augmentation);
        let source = Raster { data: &image.pixels, stride: image.width * 3, width: image.width, height: image.height };
        let span = |start: usize, length: usize| Span { start: start as f64, length: length as f64 };
        let (across, down) = (span(window.left, window.width), span(window.top, window.height));
        let pixels = resize_fast::<3>(source, across, down, self.size);
        Ok(orientation.apply(RgbImage { width: self.size, height: self.size, pixels }))
    }

    /// Eighths of the full size that suffice for a window.
    fn reduction(&self, window: &Window) -> usize {
        let needed = self.size * OVERSAMPLING * 8;
        let suffices = |&eighths: &usize| window.width * eighths >= needed && window.height * eighths >= needed;
        [1, 2, 4].into_iter().find(suffices).unwrap_or(8)
    }

    /// Resizes each plane from its own size, and converts the colours of the result.
    fn resize_planes(&self, planes: &Planes, window: &Window) -> RgbImage {
        let resized: Vec<Vec<u8>> =
            planes.image.components.iter().map(|plane| self.resize_plane(planes, plane, window)).collect();
        let pixels = match &resized[..] {
            [luma, blue, red] => colour::rgb_of_ycbcr(luma, blue, red),
            [grey, ..] => grey.iter().flat_map(|&grey| [grey; 3]).collect(),
            [] => Vec::new(),
        };
        RgbImage { width: self.size, height: self.size, pixels }
    }

    fn resize_plane(&self, planes: &Planes, plane: &PlanarComponent, window: &Window) -> Vec<u8> {
        let source = Raster { data: &plane.data, stride: plane.stride, width: plane.width, height: plane.height };
        let span = |start: usize, length: usize, factor: u8, largest: usize| {
            let scale = planes.eighths as f64 * f64::from(factor) / (8.0 * largest as f64);
            Span { start: start as f64 * scale, length: length as f64 * scale }
        };
        let across = span(window.left, window.width, plane.horizontal_sampling_factor, planes.sampling.0);
        let down = span(window.top, window.height, plane.vertical_sampling_factor, planes.sampling.1);
        resize_fast::<1>(source, across, down, self.size)
    }
}

/// The window in the stored image: the whole, or what is drawn.
fn stored_window(
    width: usize,
    height: usize,
    orientation: Orientation,
    augmentation: Option<Augmentation<'_>>,
) -> Window {
    let Some(augmentation) = augmentation else { return Window { left: 0, top: 0, width, height } };
    let (width, height) = if orientation.transposes() { (height, width) } else { (width, height) };
    orientation.stored_window(augmentation.window(width, height), width, height)
}
