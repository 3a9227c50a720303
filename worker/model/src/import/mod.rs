//! Weights of other programs as parameters of ours: the authors' `.npz` trees, and what timm, transformers and open_clip save.
//!
//! What a program's network has and ours has not, or the other way round, is told, and nothing is imported then. What can't be
//! seen in the weights (which GELU, which mask) is read from the settings beside them, where there are any.

mod settings;
mod tree;
mod unfit;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::ModelError;
use crate::architecture::{Architecture, Given, Shapes};
use crate::layout::{self, ImageTower, Layout};
use settings::Settings;

/// What is known beside the weights.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Attention heads of every tower; without it the settings say, or what is usual for the width.
    pub heads: Option<i64>,
    /// Height and width of the images in pixels, where the network has no learned positions that tell.
    pub image_size: Option<i64>,
    /// Longest text in tokens, of a captioner whose positions are fixed.
    pub text_length: Option<i64>,
    /// The JSON files of a folder as these programs write them, by their path in it (see [`SETTINGS`]).
    pub documents: BTreeMap<&'static str, Value>,
}

/// Files beside weights that say what a network is.
pub const SETTINGS: [&str; 3] = ["config.json", "open_clip_config.json", "image-tower/config.json"];

/// Whose weights they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The authors' tree.
    BigVision,
    /// timm's `VisionTransformer`.
    Timm,
    /// transformers' `SiglipVisionModel`.
    Transformers,
    /// open_clip's two towers, the image tower timm's.
    OpenClip,
}

/// A network of ours with other people's weights.
#[derive(Debug)]
pub struct Imported {
    /// Whose they were.
    pub program: Program,
    /// What the network is.
    pub architecture: Architecture,
    /// Its parameters: f32, under the names of the authors' tree.
    pub params: Vec<(String, Tensor)>,
    /// What was assumed, left out or will be computed otherwise, a sentence each.
    pub notes: Vec<String>,
}

/// Finds out whose weights these are, and what of ours they make.
///
/// # Errors
/// The weights are of no program that is known, or of a network that is not here: everything that differs.
pub fn import(tensors: Vec<(String, Tensor)>, hints: &Hints) -> Result<Imported, ModelError> {
    let _no_grad = tch::no_grad_guard();
    let mut import = Import {
        given: tensors.into_iter().collect(),
        settings: Settings::new(hints),
        params: Vec::new(),
        differences: Vec::new(),
        notes: Vec::new(),
    };
    let program = import.program()?;
    match program {
        Program::BigVision => tree::read(&mut import),
        Program::Timm => import.timm(),
        Program::Transformers => import.transformers(),
        Program::OpenClip => import.open_clip(),
    }
    let Import { given, params, mut differences, notes, .. } = import;
    differences.extend(unfit::differences(given.keys().map(String::as_str)));
    let on_host = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let params: Vec<_> = params.into_iter().map(|(name, tensor)| (name, on_host(tensor))).collect();
    if !differences.is_empty() {
        return Err(ModelError::Import { differences: told_once(differences) });
    }
    let shapes: Shapes = params.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    let given = Given { image_size: hints.image_size, text_length: hints.text_length };
    let architecture = Architecture::of(&shapes, given)
        .map_err(|differences| ModelError::Import { differences: told_once(differences) })?;
    Ok(Imported { program, architecture, params, notes })
}

struct Import<'a> {
    /// What is still to be taken.
    given: BTreeMap<String, Tensor>,
    settings: Settings<'a>,
    params: Vec<(String, Tensor)>,
    differences: Vec<String>,
    notes: Vec<String>,
}

/// Where open_clip keeps an image tower of timm.
const TRUNK: &str = "visual.trunk.";

impl Import<'_> {
    fn program(&self) -> Result<Program, ModelError> {
        let has = |name: &str| self.given.contains_key(name);
        if self.given.keys().any(|name| name.ends_with("embedding/kernel")) {
            Ok(Program::BigVision)
        } else if has("visual.trunk.patch_embed.proj.weight") || has("visual.conv1.weight") {
            Ok(Program::OpenClip)
        } else if has("patch_embed.proj.weight") {
            Ok(Program::Timm)
        } else if has("vision_model.embeddings.patch_embedding.weight") {
            Ok(Program::Transformers)
        } else {
            let names = self.given.keys().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let difference = format!(
                "it has no patch embedding under a name of big_vision, timm, transformers (SiglipVisionModel) or \
                 open_clip; its tensors are named {names}, …"
            );
            Err(ModelError::Import { differences: vec![difference] })
        }
    }

    fn timm(&mut self) {
        let has_head = self.given.contains_key("head.weight");
        let has_map = self.given.contains_key("attn_pool.latent");
        let root = if has_map || has_head { "img" } else { "encoder" };
        let layers = self.blocks("blocks.", ".norm1.weight");
        self.tower(layout::timm("", ImageTower { root, layers, has_map, has_head }), "patch_embed.proj.weight", "");
        self.activation();
    }

    fn transformers(&mut self) {
        let has_map = self.given.contains_key("vision_model.head.probe");
        let root = if has_map { "img" } else { "encoder" };
        let layers = self.blocks("vision_model.encoder.layers.", ".layer_norm1.weight");
        let others = self.given.len();
        let is_text = |name: &str| name.starts_with("text_model.") || matches!(name, "logit_scale" | "logit_bias");
        self.given.retain(|name, _| !is_text(name));
        if self.given.len() < others {
            self.notes.push("its text tower is left out; open_clip's form of the same weights is read whole".into());
        }
        let tower = ImageTower { root, layers, has_map, has_head: false };
        self.tower(layout::transformers(tower), "vision_model.embeddings.patch_embedding.weight", "");
        self.activation();
    }

    fn open_clip(&mut self) {
        // Its own vision transformer differs in too much to read on; all that is there is told.
        if !self.given.contains_key("visual.trunk.patch_embed.proj.weight") {
            return;
        }
        let has = |name: &str| self.given.contains_key(name);
        let (has_map, has_head) = (has("visual.trunk.attn_pool.latent"), has("visual.trunk.head.weight"));
        let (has_projection, has_bias) = (has("visual.head.proj.weight"), has("logit_bias"));
        if has_projection && !has("visual.head.proj.bias") {
            let outputs = self.given["visual.head.proj.weight"].size().first().copied().unwrap_or_default();
            self.zero("visual.head.proj.bias", outputs);
        }
        let layers = self.blocks("visual.trunk.blocks.", ".norm1.weight");
        let tower = ImageTower { root: "img", layers, has_map, has_head };
        self.tower(layout::timm(TRUNK, tower), "visual.trunk.patch_embed.proj.weight", TRUNK);
        let blocks = self.blocks("text.transformer.resblocks.", ".ln_1.weight");
        let mut text = layout::open_clip_text(blocks, has_bias);
        if !has_projection {
            text.0.retain(|entry| !entry.theirs.starts_with("visual."));
        }
        self.differences.extend(self.settings.text_differences());
        self.tower(text, "text.token_embedding.weight", "text.");
        if !has_projection && !has_head {
            self.identity();
        }
        self.activation();
    }

    /// The tensors of a layout; `telling` has the tower's width as its first or last size.
    fn tower(&mut self, layout: Layout, telling: &str, prefix: &str) {
        let Some(shape) = self.given.get(telling).map(Tensor::size) else { return };
        let width = if prefix == "text." { shape.last() } else { shape.first() };
        let heads = match self.settings.heads(width.copied().unwrap_or_default(), prefix) {
            Ok((heads, note)) => {
                if let Some(note) = note
                    && !self.notes.contains(&note)
                {
                    self.notes.push(note);
                }
                heads
            }
            Err(difference) => return self.differences.push(difference),
        };
        for entry in layout.0 {
            let Some(theirs) = self.given.remove(&entry.theirs) else {
                self.differences.push(format!("it has no {}", unfit::pattern(&entry.theirs)));
                continue;
            };
            match entry.form.ours(&theirs, entry.ours.len() as i64, heads) {
                Some(ours) => self.params.extend(entry.ours.into_iter().zip(ours)),
                None => {
                    let (name, shape) = (unfit::pattern(&entry.theirs), theirs.size());
                    self.differences.push(format!("its {name} has shape {shape:?}, which fits no {heads} heads"));
                }
            }
        }
    }

    /// An image tower whose pooled patches are compared as they are has the identity for a projection here.
    fn identity(&mut self) {
        let width_of = |name: &str, place: usize| {
            self.params
                .iter()
                .find(|(param, _)| param == name)
                .and_then(|(_, tensor)| tensor.size().get(place).copied())
        };
        let width = width_of("img/embedding/bias", 0);
        if width.is_none() || width != width_of("txt/head/kernel", 1) {
            return;
        }
        let width = width.unwrap_or_default();
        self.params.push(("img/head/kernel".into(), Tensor::eye(width, (Kind::Float, Device::Cpu))));
        self.params.push(("img/head/bias".into(), Tensor::zeros([width], (Kind::Float, Device::Cpu))));
        self.notes.push("its image tower does not project: img/head is the identity, which changes no feature".into());
    }

    fn zero(&mut self, name: &str, outputs: i64) {
        self.given.insert(name.into(), Tensor::zeros([outputs], (Kind::Float, Device::Cpu)));
    }

    fn activation(&mut self) {
        self.notes.extend(self.settings.activation());
    }

    /// How many blocks there are.
    fn blocks(&self, before: &str, after: &str) -> i64 {
        let number = |name: &String| name.strip_prefix(before)?.strip_suffix(after)?.parse::<i64>().ok();
        self.given.keys().filter_map(number).collect::<BTreeSet<_>>().len() as i64
    }
}

fn told_once(differences: Vec<String>) -> Vec<String> {
    let mut told = Vec::new();
    for difference in differences {
        if !told.contains(&difference) {
            told.push(difference);
        }
    }
    told
}
