//! Files with weights, and what lies beside them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cappa_model::import::SETTINGS;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tch::Tensor;

use crate::checkpoint::deserialise;

/// Names of weights in the folders that timm, transformers and open_clip write.
const WEIGHTS: [&str; 3] = ["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"];

/// Weights as their program saved them.
pub(super) struct Source {
    pub(super) tensors: Vec<(String, Tensor)>,
    /// JSON files beside them.
    pub(super) documents: BTreeMap<&'static str, Value>,
    /// SHA-256 of the file of the weights.
    pub(super) digest: String,
}

impl Source {
    /// Reads a file, or the weights of a folder.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let (file, documents) =
            if path.is_dir() { (weights(path)?, documents(path)?) } else { (path.to_owned(), BTreeMap::new()) };
        let shown = file.display();
        let content = fs::read(&file).with_context(|| format!("{shown} can't be read"))?;
        let tensors = match extension(&file) {
            Some("npz") => Tensor::read_npz(&file).with_context(|| format!("{shown} is no .npz of numbers"))?,
            Some("safetensors") => deserialise(&content).with_context(|| format!("{shown} can't be read"))?,
            _ => bail!(
                "{shown} is neither .npz nor .safetensors; other formats may run code when they are read: in Python, \
                 safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"model.safetensors\")"
            ),
        };
        Ok(Self { tensors, documents, digest: hex::encode(Sha256::digest(&content)) })
    }
}

fn extension(file: &Path) -> Option<&str> {
    file.extension()?.to_str()
}

/// The file of a folder that holds the weights.
fn weights(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    if let Some(known) = WEIGHTS.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return Ok(known);
    }
    let entries = fs::read_dir(folder).with_context(|| format!("{shown} can't be read"))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let mut found = files.into_iter().filter(|file| matches!(extension(file), Some("npz" | "safetensors")));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => bail!("{shown} has no .npz or .safetensors"),
        (Some(_), Some(_)) => bail!("{shown} has several files of weights; name one"),
    }
}

fn documents(folder: &Path) -> Result<BTreeMap<&'static str, Value>> {
    let mut documents = BTreeMap::new();
    for name in SETTINGS {
        let file = folder.join(name);
        if file.is_file() {
            let content = fs::read(&file).with_context(|| format!("{} can't be read", file.display()))?;
            let document =
                serde_json::from_slice(&content).with_context(|| format!("{} is no JSON", file.display()))?;
            documents.insert(name, document);
        }
    }
    Ok(documents)
}
