//! Images: from JPEG, PNG and WebP files to pixels of the size that the model takes.
//!
//! [`Preparation`] does all of it in one of two modes. `exact` decodes the whole image and resizes as the authors do. `fast` does
//! the same with less work: see [`Preparation::prepare`].

mod augment;
mod colour;
mod decode;
mod exif;
mod planes;
mod prepare;
mod resize;
mod resize_fast;

pub use augment::Augmentation;
pub use cappa_shared::spec::Decode;
pub use decode::{DecodeError, Limits, decode, decode_within};
pub use exif::{Orientation, Window};
pub use prepare::Preparation;
pub use resize::resize_exact;

/// An 8-bit RGB image, rows from the top, `[height, width, 3]`.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height · width · 3` bytes.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// The part of the image in a window, which must lie inside.
    pub fn window(self, window: Window) -> Self {
        let Window { left, top, width, height } = window;
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let rows = self.pixels.chunks_exact(self.width * 3).skip(top).take(height);
        let pixels = rows.flat_map(|row| &row[left * 3..][..width * 3]).copied().collect();
        Self { width, height, pixels }
    }

    /// Reverses the columns.
    pub fn mirror(&mut self) {
        for row in self.pixels.chunks_exact_mut(self.width * 3) {
            row.as_chunks_mut::<3>().0.reverse();
        }
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} × {})", self.width, self.height)
    }
}
