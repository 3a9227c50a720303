//! Tensors to bytes and back, and who writes which.

use std::collections::HashMap;

use cappa_shared::checkpoint::VOCABULARY;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use super::CheckpointError;

/// For every tensor, the rank that writes it: the largest first, each to whoever has least so far.
/// A pure function, so that all ranks agree without a word.
pub(super) fn owners(bytes: &[usize], world_size: usize) -> Vec<usize> {
    let mut load = vec![0usize; world_size];
    let mut owner = vec![0; bytes.len()];
    let mut by_size: Vec<usize> = (0..bytes.len()).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(bytes[i]), i));
    for i in by_size {
        let least = (0..world_size).min_by_key(|&rank| (load[rank], rank)).expect("a group has a member");
        owner[i] = least;
        load[least] += bytes[i];
    }
    owner
}

/// A tensor's size in bytes.
pub(super) fn bytes_of(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// A safetensors file of host tensors, of a network that was trained with the vocabulary of this digest, if that is known.
pub(crate) fn serialise(tensors: &[(String, Tensor)], vocabulary: Option<&str>) -> Result<Vec<u8>, CheckpointError> {
    let mut raw = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = tensor.contiguous();
        let mut data = vec![0u8; bytes_of(&tensor)];
        tensor.f_copy_data_u8(&mut data, tensor.numel()).map_err(|e| CheckpointError::tensor(name, e))?;
        let shape: Vec<usize> =
            tensor.size().iter().map(|&n| usize::try_from(n).expect("sizes are not negative")).collect();
        raw.push((name, dtype(name, tensor.kind())?, shape, data));
    }
    let views = raw
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(CheckpointError::Format)?;
    let metadata = vocabulary.map(|digest| HashMap::from([(VOCABULARY.to_owned(), digest.to_owned())]));
    safetensors::serialize(views, metadata).map_err(CheckpointError::Format)
}

/// The digest of the vocabulary of a safetensors file's network, where it says so.
pub(super) fn vocabulary(file: &[u8]) -> Result<Option<String>, CheckpointError> {
    let (_, header) = SafeTensors::read_metadata(file).map_err(CheckpointError::Format)?;
    Ok(header.metadata().as_ref().and_then(|metadata| metadata.get(VOCABULARY)).cloned())
}

/// The tensors of a safetensors file.
pub(crate) fn deserialise(file: &[u8]) -> Result<Vec<(String, Tensor)>, CheckpointError> {
    let file = SafeTensors::deserialize(file).map_err(CheckpointError::Format)?;
    file.iter()
        .map(|(name, view)| {
            let shape: Vec<i64> = view.shape().iter().map(|&n| i64::try_from(n).expect("it fits in memory")).collect();
            let kind = kind(name, view.dtype())?;
            let tensor = Tensor::f_from_data_size(view.data(), &shape, kind);
            Ok((name.to_owned(), tensor.map_err(|e| CheckpointError::tensor(name, e))?))
        })
        .collect()
}

const KINDS: [(Kind, Dtype); 5] = [
    (Kind::Float, Dtype::F32),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Double, Dtype::F64),
    // Of other programs.
    (Kind::Half, Dtype::F16),
];

fn dtype(name: &str, kind: Kind) -> Result<Dtype, CheckpointError> {
    let found = KINDS.iter().find(|(k, _)| *k == kind);
    found.map(|(_, d)| *d).ok_or_else(|| CheckpointError::Kind { name: name.to_owned(), kind: format!("{kind:?}") })
}

fn kind(name: &str, dtype: Dtype) -> Result<Kind, CheckpointError> {
    let found = KINDS.iter().find(|(_, d)| *d == dtype);
    found.map(|(k, _)| *k).ok_or_else(|| CheckpointError::Kind { name: name.to_owned(), kind: format!("{dtype:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_divided_by_bytes() {
        let bytes = [100, 1, 50, 49, 1];
        let owner = owners(&bytes, 2);
        let load = |rank| -> usize { (0..bytes.len()).filter(|&i| owner[i] == rank).map(|i| bytes[i]).sum() };
        assert_eq!((load(0), load(1)), (101, 100));
        assert_eq!(owners(&bytes, 1), [0; 5]);
    }

    #[test]
    fn every_bit_survives_a_file() {
        let tensors = vec![
            ("params/a".to_owned(), Tensor::from_slice(&[1.5f32, f32::NAN, -0.0]).view([3, 1])),
            ("opt/m".to_owned(), Tensor::from_slice(&[1.0f32, 2.0]).to_kind(Kind::BFloat16)),
            ("run/tally".to_owned(), Tensor::from_slice(&[7i64, i64::MAX])),
        ];
        let mut back = deserialise(&serialise(&tensors, None).unwrap()).unwrap();
        back.sort_by_key(|(name, _)| tensors.iter().position(|(n, _)| n == name));
        for ((name, before), (same, after)) in tensors.iter().zip(&back) {
            assert_eq!((name, before.size(), before.kind()), (same, after.size(), after.kind()));
            let bits = |t: &Tensor| serialise(&[("x".to_owned(), t.shallow_clone())], None).unwrap();
            assert_eq!(bits(before), bits(after), "{name}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let file = serialise(&[("a".to_owned(), Tensor::from_slice(&[1f32]))], Some("abc")).unwrap();
        assert_eq!(vocabulary(&file).unwrap().as_deref(), Some("abc"));
        assert!(deserialise(&file[..file.len() - 1]).is_err());
        assert!(deserialise(b"not a file").is_err());
    }
}
