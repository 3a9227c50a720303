//! Colours: from JPEG's to red, green and blue, and torchvision's adjustments.

/// Red, green and blue of luma and chroma, by the full-range matrix of ITU-R BT.601 as JFIF takes it.
pub(super) fn rgb_of_ycbcr(luma: &[u8], blue: &[u8], red: &[u8]) -> Vec<u8> {
    // Fixed point with 16 bits after the point.
    const RED_OF_RED: i32 = 91_881;
    const GREEN_OF_BLUE: i32 = 22_554;
    const GREEN_OF_RED: i32 = 46_802;
    const BLUE_OF_BLUE: i32 = 116_130;
    const HALF: i32 = 1 << 15;
    let clamp = |value: i32| (value >> 16).clamp(0, 255) as u8;
    let mut pixels = vec![0; luma.len() * 3];
    for (((pixel, &y), &cb), &cr) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(luma).zip(blue).zip(red) {
        let (y, cb, cr) = ((i32::from(y) << 16) + HALF, i32::from(cb) - 128, i32::from(cr) - 128);
        *pixel = [
            clamp(y + RED_OF_RED * cr),
            clamp(y - GREEN_OF_BLUE * cb - GREEN_OF_RED * cr),
            clamp(y + BLUE_OF_BLUE * cb),
        ];
    }
    pixels
}

/// An adjustment, with torchvision's parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    /// All values times the factor.
    Brightness(f64),
    /// Away from the mean grey by the factor.
    Contrast(f64),
    /// Away from each pixel's grey by the factor.
    Saturation(f64),
    /// The hue turned by this share of the circle.
    Hue(f32),
}

/// Adjusts 8-bit RGB pixels. Reference: torchvision `transforms/_functional_tensor.py`, whose results for 8-bit tensors are
/// truncated, not rounded.
pub(super) fn apply(change: Change, pixels: &mut [u8]) {
    let pixels = pixels.as_chunks_mut::<3>().0;
    match change {
        Change::Brightness(1.0) | Change::Contrast(1.0) | Change::Saturation(1.0) | Change::Hue(0.0) => {}
        Change::Brightness(factor) => blend(pixels, factor, |_| 0.0),
        Change::Contrast(factor) => {
            let sum: f64 = pixels.iter().map(|pixel| f64::from(grey(pixel))).sum();
            let mean = (sum / pixels.len().max(1) as f64) as f32;
            blend(pixels, factor, |_| mean);
        }
        Change::Saturation(factor) => blend(pixels, factor, grey),
        Change::Hue(turn) => pixels.iter_mut().for_each(|pixel| *pixel = turned(*pixel, turn)),
    }
}

fn blend(pixels: &mut [[u8; 3]], factor: f64, other: impl Fn(&[u8; 3]) -> f32) {
    // As PyTorch does it, the factors are made in double precision and applied in single.
    let (factor, rest) = (factor as f32, (1.0 - factor) as f32);
    for pixel in pixels {
        let other = rest * other(pixel);
        *pixel = pixel.map(|value| (factor * f32::from(value) + other).clamp(0.0, 255.0) as u8);
    }
}

/// The luma of a pixel as torchvision weighs it, a whole number.
fn grey(&[r, g, b]: &[u8; 3]) -> f32 {
    (0.2989 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)).trunc()
}

/// A pixel with its hue turned, by way of hue, saturation and value.
fn turned(pixel: [u8; 3], turn: f32) -> [u8; 3] {
    let [r, g, b] = pixel.map(|value| f32::from(value) / 255.0);
    let (value, least) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = value - least;
    if chroma == 0.0 {
        return pixel;
    }
    let saturation = chroma / value;
    let [to_r, to_g, to_b] = [r, g, b].map(|channel| (value - channel) / chroma);
    let sextants = if value == r {
        to_b - to_g
    } else if value == g {
        2.0 + to_r - to_b
    } else {
        4.0 + to_g - to_r
    };
    let hue = ((sextants / 6.0 + 1.0).fract() + turn).rem_euclid(1.0) * 6.0;
    let (sextant, part) = (hue.floor(), hue - hue.floor());
    let p = (value * (1.0 - saturation)).clamp(0.0, 1.0);
    let q = (value * (1.0 - saturation * part)).clamp(0.0, 1.0);
    let t = (value * (1.0 - saturation * (1.0 - part))).clamp(0.0, 1.0);
    let rgb = match sextant as i32 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    };
    // As torchvision converts to 8 bits: every value has an equal share of the range.
    rgb.map(|channel| (channel * 255.999) as u8)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        value.as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as u8).collect()
    }

    #[test]
    fn colours_change_as_torchvision_changes_them() {
        let file: Value = serde_json::from_str(include_str!("../../tests/data/colour_jitter.json")).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let value = case["value"].as_f64().unwrap();
            let change = match case["change"].as_str().unwrap() {
                "brightness" => Change::Brightness(value),
                "contrast" => Change::Contrast(value),
                "saturation" => Change::Saturation(value),
                _ => Change::Hue(value as f32),
            };
            let (mut pixels, expected) = (bytes(&file["pixels"]), bytes(&case["pixels"]));
            apply(change, &mut pixels);
            let off = pixels.iter().zip(&expected).filter(|(a, b)| a != b).count();
            let near = pixels.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1);
            // Single precision in another order may fall on the other side of a whole number.
            assert!(near && off * 20 <= pixels.len(), "{change:?}: {off} of {} differ", pixels.len());
        }
    }

    #[test]
    fn colours_are_converted_as_the_matrix_says() {
        for (ycbcr, rgb) in
            [([0, 128, 128], [0, 0, 0]), ([255, 128, 128], [255, 255, 255]), ([76, 85, 255], [254, 0, 0])]
        {
            let [y, cb, cr]: [u8; 3] = ycbcr;
            assert_eq!(rgb_of_ycbcr(&[y], &[cb], &[cr]), rgb, "{ycbcr:?}");
        }
    }
}
