//! Reference data: a json that describes, and the tensors beside it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::config::{ModelConfig, PositionEmbedding};
use crate::{ModelError, ParamTable};

/// Why reference data can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The folder can't be read.
    #[error("cannot read the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing to check.
    #[error("{} holds no json that describes reference data", .0.display())]
    Empty(PathBuf),
    /// A file can't be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The json is none, or lacks something.
    #[error("the json's {0} is missing or wrong")]
    Description(String, #[source] Option<serde_json::Error>),
    /// The tensors' file is damaged.
    #[error("the tensors are damaged")]
    Tensors(#[source] safetensors::SafeTensorError),
    /// The tensors' file is not what the json describes.
    #[error("tensor {name} is not as the json describes it: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The network refuses what the file describes.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// One case.
pub(super) struct Reference {
    device: Device,
    json: Value,
    tensors: BTreeMap<String, Tensor>,
    used: RefCell<BTreeSet<String>>,
}

impl Reference {
    /// Reads a json and, where it describes tensors, the file of the same name that holds them,
    /// onto the device that is checked.
    pub(super) fn read(path: &Path, device: Device) -> Result<Self, GoldenError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| GoldenError::File { path: path.to_owned(), source });
        let json: Value = serde_json::from_slice(&read(path)?)
            .map_err(|error| GoldenError::Description("syntax".to_owned(), Some(error)))?;
        let tensors = match json.get("tensors").and_then(Value::as_object) {
            Some(described) => {
                let bytes = read(&path.with_extension("safetensors"))?;
                let tensors = parse(&SafeTensors::deserialize(&bytes).map_err(GoldenError::Tensors)?)?;
                agree(&tensors, described)?;
                tensors.into_iter().map(|(name, tensor)| (name, tensor.to_device(device))).collect()
            }
            None => BTreeMap::new(),
        };
        Ok(Self { device, json, tensors, used: RefCell::default() })
    }

    /// Where the tensors are.
    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// What is checked. Tables have no `kind`; their keys tell.
    pub(super) fn kind(&self) -> String {
        match self.json.get("kind").and_then(Value::as_str) {
            Some(kind) => kind.to_owned(),
            None if self.json.get("schedules").is_some() => "schedules".to_owned(),
            None if self.json.pointer("/cappa/params").is_some() => "init_stats".to_owned(),
            None => String::new(),
        }
    }

    /// A part of the json, by pointer (`/train/lr`).
    pub(super) fn describe<T: DeserializeOwned>(&self, pointer: &str) -> Result<T, GoldenError> {
        let value = self.json.pointer(pointer).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| GoldenError::Description(pointer.to_owned(), Some(error)))
    }

    /// A tensor, which counts as used from now on.
    pub(super) fn find(&self, name: &str) -> Option<&Tensor> {
        let tensor = self.tensors.get(name)?;
        self.used.borrow_mut().insert(name.to_owned());
        Some(tensor)
    }

    /// A tensor that must be there.
    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor, GoldenError> {
        self.find(name)
            .ok_or_else(|| GoldenError::Tensor { name: name.to_owned(), problem: "it is missing".to_owned() })
    }

    /// The tensors below a prefix, by the rest of their names.
    pub(super) fn below<'a>(&'a self, prefix: &str) -> Vec<(&'a str, &'a Tensor)> {
        let below = self.tensors.iter().filter_map(|(name, tensor)| Some((name, name.strip_prefix(prefix)?, tensor)));
        below
            .map(|(name, rest, tensor)| {
                self.used.borrow_mut().insert(name.clone());
                (rest, tensor)
            })
            .collect()
    }

    /// Names of tensors that nothing has asked for.
    pub(super) fn unused(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).filter(|&name| !self.used.borrow().contains(name)).collect()
    }

    /// The network of the json, for images `[.., height, width, 3]`.
    pub(super) fn model(&self, pointer: &str, image_size: [i64; 2]) -> Result<ModelConfig, GoldenError> {
        let size = |key: &str| self.describe::<i64>(&format!("{pointer}/{key}"));
        // 0 or nothing for the decoder means the encoder's value.
        let decoder = |key: &str, encoder: i64| {
            size(&format!("decoder_{key}")).ok().filter(|&value| value != 0).unwrap_or(encoder)
        };
        let (width, layers, heads, mlp) = (size("emb_dim")?, size("num_layers")?, size("num_heads")?, size("mlp_dim")?);
        Ok(ModelConfig {
            image_size,
            patch: self.describe(&format!("{pointer}/patches"))?,
            width,
            layers,
            heads,
            mlp,
            decoder_width: decoder("emb_dim", width),
            decoder_layers: decoder("num_layers", layers),
            decoder_heads: decoder("num_heads", heads),
            decoder_mlp: decoder("mlp_dim", mlp),
            decoder_bias: self.describe(&format!("{pointer}/decoder_bias"))?,
            vocab: size("vocab_size")?,
            text_length: size("seq_len")?,
            position: self.describe::<PositionEmbedding>(&format!("{pointer}/posemb_type"))?,
            masked_pred_prob: self.describe(&format!("{pointer}/masked_pred_prob"))?,
            masking_ratio: self.describe(&format!("{pointer}/masking_ratio"))?,
        })
    }

    /// The parameters as the file has them.
    pub(super) fn named_params(&self) -> Vec<(String, Tensor)> {
        self.below("params/").into_iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect()
    }

    /// The parameters as a table of their own, for checks without a network.
    pub(super) fn param_table(&self) -> ParamTable {
        ParamTable::from_tensors(self.below("params/"))
    }
}

/// Height and width of images `[.., height, width, 3]`.
pub(super) fn image_size(images: &Tensor) -> Result<[i64; 2], GoldenError> {
    match images.size()[..] {
        [.., height, width, 3] => Ok([height, width]),
        _ => {
            Err(GoldenError::Tensor { name: "inputs/image".to_owned(), problem: format!("shape {:?}", images.size()) })
        }
    }
}

/// Owned tensors; anything that is not finite is refused, for no check could see it elsewhere.
fn parse(file: &SafeTensors) -> Result<BTreeMap<String, Tensor>, GoldenError> {
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let wrong = |problem: String| GoldenError::Tensor { name: name.clone(), problem };
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::I32 => Kind::Int,
            Dtype::F64 => Kind::Double,
            Dtype::U8 => Kind::Uint8,
            other => return Err(wrong(format!("its type is {other:?}"))),
        };
        let size: Vec<i64> = view.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &size, kind).map_err(|error| wrong(error.to_string()))?;
        if matches!(kind, Kind::Float | Kind::Double) && tensor.isfinite().all().int64_value(&[]) == 0 {
            return Err(wrong("it holds a value that is not finite".to_owned()));
        }
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The file holds exactly the tensors that the json lists, in the listed types and shapes.
fn agree(tensors: &BTreeMap<String, Tensor>, described: &serde_json::Map<String, Value>) -> Result<(), GoldenError> {
    let wrong = |name: &str, problem: String| Err(GoldenError::Tensor { name: name.to_owned(), problem });
    if let Some(name) = tensors.keys().find(|name| !described.contains_key(*name)) {
        return wrong(name, "the json does not list it".to_owned());
    }
    for (name, form) in described {
        let Some(tensor) = tensors.get(name) else { return wrong(name, "it is missing".to_owned()) };
        let kind = match tensor.kind() {
            Kind::Int => "int32",
            Kind::Uint8 => "uint8",
            Kind::Double => "float64",
            _ => "float32",
        };
        let found = format!("{kind}{:?}", tensor.size());
        if form.as_str() != Some(&found) {
            return wrong(name, format!("it is {found}"));
        }
    }
    Ok(())
}
