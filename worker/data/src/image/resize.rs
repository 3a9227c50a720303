//! Bilinear resizing without antialiasing: exactly as the authors' preprocessing does, and nearly so in whole numbers.

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

/// 8-bit values in rows: one plane, or interleaved channels.
#[derive(Clone, Copy)]
pub(super) struct Raster<'a> {
    /// Rows, each of `stride` bytes.
    pub(super) data: &'a [u8],
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// Pixels in a row.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: usize,
}

/// A stretch of columns or rows, which may begin and end within a pixel.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// Where it begins.
    pub(super) start: f64,
    /// How long it is.
    pub(super) length: f64,
}

/// Resizes the part `across × down` of a raster of interleaved `CHANNELS` to squares of `size` pixels: bilinear between half-pixel
/// centres as [`resize_exact`], but in whole numbers of 15 bits and rounded.
///
/// Rows come first: they are contiguous, so that many values are computed at once. What they give is gathered by columns.
pub(super) fn resize_fast<const CHANNELS: usize>(source: Raster<'_>, across: Span, down: Span, size: usize) -> Vec<u8> {
    let columns: Vec<Step> = steps(across, source.width, size).collect();
    let weights: Vec<i16> = columns.iter().flat_map(|step| [step.weight; CHANNELS]).collect();
    let mut pixels = vec![0; size * size * CHANNELS];
    // A row between two of the source's, the last pixel twice: the right neighbour of every pixel is then the next.
    let mut between = vec![0; (source.width + 1) * CHANNELS];
    let (mut left, mut right) = (vec![[0; CHANNELS]; size], vec![[0; CHANNELS]; size]);
    let row = |at: usize| &source.data[at * source.stride..][..source.width * CHANNELS];
    for (out, step) in pixels.chunks_exact_mut(size * CHANNELS).zip(steps(down, source.height, size)) {
        let above = row(step.low as usize);
        let below = row((step.low as usize + 1).min(source.height - 1));
        for ((value, &above), &below) in between.iter_mut().zip(above).zip(below) {
            *value = lerp_scaled(i16::from(above) << 6, i16::from(below) << 6, step.weight);
        }
        between.copy_within((source.width - 1) * CHANNELS..source.width * CHANNELS, source.width * CHANNELS);
        let between = between.as_chunks::<CHANNELS>().0;
        for ((left, right), step) in left.iter_mut().zip(&mut right).zip(&columns) {
            *right = between[step.low as usize + 1];
            *left = between[step.low as usize];
        }
        let sides = left.as_flattened().iter().zip(right.as_flattened());
        for ((value, (&left, &right)), &weight) in out.iter_mut().zip(sides).zip(&weights) {
            *value = ((lerp_scaled(left, right, weight) + (1 << 5)) >> 6) as u8;
        }
    }
    pixels
}

/// Between 8-bit values times 2⁶, by a weight of 2¹⁵ths; at most one unit too small.
fn lerp_scaled(from: i16, to: i16, weight: i16) -> i16 {
    // The upper half of a product is one instruction for eight values.
    from + ((i32::from(2 * (to - from)) * i32::from(weight)) >> 16) as i16
}

/// A target's centre lies between this pixel and the next, and so far towards the next, of 2¹⁵.
struct Step {
    low: u32,
    weight: i16,
}

/// The steps of `target` pixels over a span of `side` pixels. The pixels at the ends of the span are repeated.
fn steps(span: Span, side: usize, target: usize) -> impl Iterator<Item = Step> {
    let first = span.start.floor();
    let last = (span.start + span.length).ceil().min(side as f64) - 1.0;
    (0..target).map(move |place| {
        let centre = (span.start + (place as f64 + 0.5) * span.length / target as f64 - 0.5).clamp(first, last);
        // Both casts saturate.
        Step { low: centre as u32, weight: (centre.fract() * 32768.0).round() as i16 }
    })
}

fn lerp(from: f32, to: f32, weight: f32) -> f32 {
    from + (to - from) * weight
}
