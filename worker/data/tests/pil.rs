//! Decoding against PIL, on images of every kind that PIL writes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::Path;
use std::process::Command;

use cappa_data::image::decode;

/// Images with what PIL makes of them, in a folder.
fn images() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("python3")
        .arg(root.join("tests/pil.py"))
        .arg(folder.path())
        .env("PYTHONPATH", root.join("../../.venv/site"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(done.status.success(), "run `make python` first: {}", String::from_utf8_lossy(&done.stderr));
    folder
}

/// The largest and the mean difference that a kind may have. Lossless formats have none; JPEG decoders may round the inverse DCT
/// and interpolate subsampled chroma differently (libjpeg's is triangular), and WebP's authors leave the rounding of YUV free.
fn tolerance(name: &str) -> (u8, f64) {
    match name {
        _ if name.ends_with(".png") || name.starts_with("lossless") || name.starts_with("animated") => (0, 0.0),
        _ if name.starts_with("orientation") && name.ends_with(".webp") => (0, 0.0),
        _ if name.ends_with(".webp") => (6, 0.6),
        // Chroma is subsampled.
        _ if name.contains("-1-") || name.contains("-2-") || name.starts_with("restart") => (24, 1.0),
        _ => (4, 0.6),
    }
}

#[test]
fn every_kind_of_image_decodes_to_what_pil_gives() {
    let folder = images();
    let mut failures = Vec::new();
    let mut kinds = 0;
    for expected in std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let Some((name, size)) = expected_of(&expected) else { continue };
        kinds += 1;
        let image = match decode(&std::fs::read(folder.path().join(&name)).unwrap()) {
            Ok(image) => image,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let pixels = std::fs::read(&expected).unwrap();
        if size != format!("{}x{}", image.width, image.height) {
            failures.push(format!("{name}: {}x{}, not {size}", image.width, image.height));
            continue;
        }
        let differences: Vec<u8> = image.pixels.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = *differences.iter().max().unwrap();
        let mean = differences.iter().map(|&difference| f64::from(difference)).sum::<f64>() / pixels.len() as f64;
        let (largest, average) = tolerance(&name);
        if worst > largest || mean > average {
            failures.push(format!("{name}: differs by up to {worst}, {mean:.2} in the mean"));
        }
    }
    failures.sort();
    assert!(failures.is_empty(), "{} of {kinds}:\n{}", failures.len(), failures.join("\n"));
    assert!(kinds > 100, "only {kinds} images");
}

/// The image's name and size of a file with expected pixels.
fn expected_of(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".rgb")?;
    let (name, size) = name.rsplit_once('.')?;
    Some((name.to_owned(), size.to_owned()))
}
