//! Shards as other programs write them, indexed and trained on.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cappa_data::Sources;
use cappa_data::index::{IndexOptions, index};
use cappa_data::shards::Shard;
use cappa_shared::manifest::{DataManifest, Format};

use crate::corpus::{Corpus, sample, take};

/// Writes the files of so many samples into `folder`, under names of more than 100 characters where `long`.
fn loose_files(folder: &Path, count: usize, long: bool) {
    let stem = if long { "x".repeat(110) } else { String::new() };
    for number in 0..count {
        for (extension, content) in sample(number) {
            fs::write(folder.join(format!("{stem}{number:04}.{extension}")), content).unwrap();
        }
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The captions of all samples of a shard, in its order.
fn captions(shard: &Shard) -> Vec<String> {
    let text = |entry: &cappa_data::shards::SampleEntry| {
        String::from_utf8(shard.read(entry.file(&["txt"]).unwrap()).unwrap()).unwrap()
    };
    shard.samples().iter().map(text).collect()
}

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("star {number}")).collect()
}

#[test]
fn tars_of_every_format_of_gnu_tar_are_read() {
    for (format, long) in
        [("gnu", true), ("pax", true), ("posix", true), ("ustar", false), ("v7", false), ("oldgnu", true)]
    {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        fs::create_dir(&files).unwrap();
        loose_files(&files, 5, long);
        std::os::unix::fs::symlink("0000.jpg", files.join("9999.jpg")).unwrap();
        let format = format!("--format={format}");
        run("tar", &["--sort=name", &format, "-cf", "../shard.tar", "."], &files);
        let shard = Shard::open(&folder.path().join("shard.tar")).unwrap();
        assert!(shard.damage().is_none(), "{format}: {:?}", shard.damage());
        assert_eq!(captions(&shard), expected(5), "{format}");
    }
}

#[test]
fn a_tar_of_macos_has_no_samples_of_hidden_files() {
    let folder = tempfile::tempdir().unwrap();
    loose_files(folder.path(), 3, false);
    for name in ["._0000.jpg", "._0000.txt", ".DS_Store"] {
        fs::write(folder.path().join(name), b"\0\x05\x16\x07AppleDouble").unwrap();
    }
    fs::create_dir(folder.path().join("PaxHeaders.1")).unwrap();
    fs::write(folder.path().join("PaxHeaders.1/0000.txt"), b"30 mtime=1700000000.000000000\n").unwrap();
    run("tar", &["--sort=name", "--exclude=shard.tar", "--format=pax", "-cf", "shard.tar", "."], folder.path());
    assert_eq!(captions(&Shard::open(&folder.path().join("shard.tar")).unwrap()), expected(3));
}

#[test]
fn a_tar_of_an_unsorted_folder_keeps_its_samples_together() {
    let folder = tempfile::tempdir().unwrap();
    loose_files(folder.path(), 3, false);
    let names = ["0000.jpg", "0001.jpg", "0002.jpg", "0000.txt", "0001.txt", "0002.txt"];
    run("tar", &[&["-cf", "shard.tar"][..], &names].concat(), folder.path());
    let shard = Shard::open(&folder.path().join("shard.tar")).unwrap();
    assert!(shard.samples().iter().all(|sample| sample.files.len() == 2));
    assert_eq!(captions(&shard), expected(3));
}

#[test]
fn a_sparse_file_is_skipped_and_what_follows_is_found() {
    let folder = tempfile::tempdir().unwrap();
    loose_files(folder.path(), 2, false);
    let hole = fs::File::create(folder.path().join("0000.png")).unwrap();
    hole.set_len(1 << 20).unwrap();
    (&hole).write_all(b"begin").unwrap();
    for format in ["--format=gnu", "--format=pax"] {
        run("tar", &["--sparse", "--sort=name", "--exclude=*.tar", format, "-cf", "shard.tar", "."], folder.path());
        let shard = Shard::open(&folder.path().join("shard.tar")).unwrap();
        assert_eq!(captions(&shard), expected(2), "{format}");
        assert!(shard.samples()[0].file(&["png"]).is_none(), "{format}");
    }
}

#[test]
fn webdataset_of_python_writes_what_is_read() {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/site");
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
import sys
sys.path.insert(0, sys.argv[1])
import webdataset
for name in ["plain.tar", "packed.tar.gz"]:
    with webdataset.TarWriter(name) as sink:
        for number in range(5):
            sink.write({"__key__": f"some.folder/{number:05}", "jpg": b"image", "txt": f"star {number}", "json": {"n": number}})
"#;
    run("python3", &["-c", script, site.to_str().unwrap()], folder.path());
    for name in ["plain.tar", "packed.tar.gz"] {
        let shard = Shard::open(&folder.path().join(name)).unwrap();
        assert_eq!(captions(&shard), expected(5), "{name}");
        assert_eq!(shard.samples()[1].key, "some.folder/00001");
    }
}

fn indexed(corpus: &Corpus, pattern: &str) -> DataManifest {
    let pattern = corpus.folder.path().join(pattern).to_str().unwrap().to_owned();
    index(&[pattern], &corpus.origin(), &IndexOptions::default(), |_| {}).unwrap().manifest
}

/// Packs the two shards of a corpus, one with gzip and one with zstd, and indexes them.
pub(crate) fn packed(corpus: &Corpus) -> DataManifest {
    run("gzip", &["-k", corpus.shard(0).to_str().unwrap()], corpus.folder.path());
    let zst = fs::File::create(corpus.folder.path().join("train-000001.tar.zst")).unwrap();
    zstd::stream::copy_encode(fs::File::open(corpus.shard(1)).unwrap(), zst, 1).unwrap();
    let packed = indexed(corpus, "train-*.tar.*");
    let formats: Vec<Format> = packed.shards().iter().map(|shard| shard.format).collect();
    assert_eq!(formats, [Format::TarGz, Format::TarZst]);
    assert!(packed.shards().iter().zip(corpus.manifest.shards()).all(|(a, b)| a.unpacked_bytes == b.bytes));
    packed
}

#[test]
fn packed_shards_and_loose_files_are_trained_on_like_plain_ones() {
    let corpus = Corpus::of(&[6, 7]);
    let mut plain = take(corpus.config(), corpus.steps_per_epoch());
    let folder = corpus.folder.path();
    let packed = packed(&corpus);
    let unpacked = folder.join("loose");
    for (number, name) in ["one", "two"].iter().enumerate() {
        fs::create_dir_all(unpacked.join(name)).unwrap();
        run("tar", &["-xf", corpus.shard(number).to_str().unwrap()], &unpacked.join(name));
    }
    let loose = indexed(&corpus, "loose");
    assert_eq!(loose.shards().iter().map(|shard| shard.path.as_str()).collect::<Vec<_>>(), ["loose/one", "loose/two"]);
    for manifest in [packed, loose] {
        let mut other = corpus.config();
        other.sources = Arc::new(Sources::alone(manifest, corpus.origin()));
        let batches = take(other, corpus.steps_per_epoch());
        plain.iter_mut().for_each(|batch| batch.timing = Default::default());
        assert_eq!(batches, plain);
    }
    // A file that was written after the index is told by the shard's digest.
    fs::write(unpacked.join("one/new.txt"), b"new").unwrap();
    let mut changed = corpus.config();
    changed.sources = Arc::new(Sources::alone(cappa_data::read_manifest(&corpus.origin()).unwrap(), corpus.origin()));
    let bad = take(changed, corpus.steps_per_epoch());
    assert_eq!(bad.iter().map(|batch| batch.quarantined.len()).sum::<usize>(), 6);
}

/// Two pictures of 32 × 24 pixels, written by img2dataset 1.47 and by bsdtar 3.6 (libarchive, which is also the tar of macOS): under a
/// path of more than 100 characters that are not all ASCII, in the order of the folder, with a link.
#[test]
fn shards_of_img2dataset_and_of_bsdtar_are_indexed_and_trained_on() {
    for (name, content, links) in [
        ("img2dataset.tar", &include_bytes!("../data/img2dataset.tar")[..], 0),
        ("bsdtar-pax.tar", &include_bytes!("../data/bsdtar-pax.tar")[..], 1),
        ("bsdtar-gnu.tar.zst", &include_bytes!("../data/bsdtar-gnu.tar.zst")[..], 1),
    ] {
        let corpus = Corpus::of(&[1]);
        let path = corpus.folder.path().join(name);
        fs::write(&path, content).unwrap();
        let pattern = path.to_str().unwrap().to_owned();
        let report = index(&[pattern], &corpus.origin(), &IndexOptions::default(), |_| {}).unwrap();
        let found = &report.shards[0];
        assert_eq!((found.samples, found.links, &found.damage), (2, links, &None), "{name}");
        assert_eq!((found.without_image, found.without_caption), (0, 0), "{name}");
        let mut captions = captions(&Shard::open(&path).unwrap());
        captions.sort();
        let captions: Vec<&str> = captions.iter().map(|caption| caption.trim_end()).collect();
        assert_eq!(captions, ["a white box number 0", "a white box number 1"], "{name}");
        let corpus = Corpus { manifest: report.manifest, ..corpus };
        let batches = corpus.first_epoch();
        assert!(batches.iter().all(|batch| batch.quarantined.is_empty()), "{name}");
        assert!(batches.iter().map(cappa_data::Batch::examples).sum::<usize>() >= 2, "{name}");
    }
}
