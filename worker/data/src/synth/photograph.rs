//! Pictures with the statistics of photographs, for tests and benchmarks of decoding.

use crate::image::RgbImage;

/// Wavelengths of the noise in pixels: octaves, each with an amplitude in proportion to its wavelength's power below, as in natural
/// scenes (Field, "Relations between the statistics of natural images", 1987).
const WAVELENGTHS: [usize; 8] = [2, 4, 8, 16, 32, 64, 128, 256];

/// A picture with light and shade of all sizes, edges of objects, colours that vary more slowly than light, and a sensor's grain.
pub fn photograph(width: usize, height: usize, seed: u64) -> RgbImage {
    let field = |channel: u64, finest: usize| {
        let mut field = vec![0f32; width * height];
        for &wavelength in WAVELENGTHS.iter().filter(|&&wavelength| wavelength >= finest) {
            let amplitude = (wavelength as f32 / 256.0).powf(0.9) * 90.0;
            add_octave(&mut field, width, wavelength, amplitude, seed.wrapping_mul(31).wrapping_add(channel));
        }
        field
    };
    let (light, warm, green) = (field(1, 2), field(2, 32), field(3, 32));
    let mut pixels = Vec::with_capacity(width * height * 3);
    for (place, ((&light, &warm), &green)) in light.iter().zip(&warm).zip(&green).enumerate() {
        let (x, y) = ((place % width) as f32, (place / width) as f32);
        let object = if (x * 0.021 + seed as f32).sin() + (y * 0.027).sin() > 0.9 { 45.0 } else { 0.0 };
        for (channel, tint) in [warm * 0.3, green * 0.3 - warm * 0.15, -warm * 0.3].into_iter().enumerate() {
            let grain = (hash(seed, place as u64, channel as u64 + 9) - 0.5) * 6.0;
            pixels.push((118.0 + light + object + tint + grain).clamp(0.0, 255.0) as u8);
        }
    }
    RgbImage { width, height, pixels }
}

/// Adds smoothly interpolated noise of one wavelength.
fn add_octave(field: &mut [f32], width: usize, wavelength: usize, amplitude: f32, seed: u64) {
    let smooth = |part: f32| part * part * (3.0 - 2.0 * part);
    let columns = width / wavelength + 2;
    let mut above = Vec::new();
    let mut below: Vec<f32> = Vec::new();
    for (y, row) in field.chunks_exact_mut(width).enumerate() {
        let (line, part) = (y / wavelength, smooth((y % wavelength) as f32 / wavelength as f32));
        if y % wavelength == 0 {
            let line_of = |line: usize| {
                (0..columns).map(|column| hash(seed, line as u64, (column * 512 + wavelength) as u64) - 0.5).collect()
            };
            above = if below.is_empty() { line_of(line) } else { below };
            below = line_of(line + 1);
        }
        for (x, value) in row.iter_mut().enumerate() {
            let (column, across) = (x / wavelength, smooth((x % wavelength) as f32 / wavelength as f32));
            let top = above[column] + (above[column + 1] - above[column]) * across;
            let bottom = below[column] + (below[column + 1] - below[column]) * across;
            *value += (top + (bottom - top) * part) * amplitude;
        }
    }
}

/// Uniform in `[0, 1)`: SplitMix64's finaliser over the three.
fn hash(seed: u64, a: u64, b: u64) -> f32 {
    let mut z = seed ^ a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}
