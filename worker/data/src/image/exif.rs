//! The orientation that a camera wrote beside the pixels, and turning an image as it says.

use super::RgbImage;

/// How stored pixels are to be turned for display: the values 1 to 8 of Exif's tag `Orientation` (Exif 2.32, section 4.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation {
    /// Rows and columns change places, first of all.
    transpose: bool,
    /// Then the columns are reversed,
    mirror: bool,
    /// and the rows.
    flip: bool,
}

/// The tag `Orientation`, as a 16-bit number.
const TAG: u16 = 0x0112;
const SHORT: u16 = 3;

/// Entries of a directory that are looked at; cameras write fewer than a hundred.
const MAX_ENTRIES: usize = 1000;

impl Orientation {
    /// The orientation of a tag's value; what is not from 1 to 8 turns nothing.
    pub fn from_tag(value: u16) -> Self {
        let (transpose, mirror, flip) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => (false, false, false),
        };
        Self { transpose, mirror, flip }
    }

    /// The orientation in an Exif block (a TIFF structure, with or without `Exif\0\0` before it). A block that is damaged turns
    /// nothing: the pixels are good without it.
    pub fn from_exif(block: &[u8]) -> Self {
        let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
        tag(tiff).map_or_else(Self::default, Self::from_tag)
    }

    /// The orientation that a JPEG file states in its first Exif segment.
    pub fn of_jpeg(file: &[u8]) -> Self {
        jpeg_exif(file).map_or_else(Self::default, Self::from_exif)
    }

    /// Whether rows become columns.
    pub fn transposes(self) -> bool {
        self.transpose
    }

    /// Turns an image.
    pub fn apply(self, image: RgbImage) -> RgbImage {
        if self == Self::default() {
            return image;
        }
        let (width, height) = if self.transpose { (image.height, image.width) } else { (image.width, image.height) };
        let source = image.pixels.as_chunks::<3>().0;
        let mut pixels = Vec::with_capacity(image.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (x, y) = self.stored(x, y, width, height);
                pixels.extend_from_slice(&source[y * image.width + x]);
            }
        }
        RgbImage { width, height, pixels }
    }

    /// Where the pixel at `x`, `y` of the turned image, which is `width × height`, lies in the stored one.
    fn stored(self, x: usize, y: usize, width: usize, height: usize) -> (usize, usize) {
        let x = if self.mirror { width - 1 - x } else { x };
        let y = if self.flip { height - 1 - y } else { y };
        if self.transpose { (y, x) } else { (x, y) }
    }

    /// The window of the stored image that becomes `window` of the turned one, which is `width × height`.
    pub(super) fn stored_window(self, window: Window, width: usize, height: usize) -> Window {
        let left = if self.mirror { width - window.left - window.width } else { window.left };
        let top = if self.flip { height - window.top - window.height } else { window.top };
        if self.transpose {
            Window { left: top, top: left, width: window.height, height: window.width }
        } else {
            Window { left, top, ..window }
        }
    }
}

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Columns left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Its columns.
    pub width: usize,
    /// Its rows.
    pub height: usize,
}

/// The value of the tag in the first directory of a TIFF structure.
fn tag(tiff: &[u8]) -> Option<u16> {
    let big = match tiff.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = usize::try_from(long(4)?).ok()?;
    let entries = usize::from(short(directory)?).min(MAX_ENTRIES);
    let entry = (0..entries).map(|index| directory + 2 + index * 12).find(|&at| short(at) == Some(TAG))?;
    if short(entry + 2)? != SHORT || long(entry + 4)? != 1 {
        return None;
    }
    short(entry + 8)
}

/// The content of a JPEG file's first Exif segment.
fn jpeg_exif(file: &[u8]) -> Option<&[u8]> {
    let mut rest = file.strip_prefix(&[0xFF, 0xD8])?;
    loop {
        let [0xFF, marker, after @ ..] = rest else { return None };
        match marker {
            0xFF => rest = &rest[1..],
            // The scan, after which there are no more segments of the header.
            0xD9 | 0xDA => return None,
            marker => {
                let length = usize::from(u16::from_be_bytes(after.get(..2)?.try_into().ok()?));
                let content = after.get(2..length)?;
                if *marker == 0xE1 && content.starts_with(b"Exif\0\0") {
                    return Some(content);
                }
                rest = &after[length..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_are_found_where_the_turned_pixels_come_from() {
        let image = RgbImage { width: 5, height: 4, pixels: (0..60).collect() };
        let window = Window { left: 1, top: 2, width: 2, height: 1 };
        for value in 1..=8 {
            let orientation = Orientation::from_tag(value);
            let turned = orientation.apply(image.clone());
            let stored = orientation.stored_window(window, turned.width, turned.height);
            assert_eq!(
                orientation.apply(image.clone().window(stored)).pixels,
                turned.window(window).pixels,
                "orientation {value}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_damaged_block_turns_nothing(block: Vec<u8>, at in 0usize..40, big: bool) {
            let mut tiff = if big { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
            tiff.extend(block);
            let _ = Orientation::from_exif(&tiff);
            let _ = Orientation::from_exif(&tiff[..at.min(tiff.len())]);
            tiff.splice(0..0, [0xFF, 0xD8, 0xFF, 0xE1]);
            let _ = Orientation::of_jpeg(&tiff);
        }
    }
}
