//! Shards to batches: from tar files of images and captions to what a training step takes.
//!
//! ```text
//! manifest ─ sample order ─> slots of a step ─> shards on lease ─> samples by offset ─> decode, resize, tokenise ─> batch
//! ```
//!
//! [`loader`] gives the batches of a rank's lanes in step order; [`records`] gives the samples of an evaluation; [`index`] makes
//! the manifest; [`corpus`] opens what a job names, and [`replay`] makes the batch of any step of it again. Decoding runs on plain
//! threads behind bounded channels. Nothing here knows of the network of workers, and nothing depends on a rank: a batch is a
//! function of the manifests, their weights, the seed and the step.

pub mod bad;
mod blocking;
pub mod bottleneck;
pub mod corpus;
pub mod image;
pub mod index;
mod labels;
pub mod loader;
mod manifest;
pub mod patience;
pub mod records;
pub mod replay;
pub mod sample;
pub mod shards;
mod sources;
pub mod stats;
pub mod synth;
pub mod text;

pub use labels::{Labels, Target, lookup};
pub use loader::{Batch, DataError, Loader, LoaderConfig};
pub use manifest::{ManifestFileError, create_manifest, read_manifest, write_manifest};
pub use sources::{Source, Sources};
