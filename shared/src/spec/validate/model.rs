//! The network's sizes.

use super::Checker;
use crate::spec::error::Mistake;
use crate::spec::preset::Sizes;
use crate::spec::raw::{Preset, RawModel, Short};
use crate::spec::{Data, Model, PositionEmbedding};

pub(super) fn model(raw: Option<Short<Preset, RawModel>>, checker: &mut Checker<'_>) -> Sizes {
    let raw = match raw {
        None => RawModel::default(),
        Some(Short::Name(preset)) => RawModel { preset: Some(preset), ..RawModel::default() },
        Some(Short::Map(raw)) => raw,
    };
    let mut sizes = raw.preset.unwrap_or(Preset::B16).sizes();
    let preset = &sizes.model;
    let model = Model {
        preset: preset.preset.clone(),
        patch: raw.patch.unwrap_or(preset.patch),
        width: raw.width.unwrap_or(preset.width),
        layers: raw.layers.unwrap_or(preset.layers),
        decoder_layers: raw.decoder_layers.unwrap_or(preset.decoder_layers),
        heads: raw.heads.unwrap_or(preset.heads),
        mlp: raw.mlp.unwrap_or(preset.mlp),
        vocabulary: raw.vocabulary.unwrap_or(preset.vocabulary),
        position: raw.position.unwrap_or(preset.position),
        decoder_bias: raw.decoder_bias.unwrap_or(preset.decoder_bias),
    };
    check(&model, checker);
    sizes.model = model;
    sizes
}

fn check(model: &Model, checker: &mut Checker<'_>) {
    checker.within("model.patch", model.patch, 1..=1024);
    checker.within("model.width", model.width, 1..=65_536);
    checker.within("model.layers", model.layers, 1..=1024);
    checker.within("model.decoder_layers", model.decoder_layers, 1..=1024);
    checker.within("model.heads", model.heads, 1..=1024);
    checker.within("model.mlp", model.mlp, 1..=1_048_576);
    // Padding, end-of-text, and a token to predict.
    checker.within("model.vocabulary", model.vocabulary, 3..=4_194_304);
    if !model.width.is_multiple_of(model.heads.max(1)) {
        let message = format!("{} does not divide the width, {}", model.heads, model.width);
        checker.report(&["model.heads", "model.width", "model.preset"], Mistake::NotDivisible, message);
    }
    if model.position == PositionEmbedding::Sincos2d && !model.width.is_multiple_of(4) {
        let message = format!("{} is not a multiple of 4, as `sincos2d` needs", model.width);
        checker.report(&["model.width", "model.position", "model.preset"], Mistake::NotDivisible, message);
    }
}

/// An image is cut into whole patches.
pub(super) fn check_input(model: &Model, data: &Data, checker: &mut Checker<'_>) {
    let (size, patch) = (data.image_size, model.patch.max(1));
    if !size.is_multiple_of(patch) {
        let below = size / patch * patch;
        let above = u64::from(below) + u64::from(patch);
        let sizes = if below == 0 { format!("{above}") } else { format!("{below} or {above}") };
        let message = format!("{size} is not a multiple of the patch, {patch}; use {sizes}");
        checker.report(&["data.image_size", "model.patch", "model.preset"], Mistake::NotDivisible, message);
    }
}
