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

/// Under this name the metadata of every part has the digest of the vocabulary that the network was trained with; older versions
/// wrote none.
pub const VOCABULARY: &str = "vocabulary_sha256";

/// What the headers of a checkpoint's safetensors parts say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The shapes of all tensors, by name.
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// The digest of the vocabulary, where it is known.
    pub vocabulary: Option<String>,
}

/// What is wrong where the parts of a network that know words were trained with one vocabulary, and go on with another. Of an older
/// checkpoint nothing is known but the size, which is compared as a shape.
pub fn vocabulary_difference(of_checkpoint: Option<&str>, of_job: &str) -> Option<String> {
    let of_checkpoint = of_checkpoint.filter(|digest| *digest != of_job)?;
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    Some(format!(
        "its words are of another vocabulary (sha256 {}…) than data.tokenizer's ({}…); name the tokenizer that it was trained with, or \
         start from its encoder alone (init.parts: [encoder])",
        short(of_checkpoint),
        short(of_job)
    ))
}

/// What the headers of a checkpoint's parts say.
///
/// # Errors
/// The store failed, or a part is no safetensors file.
pub async fn headers(folder: &Location, manifest: &CheckpointManifest) -> Result<Headers, CheckpointError> {
    let mut found = Headers::default();
    for part in &manifest.contents().parts {
        let path = manifest.part_path(part);
        let damaged = |reason: String| CheckpointError::Part { url: format!("{folder}/{path}"), reason };
        let length = folder.get_range(&path, 0..8.min(part.bytes)).await?;
        let length = length.as_ref().try_into().map(u64::from_le_bytes).ok();
        let length = length.filter(|&length| fits(length, part)).ok_or_else(|| damaged("it has no header".into()))?;
        let header = folder.get_range(&path, 8..8 + length).await?;
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|error| damaged(format!("its header is not valid: {error}")))?;
        for (name, entry) in header {
            if name == "__metadata__" {
                let vocabulary = entry.get(VOCABULARY).and_then(serde_json::Value::as_str);
                found.vocabulary = vocabulary.map(str::to_owned).or(found.vocabulary);
                continue;
            }
            let tensor = serde_json::from_value(entry);
            let Tensor { shape } = tensor.map_err(|error| damaged(format!("its header is not valid: {error}")))?;
            found.shapes.insert(name, shape);
        }
    }
    Ok(found)
}

fn fits(header: u64, part: &Part) -> bool {
    header <= LARGEST_HEADER && header.saturating_add(8) <= part.bytes
}
