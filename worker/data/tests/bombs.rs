//! A few bytes that ask for gigabytes are refused by declared limits, before memory or disk is given to them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use cappa_data::bad::BadReason;
use cappa_data::image::{DecodeError, decode};
use cappa_data::index::{IndexOptions, index};
use cappa_data::sample::RawSample;
use cappa_data::shards::{MAX_FILE_BYTES, Shard};
use cappa_shared::storage;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// More than a small packed shard may unpack to, and more than this process may take at any time.
const BOMB: u64 = 200 << 20;
const MAX_MEMORY_KIB: u64 = 150 << 10;

/// Peak resident memory of this process in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn assert_little_memory() {
    assert!(peak_memory() < MAX_MEMORY_KIB, "{} KiB were needed", peak_memory());
}

fn zeros() -> io::Take<io::Repeat> {
    io::repeat(0).take(BOMB)
}

/// A tar file of one sample whose picture is all zeros, written through a packer.
fn tar_bomb(packer: impl Write) -> impl Write {
    let mut tar = tar::Builder::new(packer);
    let mut header = tar::Header::new_ustar();
    header.set_size(BOMB);
    tar.append_data(&mut header, "0000.jpg", zeros()).unwrap();
    header.set_size(6);
    tar.append_data(&mut header, "0000.txt", &b"a star"[..]).unwrap();
    tar.into_inner().unwrap()
}

fn gzip_bomb(path: &Path) {
    let packer = GzEncoder::new(File::create(path).unwrap(), Compression::best());
    tar_bomb(packer).flush().unwrap();
}

fn zstd_bomb(path: &Path) {
    let packer = zstd::Encoder::new(File::create(path).unwrap(), 1).unwrap().auto_finish();
    tar_bomb(packer).flush().unwrap();
}

fn good_shard(path: &Path) {
    let mut file = Vec::new();
    jpeg_encoder::Encoder::new(&mut file, 80).encode(&[77; 192], 8, 8, jpeg_encoder::ColorType::Rgb).unwrap();
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in [("0000.jpg", file.as_slice()), ("0000.txt", b"a star")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.finish().unwrap();
}

#[test]
fn packed_shards_that_unpack_to_far_too_much_are_damaged_and_the_others_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    good_shard(&at("train-0.tar"));
    gzip_bomb(&at("train-1.tar.gz"));
    zstd_bomb(&at("train-2.tar.zst"));
    for bomb in ["train-1.tar.gz", "train-2.tar.zst"] {
        let size = at(bomb).metadata().unwrap().len();
        assert!(size < 2 << 20, "{bomb} is no bomb: {size} bytes");
        let shard = Shard::open(&at(bomb)).unwrap();
        let damage = shard.damage().expect("it is refused").to_string();
        assert!(shard.samples().is_empty() && damage.contains("unpacks to more than 67108864 bytes"), "{damage}");
    }
    let pattern = folder.path().to_str().unwrap().to_owned();
    let manifest = storage::open(at("train.json").to_str().unwrap()).unwrap();
    let report = index(&[pattern], &manifest, &IndexOptions::default(), |_| {}).unwrap();
    assert_eq!((report.manifest.total_samples(), report.problems().count()), (1, 2));
    assert_little_memory();
}

#[test]
fn a_file_of_a_sample_beyond_the_limit_is_not_read_into_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.tar");
    let mut header = tar::Header::new_ustar();
    header.set_path("0000.jpg").unwrap();
    header.set_size(MAX_FILE_BYTES + 1);
    header.set_cksum();
    let mut file = File::create(&path).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // A hole: the file takes no room on the disk.
    file.set_len(512 + (MAX_FILE_BYTES + 1).next_multiple_of(512) + 1024).unwrap();
    let shard = Shard::open(&path).unwrap();
    let refused = RawSample::find(&shard, 0).unwrap().image().unwrap_err();
    assert_eq!(refused.reason, BadReason::TooLarge, "{refused}");
    assert_little_memory();
}

/// A PNG of 8-bit RGB that says it has this size, with these other chunks before its data.
fn png(width: u32, height: u32, chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&size[..], &[8, 2, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let end: (&[u8; 4], Vec<u8>) = (b"IEND", Vec::new());
    for (kind, content) in [(b"IHDR", header)].iter().chain(chunks).chain([&end]) {
        let mut sum = flate2::Crc::new();
        sum.update(*kind);
        sum.update(content);
        file.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        file.extend_from_slice(*kind);
        file.extend_from_slice(content);
        file.extend(sum.sum().to_be_bytes());
    }
    file
}

fn deflated(bytes: u64) -> Vec<u8> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
    io::copy(&mut io::repeat(0).take(bytes), &mut packer).unwrap();
    packer.finish().unwrap()
}

/// A WebP file of one chunk.
fn webp(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    [b"RIFF", &size(12 + content.len())[..], b"WEBP", kind, &size(content.len()), content].concat()
}

#[test]
fn pictures_that_say_they_are_huge_are_refused_by_their_headers() {
    let row = deflated(3 * 60_000 + 1);
    let lossy = [&[0x30, 1, 0, 0x9d, 0x01, 0x2a][..], &[0xff, 0x3f, 0xff, 0x3f], &[0; 40]].concat();
    // 14 bits each of width and height less one, then one of alpha and three of version.
    let lossless = [&[0x2f][..], &0x0fff_bffeu32.to_le_bytes(), &[0; 40]].concat();
    for (what, file, sides) in [
        ("a PNG", png(60_000, 60_000, &[(b"IDAT", row.clone())]), (60_000, 60_000)),
        ("a lossy WebP", webp(b"VP8 ", &lossy), (16_383, 16_383)),
        ("a lossless WebP", webp(b"VP8L", &lossless), (16_383, 16_383)),
    ] {
        let refused = decode(&file).expect_err(what);
        let DecodeError::TooLarge { width, height, .. } = refused else { panic!("{what}: {refused}") };
        assert_eq!((width, height), sides, "{what}");
    }
    // A row alone would take gigabytes: already the decoder's own limit refuses it.
    decode(&png(0x7fff_ffff, 0x7fff_ffff, &[(b"IDAT", row)])).expect_err("the widest PNG there can be");
    assert_little_memory();
}

#[test]
fn what_a_png_unpacks_to_beyond_its_pixels_is_not_kept() {
    // Data of 200 MiB for four pixels, and as much in chunks that nobody asked for.
    let bomb = deflated(BOMB);
    let text = [&b"comment\0\0"[..], &bomb].concat();
    for (what, file) in [
        ("pixels", png(2, 2, &[(b"IDAT", bomb)])),
        ("text", png(2, 2, &[(b"zTXt", text.clone()), (b"IDAT", deflated(14))])),
        ("a profile", png(2, 2, &[(b"iCCP", text), (b"IDAT", deflated(14))])),
    ] {
        if let Ok(image) = decode(&file) {
            assert_eq!(image.pixels.len(), 12, "{what}");
        }
    }
    assert_little_memory();
}
