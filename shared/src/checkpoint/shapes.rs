//! What a checkpoint's parts hold, told by their headers alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::manifest::{CheckpointManifest, Part};
use super::store::CheckpointError;
use crate::storage::Location;

/// No header is larger; the longest that this program writes has some megabytes.
const LARGEST_HEADER: u64 = 32 << 20;

#[derive(Deserialize)]
struct Tensor {
    shape: Vec<u64>,
}

/// The shapes of all tensors of a checkpoint, by name, as the headers of its safetensors parts say.
///
/// # Errors
/// The store failed, or a part is no safetensors file.
pub async fn shapes(
    folder: &Location,
    manifest: &CheckpointManifest,
) -> Result<BTreeMap<String, Vec<u64>>, CheckpointError> {
    let mut shapes = BTreeMap::new();
    for part in &manifest.contents().parts {
        let path = manifest.part_path(part);
        let damaged = |reason: String| CheckpointError::Part { url: format!("{folder}/{path}"), reason };
        let length = folder.get_range(&path, 0..8.min(part.bytes)).await?;
        let length = length.as_ref().try_into().map(u64::from_le_bytes).ok();
        let length = length.filter(|&length| fits(length, part)).ok_or_else(|| damaged("it has no header".into()))?;
        let header = folder.get_range(&path, 8..8 + length).await?;
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|error| damaged(format!("its header is not valid: {error}")))?;
        for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let tensor = serde_json::from_value(entry);
            let Tensor { shape } = tensor.map_err(|error| damaged(format!("its header is not valid: {error}")))?;
            shapes.insert(name, shape);
        }
    }
    Ok(shapes)
}

fn fits(header: u64, part: &Part) -> bool {
    header <= LARGEST_HEADER && header.saturating_add(8) <= part.bytes
}
