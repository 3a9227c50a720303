//! From a text to a [`JobSpec`] and back.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::document::{self, Node};
use super::emit;
use super::error::{Mistake, SpecError, SpecErrors};
use super::overrides::override_tree;
use super::raw::RawSpec;
use super::{JobSpec, Length, shape, validate};

/// What relative paths of a spec mean.
#[derive(Debug, Clone, Default)]
pub struct SpecBase {
    pub(super) folder: Option<PathBuf>,
}

impl SpecBase {
    /// Relative paths are below `folder`, which must be absolute: the folder of the document, for a file.
    pub fn folder(folder: impl AsRef<Path>) -> Self {
        Self { folder: Some(folder.as_ref().to_owned()) }
    }

    /// Relative paths are refused: the document came over the network.
    pub fn none() -> Self {
        Self { folder: None }
    }
}

/// Updates of warm-up where neither the spec nor a short job says otherwise (paper, appendix A).
const WARMUP_STEPS: u64 = 10_000;

static SCHEMA: LazyLock<Json> = LazyLock::new(|| schemars::schema_for!(RawSpec).to_value());

impl JobSpec {
    /// Reads a YAML or JSON document, checks all of it and fills in the defaults.
    ///
    /// # Errors
    /// Every mistake with its path and place: those of shape, and those of meaning in all parts whose shape is right.
    pub fn parse(text: &str, base: &SpecBase) -> Result<Self, SpecErrors> {
        Self::parse_with(text, &[], base)
    }

    /// As [`JobSpec::parse`], with values put over the document's: pairs of a path, such as `data.seed`, and a YAML value.
    ///
    /// # Errors
    /// As [`JobSpec::parse`]; mistakes in overrides have no position.
    pub fn parse_with(text: &str, overrides: &[(String, String)], base: &SpecBase) -> Result<Self, SpecErrors> {
        let mut errors = Vec::new();
        let mut tree = document::read(text, &mut errors).map_err(SpecErrors::from)?;
        for (path, value) in overrides {
            if let Err(error) = override_tree(&mut tree, path, value) {
                errors.push(error);
            }
        }
        let spec = from_tree(&tree, base, &mut errors);
        SpecErrors::none_of(errors)?;
        spec.map_err(SpecErrors::from)
    }

    /// The document that says everything about the job as it runs, defaults included, as YAML. Parses back to the same spec.
    pub fn to_document(&self) -> String {
        emit::yaml(&self.to_value())
    }

    /// [`JobSpec::to_document`] as compact JSON, with the keys always in the same order.
    pub fn to_json(&self) -> String {
        emit::json(&self.to_value())
    }

    /// [`JobSpec::to_document`] as a JSON value.
    pub fn to_value(&self) -> Json {
        let mut document = Map::new();
        document.insert("apiVersion".into(), json!("cappa.dev/v1"));
        document.insert("kind".into(), json!("pretrain"));
        let Ok(Json::Object(fields)) = serde_json::to_value(self) else {
            unreachable!("a struct of finite numbers, texts and lists serialises as an object");
        };
        document.extend(fields);
        Json::Object(document)
    }

    /// SHA-256 of [`JobSpec::to_json`], in lower-case hexadecimal: equal for specs that run the same.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_json()))
    }

    /// The JSON Schema of the document, for editors.
    pub fn json_schema() -> &'static Json {
        &SCHEMA
    }

    /// Optimizer updates of the whole job, for a training set of so many samples.
    ///
    /// Epochs end with null slots (see [`crate::order`]), so an epoch may have more updates than samples divided by the batch
    /// size. Null slots count as examples seen.
    pub fn total_steps(&self, samples_per_epoch: u64) -> u64 {
        match self.duration {
            Length::Epochs(epochs) => {
                let lanes = u64::from(self.data.lanes.max(1));
                let slots_per_step = (u64::from(self.batch_size) / lanes).max(1);
                epochs.saturating_mul(samples_per_epoch.div_ceil(lanes).div_ceil(slots_per_step))
            }
            length => length.steps(self.batch_size).unwrap_or_default(),
        }
    }

    /// Updates of warm-up, given [`JobSpec::total_steps`]: as the spec says, or 10,000, or a tenth of a shorter job.
    pub fn warmup_steps(&self, total_steps: u64) -> u64 {
        self.schedule.warmup_steps.unwrap_or_else(|| default_warmup(total_steps))
    }
}

impl Length {
    /// Optimizer updates, where they don't depend on the data.
    pub(super) fn steps(self, batch_size: u32) -> Option<u64> {
        match self {
            Length::Steps(steps) => Some(steps),
            Length::Examples(examples) => Some(examples.div_ceil(u64::from(batch_size.max(1)))),
            Length::Epochs(_) => None,
        }
    }
}

pub(super) fn default_warmup(total_steps: u64) -> u64 {
    WARMUP_STEPS.min(total_steps / 10)
}

fn from_tree(tree: &Node, base: &SpecBase, errors: &mut Vec<SpecError>) -> Result<JobSpec, SpecError> {
    let shaped = shape::check(tree, &SCHEMA, errors);
    let raw: RawSpec = serde_json::from_value(shaped.json).map_err(|error| SpecError {
        path: String::new(),
        position: tree.at,
        code: Mistake::Syntax,
        message: error.to_string(),
    })?;
    Ok(validate::validate(raw, tree, &shaped.unreadable, base, errors))
}
