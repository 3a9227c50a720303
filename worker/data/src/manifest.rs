//! Manifests in stores.

use cappa_shared::manifest::{DataManifest, ManifestError};
use cappa_shared::storage::{Location, StorageError};

use crate::blocking::block_on;

/// Why a manifest can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFileError {
    /// The store failed.
    #[error("the data manifest {location} is out of reach")]
    Storage {
        /// Where it is.
        location: String,
        /// What the store said.
        #[source]
        source: StorageError,
    },
    /// The document is no manifest.
    #[error("{location} is not usable")]
    Manifest {
        /// Where it is.
        location: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The call could not be made.
    #[error("the storage call could not be made")]
    Runtime(#[from] std::io::Error),
}

/// Reads and validates the manifest at `location`. Blocks.
///
/// # Errors
/// When it is out of reach or no manifest.
pub fn read_manifest(location: &Location) -> Result<DataManifest, ManifestFileError> {
    let document = block_on(location.get(""))?
        .map_err(|source| ManifestFileError::Storage { location: location.to_string(), source })?;
    DataManifest::from_json(&document)
        .map_err(|source| ManifestFileError::Manifest { location: location.to_string(), source })
}

/// Writes a manifest, whole or not at all. Blocks.
///
/// # Errors
/// When the store refuses it.
pub fn write_manifest(location: &Location, manifest: &DataManifest) -> Result<(), ManifestFileError> {
    block_on(location.put_large("", manifest.to_json()))?
        .map_err(|source| ManifestFileError::Storage { location: location.to_string(), source })
}

/// Writes a manifest unless one is there already, under a name that says what is in it. Blocks.
///
/// # Errors
/// When the store refuses it.
pub fn create_manifest(location: &Location, manifest: &DataManifest) -> Result<(), ManifestFileError> {
    match block_on(location.put_if_absent("", manifest.to_json()))? {
        Ok(()) | Err(StorageError::AlreadyExists { .. }) => Ok(()),
        Err(source) => Err(ManifestFileError::Storage { location: location.to_string(), source }),
    }
}
