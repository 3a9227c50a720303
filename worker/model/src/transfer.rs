//! Parts of networks: starting some of them from a checkpoint's, and naming those that stay as they are.
//!
//! The encoder of a captioner and the image tower of a two-tower model are one network under two names, so each
//! starts from either.

use std::collections::{HashMap, HashSet};

use tch::{Kind, Tensor};

use crate::{ModelError, ParamTable};

/// A part of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The vision transformer: patches, positions, blocks, final layer norm.
    Encoder,
    /// Pooling and projection of the image tower.
    Head,
    /// The text tower.
    Text,
    /// The caption decoder.
    Decoder,
}

impl Part {
    /// The part that a parameter belongs to; temperature and bias of a contrastive loss belong to none.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name.split_once('/').unwrap_or((name, "")) {
            ("encoder", _) => Some(Self::Encoder),
            ("img", rest) if rest.starts_with("head/") || rest.starts_with("MAPHead_0/") => Some(Self::Head),
            ("img", _) => Some(Self::Encoder),
            ("txt", _) => Some(Self::Text),
            ("decoder", _) | ("pos_embedding_decoder", _) => Some(Self::Decoder),
            _ => None,
        }
    }
}

/// A parameter's name, the same in both kinds of networks.
fn canonical(name: &str) -> String {
    match (Part::of(name), name.strip_prefix("img/")) {
        (Some(Part::Encoder), Some(rest)) => format!("encoder/{rest}"),
        _ => name.to_owned(),
    }
}

/// Overwrites the given parts, or with none given all parameters, by a checkpoint's (`params/<name>`; further
/// tensors are ignored). Learned positions of another square grid are resampled to `grid` (rows, columns of
/// patches).
///
/// # Errors
/// All parameters that the checkpoint lacks, has in another shape, or has besides. Nothing is overwritten then.
pub fn transfer(
    params: &mut ParamTable,
    checkpoint: &[(String, Tensor)],
    parts: &[Part],
    grid: [i64; 2],
) -> Result<(), ModelError> {
    let given: HashMap<String, &Tensor> = checkpoint
        .iter()
        .filter_map(|(name, tensor)| Some((canonical(name.strip_prefix("params/")?), tensor)))
        .collect();
    let wanted = |name: &str| parts.is_empty() || Part::of(name).is_some_and(|part| parts.contains(&part));
    let (mut values, mut differences) = (Vec::new(), Vec::new());
    for (name, param) in params.iter() {
        let value = match given.get(&canonical(name)) {
            _ if !wanted(name) => param.detach(),
            None => {
                differences.push(format!("it has no {name}"));
                continue;
            }
            Some(value) => fitted(name, value, param, grid),
        };
        if value.size() != param.size() {
            differences.push(difference(name, &value, param));
        }
        values.push((name.to_owned(), value));
    }
    let known: HashSet<String> = params.iter().map(|(name, _)| canonical(name)).collect();
    let unknown = given.keys().filter(|name| wanted(name) && !known.contains(*name));
    let mut unknown: Vec<_> = unknown.map(|name| format!("it has {name}, the job's network does not")).collect();
    unknown.sort_unstable();
    differences.extend(unknown);
    if differences.is_empty() { params.load_named(&values) } else { Err(ModelError::Transfer { differences }) }
}

/// What the reader can do something about, where a name tells.
fn difference(name: &str, found: &Tensor, wanted: &Tensor) -> String {
    let hint = match name.rsplit('/').next() {
        Some("embedding") => " (another vocabulary, or a mask token more or less)",
        Some("pos_embedding_decoder") => " (another text length)",
        Some("pos_embedding") if name.starts_with("txt/") => " (another text length)",
        _ => "",
    };
    format!("its {name} has shape {:?}, the job's {:?}{hint}", found.size(), wanted.size())
}

/// The value in the parameter's shape, where it only lacks its resolution.
fn fitted(name: &str, value: &Tensor, param: &Tensor, grid: [i64; 2]) -> Tensor {
    let is_positions = canonical(name) == "encoder/pos_embedding";
    match (&value.size()[..], &param.size()[..]) {
        (&[1, from, width], &[1, to, same]) if is_positions && width == same && from != to => {
            let side = (from as f64).sqrt().round() as i64;
            if side * side == from { resample_positions(value, [side, side], grid) } else { value.shallow_clone() }
        }
        _ => value.shallow_clone(),
    }
}

/// Position embeddings of one grid of patches at the places of another: `[1, rows · columns, E]` → the same of the
/// other grid, bilinear between corners that stay in place. Reference: big_vision `models/vit.py`, `resample_posemb`
/// (`scipy.ndimage.zoom` of order 1).
pub fn resample_positions(table: &Tensor, from: [i64; 2], to: [i64; 2]) -> Tensor {
    let width = table.size()[2];
    let planes = table.to_kind(Kind::Float).reshape([1, from[0], from[1], width]).permute([0, 3, 1, 2]);
    let resampled = planes.upsample_bilinear2d(to, true, None::<f64>, None::<f64>);
    resampled.permute([0, 2, 3, 1]).reshape([1, to[0] * to[1], width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_resampled_between_corners_that_stay() {
        // scipy.ndimage.zoom([[0, 1], [2, 5]], 1.5, order=1)
        let table = Tensor::from_slice(&[0f32, 1.0, 2.0, 5.0]).view([1, 4, 1]);
        let resampled = Vec::<f32>::try_from(resample_positions(&table, [2, 2], [3, 3]).flatten(0, -1)).unwrap();
        assert_eq!(resampled, [0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 2.0, 3.5, 5.0]);
    }

    #[test]
    fn every_parameter_has_its_part() {
        for (name, part) in [
            ("encoder/pos_embedding", Some(Part::Encoder)),
            ("img/Transformer/encoder_norm/scale", Some(Part::Encoder)),
            ("img/head/kernel", Some(Part::Head)),
            ("img/MAPHead_0/probe", Some(Part::Head)),
            ("txt/Embed_0/embedding", Some(Part::Text)),
            ("decoder/LogitsDense/bias", Some(Part::Decoder)),
            ("pos_embedding_decoder", Some(Part::Decoder)),
            ("t", None),
            ("b", None),
        ] {
            assert_eq!(Part::of(name), part, "{name}");
        }
    }
}
