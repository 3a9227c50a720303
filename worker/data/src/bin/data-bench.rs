//! What one core does of the data plane's work. Prints JSON lines. `bench/data.sh` runs it beside its peers.
//!
//! `data-bench make FOLDER` writes shards of camera-like JPEGs with captions, and a tokenizer.
//! `data-bench prepare SHARD TOKENIZER exact|fast [SECONDS]` decodes, resizes and tokenises them over and over.
//! `data-bench scan TAR [SECONDS]` finds the samples of a tar file again and again, so from the page cache.

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use cappa_data::image::{Decode, Limits, Preparation};
use cappa_data::shards::scan_tar;
use cappa_data::synth::photograph;
use cappa_data::text::{DEFAULT_VOCABULARY, Tokenizer, train};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

const USAGE: &str = "usage: data-bench make FOLDER | prepare SHARD TOKENIZER exact|fast [SECONDS] | scan TAR [SECONDS]";

/// Name, width, height and number of the images of a shard, so many that no single one's quirks are measured.
const SHARDS: [(&str, u16, u16, u64); 2] = [("500x400", 500, 400, 32), ("2000x1500", 2000, 1500, 8)];

/// Sides of the result, and tokens of a caption: the paper's.
const IMAGE_SIZE: usize = 224;
const TEXT_LENGTH: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", folder] => make(Path::new(folder)),
        ["prepare", shard, tokenizer, mode] => prepare(shard, tokenizer, mode, 2.0),
        ["prepare", shard, tokenizer, mode, seconds] => prepare(shard, tokenizer, mode, seconds.parse()?),
        ["scan", tar] => scan(tar, 2.0),
        ["scan", tar, seconds] => scan(tar, seconds.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn make(folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let mut captions = Vec::new();
    for (name, width, height, images) in SHARDS {
        let mut shard = tar::Builder::new(File::create(folder.join(format!("{name}.tar")))?);
        let mut bytes = 0;
        for seed in 0..images {
            let image = photograph(width.into(), height.into(), seed);
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, 85);
            encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
            encoder.encode(&image.pixels, width, height, ColorType::Rgb)?;
            bytes += file.len();
            let caption =
                format!("photograph {seed} of hills and clouds under a wide sky, with a small red roof in the middle");
            append(&mut shard, &format!("{seed:06}.jpg"), &file)?;
            append(&mut shard, &format!("{seed:06}.txt"), caption.as_bytes())?;
            captions.push(caption);
        }
        shard.finish()?;
        let mean = bytes as u64 / images;
        writeln!(std::io::stdout(), r#"{{"name":"{name}","images":{images},"jpeg_bytes":{mean}}}"#)?;
    }
    std::fs::write(folder.join("tokenizer.json"), train(captions.iter(), DEFAULT_VOCABULARY)?)?;
    Ok(())
}

fn append(shard: &mut tar::Builder<File>, name: &str, content: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    shard.append_data(&mut header, name, content)
}

fn prepare(shard: &str, tokenizer: &str, mode: &str, seconds: f64) -> Result<(), Box<dyn Error>> {
    let mode = match mode {
        "exact" => Decode::Exact,
        "fast" => Decode::Fast,
        _ => return Err(USAGE.into()),
    };
    let tokenizer = Tokenizer::from_file(Path::new(tokenizer))?;
    let preparation = Preparation { mode, size: IMAGE_SIZE, limits: Limits::default() };
    let (begin, cpu) = (Instant::now(), cpu_time()?);
    let mut images = 0u64;
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        images += read_once(shard, &tokenizer, &preparation)?;
    }
    let rate = images as f64 / begin.elapsed().as_secs_f64();
    let cpu_rate = images as f64 / (cpu_time()? - cpu).as_secs_f64();
    writeln!(
        std::io::stdout(),
        r#"{{"images_per_second":{rate:.1},"images_per_cpu_second":{cpu_rate:.1},"images":{images}}}"#
    )?;
    Ok(())
}

/// Reads all samples of a shard.
fn read_once(shard: &str, tokenizer: &Tokenizer, preparation: &Preparation) -> Result<u64, Box<dyn Error>> {
    let mut archive = tar::Archive::new(std::io::BufReader::new(File::open(shard)?));
    let mut images = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut content = Vec::with_capacity(usize::try_from(entry.size())?);
        entry.read_to_end(&mut content)?;
        if entry.path()?.extension().is_some_and(|extension| extension == "jpg") {
            std::hint::black_box(preparation.prepare(&content, None)?);
            images += 1;
        } else {
            std::hint::black_box(tokenizer.encode(std::str::from_utf8(&content)?, TEXT_LENGTH)?);
        }
    }
    Ok(images)
}

fn scan(tar: &str, seconds: f64) -> Result<(), Box<dyn Error>> {
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

/// What this thread had of a processor: what remains comparable on a busy machine.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = statistics.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
