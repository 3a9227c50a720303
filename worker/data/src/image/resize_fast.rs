//! Bilinear resizing in whole numbers, eight values at once.

use std::array;

use wide::{i16x8, u8x16};

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

/// Values in a vector of 16 bits each.
const LANES: usize = 8;

/// Values in a vector of 8 bits each.
const BYTES: usize = 16;

/// Resizes the part `across × down` of a raster of interleaved `CHANNELS` to squares of `size` pixels: bilinear between half-pixel
/// centres as [`super::resize_exact`], but in whole numbers of 15 bits and rounded.
///
/// Eight rows of the result are made at a time: first as wide as the source, where neighbours are computed together, then turned so
/// that a vector holds one column of the eight. Picking the columns that a pixel lies between is then one load for all eight rows.
pub(super) fn resize_fast<const CHANNELS: usize>(source: Raster<'_>, across: Span, down: Span, size: usize) -> Vec<u8> {
    let columns: Vec<Step> = steps(across, source.width, size).flat_map(Step::channels::<CHANNELS>).collect();
    let rows: Vec<Step> = steps(down, source.height, size).collect();
    let (stride, width) = (source.width * CHANNELS, size * CHANNELS);
    let mut pixels = vec![0; size * width];
    // Columns of eight rows that lie between rows of the source. The last pixel is there twice: every pixel has a right neighbour.
    let mut between = vec![i16x8::ZERO; stride.next_multiple_of(BYTES) + CHANNELS];
    let mut resized = vec![[[0; LANES]; LANES]; width.div_ceil(LANES)];
    for (out, rows) in pixels.chunks_mut(LANES * width).zip(rows.chunks(LANES)) {
        interpolate_rows(source, stride, rows, &mut between);
        between.copy_within(stride - CHANNELS..stride, stride);
        for (resized, columns) in resized.iter_mut().zip(columns.chunks(LANES)) {
            *resized = interpolate_columns::<CHANNELS>(&between, columns);
        }
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let mut resized = resized.iter().map(|columns| &columns[row]);
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            whole.iter_mut().zip(&mut resized).for_each(|(out, columns)| *out = *columns);
            rest.iter_mut().zip(resized.flatten()).for_each(|(out, column)| *out = *column);
        }
    }
    pixels
}

/// Writes `between[column][row]`: at each of the `stride` columns, up to eight rows that lie between those of the source, times 2⁶.
fn interpolate_rows(source: Raster<'_>, stride: usize, rows: &[Step], between: &mut [i16x8]) {
    let row = |at: usize| &source.data[at * source.stride..][..stride];
    // Where fewer than eight are left, the last is computed again and not looked at.
    let step = |lane: usize| &rows[lane.min(rows.len() - 1)];
    let weights: [i16x8; LANES] = array::from_fn(|lane| i16x8::splat(step(lane).weight));
    let sides: [_; LANES] =
        array::from_fn(|lane| (row(step(lane).low), row((step(lane).low + 1).min(source.height - 1))));
    for (chunk, between) in between.chunks_exact_mut(BYTES).take(stride.div_ceil(BYTES)).enumerate() {
        let mut halves = ([i16x8::ZERO; LANES], [i16x8::ZERO; LANES]);
        for lane in 0..LANES {
            let (above, below) = (bytes(sides[lane].0, chunk), bytes(sides[lane].1, chunk));
            let lerped = |half: fn(u8x16) -> i16x8| lerp(half(above) << 6_u32, half(below) << 6_u32, weights[lane]);
            halves.0[lane] = lerped(i16x8::from_u8x16_low);
            halves.1[lane] = lerped(i16x8::from_u8x16_high);
        }
        let (low, high) = between.split_at_mut(LANES);
        low.copy_from_slice(&i16x8::transpose(halves.0));
        high.copy_from_slice(&i16x8::transpose(halves.1));
    }
}

/// The values of a chunk of a row, filled up with zeros where the row ends.
fn bytes(row: &[u8], chunk: usize) -> u8x16 {
    let (chunks, rest) = row.as_chunks::<BYTES>();
    u8x16::new(chunks.get(chunk).copied().unwrap_or_else(|| {
        let mut filled = [0; BYTES];
        filled[..rest.len()].copy_from_slice(rest);
        filled
    }))
}

/// Up to eight columns of the result, of eight rows: `[row][column]`.
fn interpolate_columns<const CHANNELS: usize>(between: &[i16x8], columns: &[Step]) -> [[u8; LANES]; LANES] {
    let mut lanes = [i16x8::ZERO; LANES];
    for (lane, column) in lanes.iter_mut().zip(columns) {
        *lane = lerp(between[column.low], between[column.low + CHANNELS], i16x8::splat(column.weight));
    }
    let rounded = i16x8::transpose(lanes).map(|row| (row + i16x8::splat(1 << 5)) >> 6_u32);
    let mut rows = [[0; LANES]; LANES];
    for (rows, rounded) in rows.as_chunks_mut::<2>().0.iter_mut().zip(rounded.as_chunks::<2>().0) {
        let both = u8x16::narrow_i16x8(rounded[0], rounded[1]).to_array();
        rows.as_flattened_mut().copy_from_slice(&both);
    }
    rows
}

/// Between 8-bit values times 2⁶, by a weight of 2¹⁵ths; at most one unit too small.
fn lerp(from: i16x8, to: i16x8, weight: i16x8) -> i16x8 {
    let difference = to - from;
    from + (difference + difference).mul_keep_high(weight)
}

/// A target's centre lies between this pixel and the next, and so far towards the next, of 2¹⁵.
struct Step {
    low: usize,
    weight: i16,
}

impl Step {
    /// The same between interleaved channels.
    fn channels<const CHANNELS: usize>(self) -> [Self; CHANNELS] {
        array::from_fn(|channel| Self { low: self.low * CHANNELS + channel, weight: self.weight })
    }
}

/// The steps of `target` pixels over a span of `side` pixels. The pixels at the ends of the span are repeated.
fn steps(span: Span, side: usize, target: usize) -> impl Iterator<Item = Step> {
    let first = span.start.floor();
    let last = (span.start + span.length).ceil().min(side as f64) - 1.0;
    (0..target).map(move |place| {
        let centre = (span.start + (place as f64 + 0.5) * span.length / target as f64 - 0.5).clamp(first, last);
        // Both casts saturate.
        Step { low: centre as usize, weight: (centre.fract() * 32768.0).round() as i16 }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In double precision, one value after the other.
    fn bilinear(source: Raster<'_>, channels: usize, across: Span, down: Span, size: usize) -> Vec<f64> {
        let value = |row: usize, column: usize, channel: usize| {
            let (row, column) = (row.min(source.height - 1), column.min(source.width - 1));
            f64::from(source.data[row * source.stride + column * channels + channel])
        };
        let centre = |span: Span, side: usize, place: usize| {
            let last = (span.start + span.length).ceil().min(side as f64) - 1.0;
            (span.start + (place as f64 + 0.5) * span.length / size as f64 - 0.5).clamp(span.start.floor(), last)
        };
        let places = (0..size).flat_map(|y| (0..size).map(move |x| (y, x)));
        let mixed = |(y, x): (usize, usize), channel| {
            let (y, x) = (centre(down, source.height, y), centre(across, source.width, x));
            let (row, column, below, right) = (y as usize, x as usize, y.fract(), x.fract());
            let top = value(row, column, channel) * (1.0 - right) + value(row, column + 1, channel) * right;
            let bottom = value(row + 1, column, channel) * (1.0 - right) + value(row + 1, column + 1, channel) * right;
            top * (1.0 - below) + bottom * below
        };
        places.flat_map(|place| (0..channels).map(move |channel| mixed(place, channel))).collect()
    }

    proptest! {
        #[test]
        fn every_size_is_resized_as_in_double_precision(
            (width, height, size) in (1usize..70, 1usize..40, 1usize..40),
            (padding, seed) in (0usize..9, any::<u64>()),
            (left, right) in (0.0f64..0.4, 0.6f64..1.0),
            in_colour: bool,
        ) {
            let channels = if in_colour { 3 } else { 1 };
            let stride = width * channels + padding;
            let data: Vec<u8> = (0..(stride * height) as u64)
                .map(|at| (seed.wrapping_add(at).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
                .collect();
            let source = Raster { data: &data, stride, width, height };
            let across = Span { start: left * width as f64, length: (right - left) * width as f64 };
            let down = Span { start: 0.0, length: height as f64 };
            let resize = if in_colour { resize_fast::<3> } else { resize_fast::<1> };
            let expected = bilinear(source, channels, across, down, size);
            for (value, expected) in resize(source, across, down, size).into_iter().zip(expected) {
                prop_assert!((f64::from(value) - expected).abs() <= 0.6, "{value} for {expected}");
            }
        }
    }
}
