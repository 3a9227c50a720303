//! Checkpoints as a worker sees them: its own part of each, written beside training, and the whole of
//! one, read back. The coordinator commits (DESIGN §4, Checkpoint).

mod parts;
mod restore;
mod writer;

use std::time::Duration;

use cappa_model::ModelError;
use cappa_shared::checkpoint::{CheckpointError as StoreError, ManifestProblems};
use cappa_shared::storage::StorageError;
use thiserror::Error;

pub(crate) use parts::{deserialise, serialise};
pub(crate) use restore::{Restore, Weights, from_store, read_weights};
pub(crate) use writer::Writer;

/// Why a checkpoint can't be written or read.
#[derive(Debug, Error)]
pub(crate) enum CheckpointError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The store, for reasons that say nothing about the checkpoint.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// The manifest is none.
    #[error("the manifest is damaged")]
    Manifest(#[from] ManifestProblems),
    /// A part is not what the manifest says.
    #[error(transparent)]
    Part(StoreError),
    /// A part is no safetensors file.
    #[error("not a safetensors file")]
    Format(#[source] safetensors::SafeTensorError),
    /// A tensor has a type that checkpoints don't hold.
    #[error("tensor {name} has type {kind}, which checkpoints do not hold")]
    Kind {
        /// The tensor.
        name: String,
        /// Its type.
        kind: String,
    },
    /// libtorch refused a tensor.
    #[error("tensor {name} can't be copied")]
    Tensor {
        /// The tensor.
        name: String,
        /// Why.
        #[source]
        source: tch::TchError,
    },
    /// The tensors are not those of the job's model.
    #[error("the checkpoint belongs to another model")]
    Model(#[from] ModelError),
    /// Its words are not the job's.
    #[error("{0}")]
    Vocabulary(String),
    /// It is of a branch that the job has given up.
    #[error("the checkpoint is of a branch that the job went back beyond")]
    GivenUp,
    /// Every manifest was tried.
    #[error("none of the {tried} committed checkpoints can be read by every member; see the workers' logs for each")]
    NoneUsable {
        /// How many there were.
        tried: usize,
    },
}

/// What a group has done is not in the store, and the group ends with it.
#[derive(Debug, Error)]
#[error("the last checkpoint can't be written; what was done since the one before it is done again")]
pub(crate) struct Unsaved(#[source] pub(crate) CheckpointError);

/// Nothing came of a checkpoint that may well be whole: its store did not answer for as long as was waited, or refuses.
#[derive(Debug, Error)]
#[error("`{url}` can't be read (waited {} s for its store)", waited.as_secs())]
pub(crate) struct Unread {
    /// What was to be read.
    pub url: String,
    /// How long it was tried.
    pub waited: Duration,
    /// What the store said last.
    pub source: StorageError,
}

impl From<StoreError> for CheckpointError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Storage(error) => Self::Storage(error),
            damage => Self::Part(damage),
        }
    }
}

impl CheckpointError {
    fn tensor(name: &str, source: tch::TchError) -> Self {
        Self::Tensor { name: name.to_owned(), source }
    }
}
