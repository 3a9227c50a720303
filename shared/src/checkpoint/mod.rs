//! Checkpoints of a job in its folder: where their parts lie, and the manifest whose existence is the commit.
//!
//! ```text
//! <folder>/checkpoints/000000000100/3/part-00000-of-00002.safetensors   what rank 0 of generation 3 wrote
//!                                  /3/part-00001-of-00002.safetensors
//!                                  /MANIFEST.json                        committed; names generation 3 and its parts
//! ```
//!
//! Every manifest names the one before by digest, and says which groups computed the steps since ([`Account`]). When
//! retention takes a checkpoint, its manifest stays as `RETIRED.json` beside where it was, so that the chain back to the
//! first is always whole and [`audit`] can follow it. When a job goes back to a checkpoint, the manifests after it leave
//! the chain: they stay as `ABANDONED-<generation>.json`, named after the newest group whose work was given up. A manifest of
//! such a group beside it is void: a coordinator whose time was over wrote it late.

mod account;
mod audit;
mod headers;
mod manifest;
mod store;

use crate::ids::{Generation, Rank, Step};

pub use account::{
    Account, FormedGroup, GroupSteps, OrderRecord, Previous, Rewind, SourceRecord, kept_rewinds, lineage,
};
pub use audit::{Audit, EpochUse, audit, chain};
pub use headers::{Headers, VOCABULARY, headers, vocabulary_difference};
pub use manifest::{CheckpointManifest, Contents, ManifestProblems, Part, Quarantined, data_digest};
pub use store::{
    CheckpointError, abandon, commit, committed, examine, history, load, load_any, newest, read_part, retire,
};

/// The folder with all checkpoints, in the job's folder.
pub const CHECKPOINTS: &str = "checkpoints";
const MANIFEST: &str = "MANIFEST.json";
const RETIRED: &str = "RETIRED.json";
const ABANDONED: &str = "ABANDONED-";

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

/// What is left of the manifest of a checkpoint that retention took, in the job's folder.
pub fn retired_path(step: Step) -> String {
    format!("{}/{RETIRED}", step_folder(step))
}

/// What is left of the manifest of a checkpoint on a branch that was given up, in the job's folder.
pub fn abandoned_path(step: Step, through: Generation) -> String {
    format!("{}/{ABANDONED}{through}.json", step_folder(step))
}

/// The step whose manifest lies at `path` (relative to [`CHECKPOINTS`]), retired or not, if it is one.
fn step_of_any(path: &str) -> Option<Step> {
    step_of_manifest(path).or_else(|| step_in(path, RETIRED))
}

/// The step whose manifest lies at `path` (relative to [`CHECKPOINTS`]), if it is one.
fn step_of_manifest(path: &str) -> Option<Step> {
    step_in(path, MANIFEST)
}

/// The step at `path` (relative to [`CHECKPOINTS`]) of which the work of groups up to this one was given up, if it says so.
fn abandoned_at(path: &str) -> Option<(Step, Generation)> {
    let (_, name) = path.rsplit_once('/')?;
    Some((step_in(path, name)?, abandoned_through(name)?))
}

/// The same of the name of what lies in a step's folder.
fn abandoned_through(name: &str) -> Option<Generation> {
    name.strip_prefix(ABANDONED)?.strip_suffix(".json")?.parse().ok().map(Generation)
}

fn step_in(path: &str, name: &str) -> Option<Step> {
    let step = path.strip_suffix(name)?.strip_suffix('/')?;
    let is_step = step.len() == 12 && step.bytes().all(|b| b.is_ascii_digit());
    if is_step { step.parse().ok().map(Step) } else { None }
}

#[cfg(test)]
mod tests;
