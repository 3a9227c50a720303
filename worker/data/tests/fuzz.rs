//! Whatever a shard holds, reading it neither crashes nor takes unbounded memory.
//!
//! `FUZZ_INPUTS` sets how many shards and how many JSON documents are tried (`make fuzz`: a million of each); the seed of a failing one
//! is in the panic's message.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cappa_data::image::decode;
use cappa_data::index::{IndexOptions, index};
use cappa_data::sample::{CaptionSource, RawSample};
use cappa_data::shards::{Shard, scan_bytes};
use cappa_shared::manifest::{Filter, ScoreRange};
use cappa_shared::storage;
use jpeg_encoder::{ColorType, Encoder};

/// More memory than this is never needed, whatever the input: the largest image that is decoded, twice, and the program.
const MAX_MEMORY: u64 = 1 << 30;

/// Documents of a shard that holds nothing else.
const DOCUMENTS: u64 = 500;

fn inputs() -> u64 {
    std::env::var("FUZZ_INPUTS").map_or(20_000, |count| count.parse().unwrap())
}

/// Numbers of a seed: xorshift.
struct Random(u64);

impl Random {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn choose<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }
}

fn jpeg() -> Vec<u8> {
    let mut file = Vec::new();
    Encoder::new(&mut file, 80).encode(&[77; 8 * 8 * 3], 8, 8, ColorType::Rgb).unwrap();
    file
}

fn png() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 6, 5);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[9; 90]).unwrap();
    file
}

/// JSON that is deep, long, not UTF-8, or of other types than is expected.
fn json(random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => [b"[".repeat(random.below(3000)), b"]".to_vec()].concat(),
        1 => br#"{"captions": ["one", 2, null, {"a": []}, "two"]}"#.to_vec(),
        2 => br#"{"captions": 7, "width": 1e999}"#.to_vec(),
        3 => b"{\"captions\": \"\xff\xfe\"}".to_vec(),
        4 => br#"{"captions": "\ud800"}"#.to_vec(),
        5 => format!(r#"{{"captions": "{}"}}"#, "x".repeat(random.below(5000))).into_bytes(),
        6 => br#"["captions"]"#.to_vec(),
        _ => br#"{"captions": ["a star", "a small star"], "score": 0.5}"#.to_vec(),
    }
}

/// A tar file of some samples with all kinds of entries, not damaged yet.
fn shard(random: &mut Random, images: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..random.below(6) {
        for extension in ["jpg", "txt", "json", "png"] {
            let content = match extension {
                "jpg" | "png" => random.choose(images).clone(),
                "txt" => b"a star".to_vec(),
                _ => json(random),
            };
            let mut header = if random.below(2) == 0 { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
            header.set_size(content.len() as u64);
            let kinds = [b'0', b'0', b'0', b'0', b'0', b'7', 0, b'1', b'2', b'5', b'S', b'L', b'K', b'x', b'g', b'V'];
            header.set_entry_type(tar::EntryType::new(*random.choose(&kinds)));
            header.set_path(format!("{number:04}.{extension}")).unwrap();
            header.set_cksum();
            tar.append(&header, content.as_slice()).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// Writes over a tar file here and there, and makes checksums right again so that more than the first check is reached.
fn damage(random: &mut Random, tar: &mut Vec<u8>) {
    for _ in 0..random.below(8) {
        let at = random.below(tar.len());
        match random.below(6) {
            0 => tar.truncate(at),
            1 => tar[at..].iter_mut().take(1 + random.next() as usize % 40).for_each(|byte| *byte = 0xFF),
            2 => {
                // The size field of a header.
                let size = at / 512 * 512 + 124;
                let wrongs: [&[u8]; 4] =
                    [b"77777777777", b"00000000000", b"\x80\0\0\x7f\xff\xff\xff\xff\xff\xff\xff\xff", b"99999999999"];
                let wrong = *random.choose(&wrongs);
                tar.iter_mut().skip(size).zip(wrong).for_each(|(byte, wrong)| *byte = *wrong);
            }
            3 => {
                let piece: Vec<u8> = tar[at..].iter().take(random.below(2000)).copied().collect();
                let to = random.below(tar.len());
                tar.splice(to..to, piece);
            }
            _ => {
                if let Some(byte) = tar.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    if random.below(4) > 0 {
        for block in tar.as_chunks_mut::<512>().0 {
            let is_header = block[257..262] == *b"ustar";
            if is_header {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }
}

/// Reads all there is to read of a shard.
fn read(shard: &Shard) {
    for index in 0..u32::try_from(shard.samples().len()).unwrap() {
        let sample = RawSample::find(shard, index).unwrap();
        for source in [CaptionSource::Auto, CaptionSource::Txt, CaptionSource::Json { field: "captions".into() }] {
            if let Ok(captions) = sample.captions(&source) {
                assert!(!captions.is_empty() && captions.iter().all(|caption| !caption.is_empty()));
            }
        }
        if let Ok(image) = sample.image() {
            let _ = decode(&image);
        }
    }
}

#[test]
fn any_shard_is_read_or_refused_within_bounded_memory() {
    let inputs = inputs();
    let images = [jpeg(), png(), b"RIFF\xff\xff\xff\xffWEBPVP8 ".to_vec(), b"no image".to_vec()];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (mut samples, mut damaged, mut packed) = (0, 0, 0);
    for seed in 1..=inputs {
        let mut random = Random::of(seed);
        let mut tar = shard(&mut random, &images);
        damage(&mut random, &mut tar);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let scan = scan_bytes(&tar).unwrap();
            // The same as a file, for some packed: what they hold is read too.
            if seed % 8 == 0 {
                let content = if seed % 16 == 0 { zstd::encode_all(&tar[..], 1).unwrap() } else { tar.clone() };
                file.as_file().set_len(0).unwrap();
                std::io::Seek::rewind(&mut file).unwrap();
                file.write_all(&content).unwrap();
                packed += usize::from(seed % 16 == 0);
                let shard = Shard::open(file.path()).unwrap();
                assert_eq!(shard.samples(), scan.samples);
                read(&shard);
            }
            samples += scan.samples.len();
            damaged += usize::from(scan.damage.is_some());
        }));
        assert!(outcome.is_ok(), "the shard of seed {seed} panicked");
    }
    assert!(samples > 0 && damaged > 0 && packed > 0, "{samples} samples, {damaged} damaged, {packed} packed");
    let memory = peak_memory();
    assert!(memory < MAX_MEMORY, "{memory} bytes were needed");
    eprintln!("{inputs} shards: {samples} samples, {damaged} damaged, {packed} packed, {memory} bytes at most");
}

/// A document with some of its bytes changed, lost, repeated, or replaced by what means something in JSON.
fn damaged_json(random: &mut Random) -> Vec<u8> {
    let mut document = json(random);
    for _ in 0..random.below(5) {
        let at = random.below(document.len());
        match random.below(5) {
            0 => document.truncate(at),
            1 => document.insert(at, *random.choose(b"{}[]\",:\\ue-+.0\xff")),
            2 => {
                let piece = document[at..].iter().take(random.below(50)).copied().collect::<Vec<u8>>();
                document.splice(at..at, piece);
            }
            3 => drop(document.drain(at..document.len().min(at + 1))),
            _ => document.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
        }
    }
    document
}

#[test]
fn any_json_is_read_or_refused_and_judged_by_an_index() {
    let inputs = inputs();
    let scores = vec![ScoreRange { field: "score".into(), min: Some(0.25), max: None }];
    let filter = Filter { min_caption: Some(5), scores, ..Filter::default() };
    let options = IndexOptions { filter, ..IndexOptions::default() };
    let (mut kept, mut damaged) = (0, 0);
    for first in (1..=inputs).step_by(DOCUMENTS as usize) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut tar = tar::Builder::new(Vec::new());
        for seed in (first..=inputs).take(DOCUMENTS as usize) {
            let document = damaged_json(&mut Random::of(seed));
            let mut header = tar::Header::new_ustar();
            header.set_size(document.len() as u64);
            tar.append_data(&mut header, format!("{seed:08}.json"), document.as_slice()).unwrap();
        }
        std::fs::write(at("shard.tar"), tar.into_inner().unwrap()).unwrap();
        let outcome = catch_unwind(|| {
            let shard = Shard::open(at("shard.tar").as_ref()).unwrap();
            read(&shard);
            let indices = 0..u32::try_from(shard.samples().len()).unwrap();
            let damaged = indices.filter(|index| RawSample::find(&shard, *index).unwrap().json().is_err()).count();
            let report = index(&[at("shard.tar")], &storage::open(&at("manifest.json")).unwrap(), &options, |_| {});
            (report.unwrap(), damaged)
        });
        let panicked = |_| panic!("one of the {DOCUMENTS} documents of seed {first} and the next ones panicked");
        let (report, found) = outcome.unwrap_or_else(panicked);
        kept += report.manifest.shards().iter().map(|shard| u64::from(shard.samples)).sum::<u64>();
        damaged += found;
    }
    assert!(kept > 0 && damaged > 0, "{kept} kept, {damaged} damaged");
    let memory = peak_memory();
    assert!(memory < MAX_MEMORY, "{memory} bytes were needed");
    eprintln!("{inputs} documents: {damaged} damaged, {kept} kept by the filter, {memory} bytes at most");
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
