//! Checks against reference data computed with the authors' code: see `tests/golden/README.md`.
//!
//! What a file checks is told by its json's `kind`, never by its name, and shapes and settings are
//! the json's. Every tensor of a file must be explained by a comparison or be an input of one, so
//! no number in it can change unnoticed.

mod compare;
mod contrastive;
mod fewshot;
mod network;
mod optimizer;
mod reference;
mod resize;
mod tables;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use compare::Comparison;
pub use compare::Worst;
pub use reference::GoldenError;
use reference::Reference;
use tch::Device;

/// Resizes 8-bit RGB pixels `[height, width, 3]` from one height and width to another: the data pipeline's work,
/// which this crate knows nothing of, but whose reference data lies beside the networks'.
pub type Resize = fn(pixels: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8>;

/// What became of one file.
#[derive(Debug)]
pub enum Outcome {
    /// Every number is within its tolerance; the worst of them.
    Passed(Worst),
    /// A number is out of tolerance, or the file is no reference data.
    Failed(String),
    /// The file is of a kind that is not checked here.
    Unknown(String),
}

/// The check of one file.
#[derive(Debug)]
pub struct Report {
    /// The case as its json calls it, or the file's name.
    pub case: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Passed(worst) => write!(f, "pass     {:<20} {worst}", self.case),
            Outcome::Failed(reason) => write!(f, "FAIL     {:<20} {reason}", self.case),
            Outcome::Unknown(what) => write!(f, "unknown  {:<20} {what}", self.case),
        }
    }
}

/// Checks every json of a folder with the tensors beside it, in the order of their names, by what
/// this build computes on a device, and by how images are resized.
///
/// # Errors
/// The folder can't be read or holds no json. A bad file is a failed report instead.
pub fn check_folder(folder: &Path, device: Device, resize: Resize) -> Result<Vec<Report>, GoldenError> {
    let unreadable = |source| GoldenError::Folder { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let has_json = || path.with_extension("json").exists();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => files.push(path),
            Some("safetensors") if !has_json() => files.push(path),
            _ => {}
        }
    }
    if files.is_empty() {
        return Err(GoldenError::Empty(folder.to_owned()));
    }
    files.sort();
    Ok(files.iter().map(|path| check_file(path, device, resize)).collect())
}

fn check_file(path: &Path, device: Device, resize: Resize) -> Report {
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return Report {
            case: name,
            outcome: Outcome::Unknown("tensors without a json that describes them".to_owned()),
        };
    }
    // libtorch's errors arrive as panics of tch; a file that provokes one has failed.
    let outcome = catch_unwind(AssertUnwindSafe(|| check(path, device, resize))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("a tensor operation failed", String::as_str);
        Ok(Outcome::Failed(text.lines().next().unwrap_or_default().to_owned()))
    });
    Report { case: name, outcome: outcome.unwrap_or_else(|error| Outcome::Failed(explain(&error))) }
}

fn check(path: &Path, device: Device, resize: Resize) -> Result<Outcome, GoldenError> {
    let reference = Reference::read(path, device)?;
    let mut comparison = Comparison::new(&reference);
    match reference.kind().as_str() {
        "cap_eval" => network::evaluation(&reference, &mut comparison)?,
        "train" => network::training(&reference, &mut comparison)?,
        "greedy" => network::greedy(&reference, &mut comparison)?,
        "scoring" => network::scoring(&reference, &mut comparison)?,
        "optimizer_unit" => optimizer::unit(&reference, &mut comparison)?,
        "trajectory" => optimizer::trajectory(&reference, &mut comparison)?,
        "contrastive" => contrastive::contrastive(&reference, &mut comparison)?,
        "fewshot" => fewshot::fewshot(&reference, &mut comparison)?,
        "resize" => resize::resize(&reference, resize, &mut comparison)?,
        "schedules" => tables::schedules(&reference, &mut comparison)?,
        "init_stats" => tables::initialisation(&reference, &mut comparison)?,
        kind => return Ok(Outcome::Unknown(format!("kind {kind:?} is not checked"))),
    }
    Ok(comparison.finish())
}

/// An error with its causes, in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
