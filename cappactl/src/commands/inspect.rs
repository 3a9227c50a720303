//! `cappactl data inspect`.

use std::path::PathBuf;

use cappa_data::index::{Field, InspectOptions, Inspection, Percentiles, SheetFormat, Shown};
use cappa_data::sample::CaptionSource;
use clap::Args;

use crate::corpus;
use crate::exit::{Exit, Failure};
use crate::output::{self, Present};
use crate::units;

/// Characters of a caption in the table.
const CAPTION: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A manifest (.json), or shards as for 'data index'.
    #[arg(value_name = "MANIFEST|SHARDS", required = true)]
    inputs: Vec<String>,
    /// Shards that are read, evenly over the corpus; those of a store are downloaded.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    shards: u32,
    /// Samples to show, from the first on.
    #[arg(long, value_name = "N", default_value_t = 5)]
    samples: u32,
    /// Where captions are: auto, txt, or json:FIELD.
    #[arg(long, value_name = "SOURCE", default_value = "auto", value_parser = super::data::caption_source)]
    captions: CaptionSource,
    /// Write a page of pictures: .html with captions, or .png.
    #[arg(long, value_name = "FILE")]
    contact_sheet: Option<PathBuf>,
    /// Pictures on the contact sheet, evenly from the shards that are read.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pictures: u32,
}

pub(crate) async fn run(format: output::Format, arguments: Inspect) -> anyhow::Result<Exit> {
    let sheet = match &arguments.contact_sheet {
        Some(path) => Some((path.clone(), SheetFormat::of_name(path).ok_or_else(|| unknown_sheet(path))?)),
        None => None,
    };
    let count = |value: u32| value as usize;
    let options = InspectOptions {
        captions: arguments.captions,
        shards: count(arguments.shards),
        samples: count(arguments.samples),
        thumbnails: if sheet.is_some() { count(arguments.pictures) } else { 0 },
    };
    let inspection = corpus::inspect(&arguments.inputs, options).await?;
    output::print(format, &inspection)?;
    if let Some((path, format)) = sheet {
        corpus::write(&path, &inspection.sheet(format)?)?;
        eprintln!("{}: {} pictures", path.display(), inspection.thumbnails.len());
    }
    Ok(Exit::Ok)
}

fn unknown_sheet(path: &std::path::Path) -> Failure {
    Failure::new(Exit::Usage, format!("{} is neither .html nor .png", path.display()))
        .remedy("name the contact sheet so that its ending says how to write it")
}

impl Present for Inspection {
    fn table(&self) -> String {
        let counted = |count: u64, noun: &str| units::count(u32::try_from(count).unwrap_or(u32::MAX), noun);
        let shards = counted(self.shards as u64, "shard");
        let samples = self.samples.map_or_else(String::new, |samples| format!("{} in ", counted(samples, "sample")));
        let read = format!("{} in {}", counted(self.read_samples, "sample"), counted(self.read_shards as u64, "shard"));
        let mut parts = vec![
            format!("{}: {samples}{shards}, {}\nread: {read}", self.source, units::bytes(self.bytes)),
            distributions(self),
            contents(self),
        ];
        if !self.first.is_empty() {
            parts.push(output::columns(&["SAMPLE", ">SIZE", ">BYTES", "CAPTION"], self.first.iter().map(row)));
        }
        let (images, captions) = (&self.images, &self.captions);
        let mut bad: Vec<String> = [
            (images.missing, "without a picture"),
            (images.unreadable, "with a picture whose size cannot be read"),
            (captions.missing, "without a caption"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", counted(count, "sample")))
        .collect();
        bad.extend(self.problems.iter().cloned());
        if !bad.is_empty() {
            parts.push(bad.join("\n"));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }

    fn names(&self) -> Vec<String> {
        self.first.iter().map(|sample| sample.key.clone()).collect()
    }
}

/// How sizes and lengths are spread.
fn distributions(found: &Inspection) -> String {
    let rows = [
        ("width", found.images.width),
        ("height", found.images.height),
        ("file bytes", found.images.bytes),
        ("caption characters", found.captions.characters),
        ("captions a sample", found.captions.per_sample),
    ];
    let row = |(what, values): (&str, Option<Percentiles>)| {
        let Percentiles { min, p5, p50, p95, max } = values?;
        let numbers = [min, p5, p50, p95, max].map(|value| units::grouped(value.into()));
        Some([what.to_owned()].into_iter().chain(numbers).collect())
    };
    let rows: Vec<Vec<String>> = rows.into_iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    output::columns(&["", ">MIN", ">5 %", ">MEDIAN", ">95 %", ">MAX"], rows)
}

/// Files by extension and fields of the `.json`, with the share of samples that have them.
fn contents(found: &Inspection) -> String {
    let all = found.read_samples.max(1) as f64;
    let files = found.files.iter().map(|(extension, count)| {
        vec![printable(&format!(".{extension}")), "file".into(), units::percent(*count as f64 / all)]
    });
    let fields = found.fields.iter().map(|Field { name, share, types, .. }| {
        let types: Vec<&str> = types.keys().copied().collect();
        vec![printable(name), types.join(", "), units::percent(*share)]
    });
    let rows: Vec<_> = files.chain(fields).collect();
    if rows.is_empty() {
        return String::new();
    }
    output::columns(&["CONTENT", "TYPE", ">SAMPLES"], rows)
}

fn row(sample: &Shown) -> Vec<String> {
    let size = sample.size.map_or_else(|| "–".into(), |(width, height)| format!("{width} × {height}"));
    let caption = match sample.captions.as_slice() {
        [] => "–".into(),
        [only] => shortened(only),
        [first, rest @ ..] => format!("{} (+{})", shortened(first), rest.len()),
    };
    let bytes = sample.bytes.map_or_else(|| "–".into(), units::grouped);
    vec![printable(&sample.key), size, bytes, caption]
}

/// One line of at most [`CAPTION`] characters.
fn shortened(caption: &str) -> String {
    let line = printable(&caption.split_whitespace().collect::<Vec<_>>().join(" "));
    match line.char_indices().nth(CAPTION) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}
