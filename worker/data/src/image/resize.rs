//! Bilinear resizing without antialiasing, exactly as the authors' preprocessing does it.

use super::RgbImage;

/// Resizes to `width × height`, whatever the aspect: bilinear between half-pixel centres, without antialiasing, the edges
/// repeated, the result truncated (not rounded) to 8 bits.
///
/// It is `tf.image.resize` followed by the cast back to `uint8`, in the same single-precision operations. Reference:
/// big_vision `pp/ops_image.py`, `get_resize`.
pub fn resize_exact(image: RgbImage, width: usize, height: usize) -> RgbImage {
    if (image.width, image.height) == (width, height) {
        // Every centre falls on a pixel: the result is the input.
        return image;
    }
    let columns: Vec<Tap> = taps(image.width, width).map(|tap| tap.scaled(3)).collect();
    let stride = image.width * 3;
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in taps(image.height, height) {
        let top = &image.pixels[row.low * stride..][..stride];
        let bottom = &image.pixels[row.high * stride..][..stride];
        for column in &columns {
            for channel in 0..3 {
                let (low, high) = (column.low + channel, column.high + channel);
                let top = lerp(top[low].into(), top[high].into(), column.weight);
                let bottom = lerp(bottom[low].into(), bottom[high].into(), column.weight);
                // Between 0 and 255 by construction; the cast truncates, as the authors' does.
                pixels.push(lerp(top, bottom, row.weight) as u8);
            }
        }
    }
    RgbImage { width, height, pixels }
}

/// The two source places that a target place lies between, and how far towards the second.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

impl Tap {
    fn scaled(self, by: usize) -> Self {
        Self { low: self.low * by, high: self.high * by, ..self }
    }
}

fn taps(source: usize, target: usize) -> impl Iterator<Item = Tap> {
    let scale = source as f32 / target as f32;
    (0..target).map(move |place| {
        let centre = (place as f32 + 0.5) * scale - 0.5;
        let floor = centre.floor();
        Tap {
            low: (floor.max(0.0) as usize).min(source - 1),
            high: ((floor + 1.0).max(0.0) as usize).min(source - 1),
            weight: centre - floor,
        }
    })
}

fn lerp(from: f32, to: f32, weight: f32) -> f32 {
    from + (to - from) * weight
}
