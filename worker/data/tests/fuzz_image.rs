//! Damaged images: whatever is in a file, decoding gives an image or an error, within the declared bound on memory.
//!
//! `make fuzz` sets `FUZZ_INPUTS` for the long version.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::Cursor;

use cappa_data::image::{Decode, Limits, Preparation};
use cappa_data::synth::photograph;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

const LIMITS: Limits = Limits { pixels: 1 << 20 };

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let image = photograph(45, 38, 1);
    let mut files = Vec::new();
    for (sampling, progressive, restart) in [
        (SamplingFactor::R_4_2_0, false, 0),
        (SamplingFactor::R_4_4_4, false, 2),
        (SamplingFactor::R_4_2_2, true, 0),
        (SamplingFactor::R_4_2_0, true, 3),
    ] {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 80);
        encoder.set_sampling_factor(sampling);
        encoder.set_progressive(progressive);
        if restart > 0 {
            encoder.set_restart_interval(restart);
        }
        encoder.encode(&image.pixels, 45, 38, ColorType::Rgb).unwrap();
        files.push(file);
    }
    let mut file = Vec::new();
    Encoder::new(&mut file, 80).encode(&image.pixels[..40 * 38], 40, 38, ColorType::Luma).unwrap();
    files.push(file);
    for colour in [png::ColorType::Rgb, png::ColorType::Rgba, png::ColorType::Grayscale] {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 20, 18);
        encoder.set_color(colour);
        let bytes = 20 * 18 * colour.samples();
        encoder.write_header().unwrap().write_image_data(&image.pixels[..bytes]).unwrap();
        files.push(file);
    }
    let mut file = Cursor::new(Vec::new());
    image_webp::WebPEncoder::new(&mut file).encode(&image.pixels, 45, 38, image_webp::ColorType::Rgb8).unwrap();
    files.push(file.into_inner());
    files.push(include_bytes!("data/lossy.webp").to_vec());
    files
}

fn damage(file: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.next() % 6 {
        if file.is_empty() {
            return;
        }
        let at = random.next() % file.len();
        // Headers are short, and most of what can go wrong is there.
        let at = if random.next().is_multiple_of(2) { at % file.len().min(700) } else { at };
        match random.next() % 7 {
            0 => file[at] ^= 1 << (random.next() % 8),
            1 => file[at] = random.next() as u8,
            2 => file[at] = [0, 0xFF, 0x7F, 0x80][random.next() % 4],
            3 => file.truncate(at),
            4 => drop(file.drain(at..(at + random.next() % 16).min(file.len()))),
            5 => {
                let part = file[at..(at + random.next() % 32).min(file.len())].to_vec();
                file.splice(at..at, part);
            }
            _ => file.insert(at, random.next() as u8),
        }
    }
}

#[test]
fn no_damage_crashes_the_decoders_or_takes_unbounded_memory() {
    let inputs = std::env::var("FUZZ_INPUTS").map_or(3000, |inputs| inputs.parse().unwrap());
    let seeds = seeds();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // Decoders may panic; it is caught, and would fill the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut good, mut panics) = (0u64, 0u64);
    for input in 0..inputs {
        let mut file = seeds[input % seeds.len()].clone();
        damage(&mut file, &mut random);
        for mode in [Decode::Exact, Decode::Fast] {
            match (Preparation { mode, size: 16, limits: LIMITS }).prepare(&file, None) {
                Ok(image) => {
                    assert_eq!(image.pixels.len(), 16 * 16 * 3);
                    good += 1;
                }
                Err(error) => panics += u64::from(error.to_string().contains("panicked")),
            }
        }
    }
    drop(std::panic::take_hook());
    println!("{inputs} inputs: {good} decoded, {panics} panics caught; peak memory {} KiB", peak_memory());
    assert!(good > 0);
    // The inputs ask for up to 65535 × 65535 pixels; the bound is 2^20.
    assert!(peak_memory() < 400 << 10, "peak memory {} KiB", peak_memory());
}

/// Peak resident memory of this process in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
