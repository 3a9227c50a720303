//! Images: from JPEG and PNG files to pixels of the size that the model takes.

mod decode;
mod resize;

pub use decode::{DecodeError, MAX_PIXELS, decode};
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

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} × {})", self.width, self.height)
    }
}
