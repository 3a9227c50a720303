//! Checkpoints of a job in its folder: where their parts lie, and the manifest whose existence is the commit.
//!
//! ```text
//! <folder>/checkpoints/000000000100/3/part-00000-of-00002.safetensors   what rank 0 of generation 3 wrote
//!                                  /3/part-00001-of-00002.safetensors
//!                                  /MANIFEST.json                        committed; names generation 3 and its parts
//! ```

mod account;
mod audit;
mod manifest;
mod store;

use crate::ids::{Generation, Rank, Step};

pub use account::{Account, FormedGroup, GroupSteps, OrderRecord, Previous, SourceRecord, lineage};
pub use audit::{Audit, EpochUse, audit, chain};
pub use manifest::{CheckpointManifest, Contents, ManifestProblems, Part, Quarantined, data_digest};
pub use store::{CheckpointError, commit, committed, load, newest, read_part, verify};

/// The folder with all checkpoints, in the job's folder.
pub const CHECKPOINTS: &str = "checkpoints";
const MANIFEST: &str = "MANIFEST.json";

/// The folder of a step's checkpoint, in the job's folder. Zero-padded, so that names sort as steps do.
pub fn step_folder(step: Step) -> String {
    format!("{CHECKPOINTS}/{:012}", step.0)
}

/// Where the parts that a generation wrote lie, in the job's folder.
pub fn attempt_folder(step: Step, generation: Generation) -> String {
    format!("{}/{generation}", step_folder(step))
}

/// The name of what `rank` writes, in the attempt's folder.
pub fn part_name(rank: Rank, world_size: u32) -> String {
    format!("part-{:05}-of-{world_size:05}.safetensors", rank.0)
}

/// The manifest of a step's checkpoint, in the job's folder.
pub fn manifest_path(step: Step) -> String {
    format!("{}/{MANIFEST}", step_folder(step))
}

/// The step whose manifest lies at `path` (relative to [`CHECKPOINTS`]), if it is one.
fn step_of_manifest(path: &str) -> Option<Step> {
    let step = path.strip_suffix(MANIFEST)?.strip_suffix('/')?;
    let is_step = step.len() == 12 && step.bytes().all(|b| b.is_ascii_digit());
    if is_step { step.parse().ok().map(Step) } else { None }
}

#[cfg(test)]
mod tests;
