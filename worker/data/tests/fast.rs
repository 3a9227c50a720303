//! What the fast mode may differ by from the exact one, on camera-like images.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use cappa_data::image::{Augmentation, Decode, Limits, Preparation, RgbImage};
use cappa_data::synth::photograph;
use cappa_shared::order::Draws;
use cappa_shared::spec::{Augment, Crop};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

fn jpeg(width: usize, height: usize, seed: u64, sampling: SamplingFactor, progressive: bool) -> Vec<u8> {
    let image = photograph(width, height, seed);
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 85);
    encoder.set_sampling_factor(sampling);
    encoder.set_progressive(progressive);
    encoder.encode(&image.pixels, width as u16, height as u16, ColorType::Rgb).unwrap();
    file
}

fn prepare(mode: Decode, file: &[u8], augmentation: Option<Augmentation<'_>>) -> RgbImage {
    Preparation { mode, size: 224, limits: Limits::default() }.prepare(file, augmentation).unwrap()
}

/// Mean and largest difference of a value.
fn difference(file: &[u8], augmentation: Option<Augmentation<'_>>) -> (f64, u8) {
    let (exact, fast) = (prepare(Decode::Exact, file, augmentation), prepare(Decode::Fast, file, augmentation));
    assert_eq!((fast.width, fast.height, fast.pixels.len()), (224, 224, 224 * 224 * 3));
    let differences = exact.pixels.iter().zip(&fast.pixels).map(|(a, b)| a.abs_diff(*b));
    let mean = differences.clone().map(f64::from).sum::<f64>() / exact.pixels.len() as f64;
    (mean, differences.max().unwrap())
}

#[test]
fn fast_stays_within_its_tolerance() {
    use SamplingFactor::{R_4_2_0, R_4_2_2, R_4_4_4};
    // (width, height), the mean difference allowed, and the largest.
    for (width, height, mean, largest) in
        [(500, 400, 0.5, 4), (447, 333, 0.5, 4), (901, 700, 0.8, 32), (2000, 1500, 1.3, 32)]
    {
        for (sampling, progressive) in [(R_4_2_0, false), (R_4_2_2, false), (R_4_4_4, false), (R_4_2_0, true)] {
            let file = jpeg(width, height, 3, sampling, progressive);
            let (by, worst) = difference(&file, None);
            println!("{width}x{height} {sampling:?} {progressive}: mean {by:.3}, largest {worst}");
            assert!(by <= mean && worst <= largest, "{width}x{height} {sampling:?}: mean {by:.3}, largest {worst}");
        }
    }
}

#[test]
fn fast_takes_the_same_window_as_exact() {
    let file = jpeg(701, 543, 5, SamplingFactor::R_4_2_0, false);
    let augment = Augment { crop: Some(Crop { scale: [0.2, 0.9], ..Crop::default() }), flip: 0.5, jitter: None };
    for slot in 0..12 {
        let (mean, largest) =
            difference(&file, Some(Augmentation { augment: &augment, draws: Draws::new(1), epoch: 0, slot }));
        assert!(mean <= 2.0 && largest <= 40, "slot {slot}: mean {mean:.3}, largest {largest}");
    }
}

#[test]
fn other_formats_are_prepared_in_both_modes() {
    let image = photograph(300, 260, 1);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 300, 260);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&image.pixels).unwrap();
    // Without subsampled chroma and reduction only the rounding differs.
    let (mean, largest) = difference(&file, None);
    assert!(mean <= 0.8 && largest <= 1, "mean {mean:.3}, largest {largest}");
}

#[test]
fn a_declared_limit_refuses_an_image_by_its_header() {
    let file = jpeg(64, 48, 0, SamplingFactor::R_4_2_0, false);
    for mode in [Decode::Exact, Decode::Fast] {
        let limited = |pixels| Preparation { mode, size: 32, limits: Limits { pixels } }.prepare(&file, None);
        assert!(limited(64 * 48).is_ok());
        assert_eq!(limited(64 * 48 - 1).unwrap_err().to_string(), "64 × 48 pixels exceed the limit of 3071");
    }
}
