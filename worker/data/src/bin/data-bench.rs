//! How many images a core reads: decode, resize and tokenise, as the loader's decoding threads do. Prints a JSON line a case.
//!
//! Usage: `data-bench [SECONDS]`, seconds for each case (2 unless given), or `data-bench scan TAR [SECONDS]`: how fast the samples of a
//! tar file are found, again and again, so from the page cache.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use cappa_data::image::{decode, resize_exact};
use cappa_data::shards::scan_tar;
use cappa_data::text::{DEFAULT_VOCABULARY, Tokenizer, train};
use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};

/// A kind of image, and what a model takes of it.
struct Case {
    name: &'static str,
    width: u16,
    height: u16,
    image_size: usize,
    text_length: usize,
}

const CASES: [Case; 3] = [
    Case { name: "jpeg_64x64_to_64", width: 64, height: 64, image_size: 64, text_length: 24 },
    Case { name: "jpeg_500x400_to_224", width: 500, height: 400, image_size: 224, text_length: 64 },
    Case { name: "jpeg_2000x1500_to_224", width: 2000, height: 1500, image_size: 224, text_length: 64 },
];

const CAPTION: &str = "a small red star left of a large blue ring under the word MOON";

/// Files of a case, so that no single one's quirks are measured.
const FILES: u32 = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("scan") {
        let tar = arguments.next().ok_or("name a tar file: data-bench scan TAR [SECONDS]")?;
        let seconds = arguments.next().map_or(Ok(2.0), |seconds| seconds.parse())?;
        return scan(&tar, seconds);
    }
    let seconds = std::env::args().nth(1).map_or(Ok(2.0), |seconds| seconds.parse())?;
    let tokenizer = Tokenizer::from_bytes(&train([CAPTION].into_iter(), DEFAULT_VOCABULARY)?)?;
    for case in CASES {
        let files = (0..FILES).map(|seed| photograph(&case, seed)).collect::<Result<Vec<_>, _>>()?;
        let bytes = files.iter().map(Vec::len).sum::<usize>() / files.len();
        let begin = Instant::now();
        let mut images = 0u64;
        while begin.elapsed() < Duration::from_secs_f64(seconds) {
            for file in &files {
                let image = resize_exact(decode(file)?, case.image_size, case.image_size);
                let tokens = tokenizer.encode(CAPTION, case.text_length)?;
                std::hint::black_box((image, tokens));
                images += 1;
            }
        }
        let rate = images as f64 / begin.elapsed().as_secs_f64();
        writeln!(
            std::io::stdout(),
            r#"{{"name":"data/{}","images_per_second_per_core":{rate:.1},"jpeg_bytes":{bytes}}}"#,
            case.name
        )?;
    }
    Ok(())
}

fn scan(tar: &str, seconds: f64) -> Result<(), Box<dyn std::error::Error>> {
    let file = File::open(tar)?;
    let bytes = file.metadata()?.len();
    let begin = Instant::now();
    let (mut scans, mut samples) = (0u64, 0);
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        samples = std::hint::black_box(scan_tar(&file)?).samples.len();
        scans += 1;
    }
    let each = begin.elapsed().as_secs_f64() / scans as f64;
    let (rate, microseconds) = (bytes as f64 / each, each * 1e6 / samples.max(1) as f64);
    writeln!(
        std::io::stdout(),
        r#"{{"name":"data/scan","bytes_per_second":{rate:.0},"microseconds_per_sample":{microseconds:.2},"samples":{samples}}}"#
    )?;
    Ok(())
}

/// A JPEG with the frequencies of a photograph: smooth light, edges, and the grain of a sensor.
fn photograph(case: &Case, seed: u32) -> Result<Vec<u8>, EncodingError> {
    let mut grain = seed.wrapping_mul(2_654_435_761).max(1);
    let mut pixels = Vec::with_capacity(usize::from(case.width) * usize::from(case.height) * 3);
    for y in 0..case.height {
        for x in 0..case.width {
            let (x, y) = (f32::from(x) + seed as f32 * 17.0, f32::from(y));
            let light = 90.0 * (x * 0.011).sin() * (y * 0.013).cos();
            let edge = if (x * 0.05).sin() + (y * 0.07).sin() > 0.6 { 40.0 } else { 0.0 };
            for channel in [0.0, 12.0, -20.0] {
                // Marsaglia's xorshift, enough for noise.
                grain ^= grain << 13;
                grain ^= grain >> 17;
                grain ^= grain << 5;
                let noise = (grain >> 24) as f32 / 16.0 - 8.0;
                pixels.push((128.0 + light + edge + channel + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 85);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode(&pixels, case.width, case.height, ColorType::Rgb)?;
    Ok(file)
}
