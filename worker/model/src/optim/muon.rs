//! Muon (Jordan et al., 2024, <https://kellerjordan.github.io/posts/muon/>): the momentum of each weight matrix of the
//! blocks is made orthogonal by a Newton-Schulz iteration, so that no direction of a matrix learns slowly. Scaled as in
//! arXiv 2502.16982, eq. 4, to the size of AdamW's updates, so that one learning rate serves both. Embeddings, biases,
//! normalisations and the output layer are left to AdamW, as both sources advise.

use std::collections::BTreeMap;

use cappa_collective::ops;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::adamw::{AdamW, AdamWConfig};
use super::{Update, zeros_like};
use crate::{ModelError, ParamTable};

/// Coefficients of the iteration X ← aX + (bA + cA²)X with A = XXᵀ, which takes singular values near 1.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// Iterations of it.
const ITERATIONS: usize = 5;
/// Root mean square of an update, relative to the learning rate: AdamW's, as measured in arXiv 2502.16982.
const UPDATE_RMS: f64 = 0.2;

/// Settings of the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MuonConfig {
    /// Decay of the matrices' momentum (Nesterov).
    pub momentum: f64,
    /// The rule of all other parameters.
    pub others: AdamWConfig,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self { momentum: 0.95, others: AdamWConfig::default() }
    }
}

/// State of every parameter of a table.
#[derive(Debug)]
pub(super) struct Muon {
    momentum: f64,
    slots: Vec<Option<Slot>>,
    others: AdamW,
}

#[derive(Debug)]
struct Slot {
    name: String,
    momentum: Tensor,
    /// Rows and columns of the matrix that the parameter is.
    matrix: [i64; 2],
}

impl Muon {
    pub(super) fn new(config: MuonConfig, params: &ParamTable) -> Self {
        let slot = |(name, param): (&str, &Tensor)| {
            let matrix = matrix(name, &param.size()).filter(|_| param.requires_grad())?;
            Some(Slot { name: name.to_owned(), momentum: zeros_like(param, Kind::Float), matrix })
        };
        let others = AdamW::of(config.others, params, |name, param| matrix(name, &param.size()).is_none());
        Self { momentum: config.momentum, slots: params.iter().map(slot).collect(), others }
    }

    pub(super) fn apply(&mut self, update: &Update) -> Result<(), ModelError> {
        self.others.apply(update)?;
        let mut by_shape: BTreeMap<[i64; 2], Vec<(usize, &Slot)>> = BTreeMap::new();
        for (i, &place) in update.places.iter().enumerate() {
            if let Some(slot) = &self.slots[place] {
                by_shape.entry(slot.matrix).or_default().push((i, slot));
            }
        }
        for (matrix, members) in by_shape {
            self.apply_to(update, matrix, &members)?;
        }
        Ok(())
    }

    /// Updates all matrices of one shape, in one batch of matrix products.
    fn apply_to(&self, update: &Update, matrix: [i64; 2], members: &[(usize, &Slot)]) -> Result<(), ModelError> {
        let params: Vec<&Tensor> = members.iter().map(|&(i, _)| update.params[i]).collect();
        let grads: Vec<&Tensor> = members.iter().map(|&(i, _)| update.grads[i]).collect();
        let momenta: Vec<&Tensor> = members.iter().map(|(_, slot)| &slot.momentum).collect();
        ops::mul_scalar_(&momenta, self.momentum)?;
        ops::add_(&momenta, &grads, 1.0)?;
        ops::add_(&grads, &momenta, self.momentum)?;

        let flat: Vec<Tensor> = grads.iter().map(|grad| grad.reshape(matrix)).collect();
        let directions = orthogonal(&Tensor::stack(&flat, 0));
        let [rows, columns] = matrix;
        let scale = UPDATE_RMS * (rows.max(columns) as f64).sqrt() * update.learning_rate;
        let directions: Vec<Tensor> =
            directions.unbind(0).iter().zip(&params).map(|(direction, param)| direction.view_as(param)).collect();
        ops::mul_scalar_(&directions, scale)?;
        // A block's kernels all decay.
        if update.weight_decay != 0.0 {
            ops::add_(&directions, &params, update.weight_decay)?;
        }
        ops::add_(&params, &directions, -update.schedule)?;
        Ok(())
    }

    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let momentum = |slot: &Slot| (format!("momentum/{}", slot.name), slot.momentum.shallow_clone());
        self.slots.iter().flatten().map(momentum).chain(self.others.state()).collect()
    }
}

/// Input × output of a kernel inside a Transformer block; `None` for everything else. Attention's projections hold
/// their heads as a dimension of their own: width × heads × dim, and heads × dim × width for the one out of it.
fn matrix(name: &str, size: &[i64]) -> Option<[i64; 2]> {
    let of_a_block = name.contains("/encoderblock_") || name.contains("/EncDecBlock");
    match *size {
        _ if !of_a_block || !name.ends_with("/kernel") => None,
        [rows, columns] => Some([rows, columns]),
        [heads, dim, width] if name.ends_with("/out/kernel") => Some([heads * dim, width]),
        [width, heads, dim] => Some([width, heads * dim]),
        _ => None,
    }
}

/// For each matrix USVᵀ of a batch [n, rows, columns] about UVᵀ: all singular values end between 0.7 and 1.2.
fn orthogonal(matrices: &Tensor) -> Tensor {
    let (a, b, c) = QUINTIC;
    // The Gram matrix of the shorter side is the cheaper one.
    let tall = matrices.size()[1] > matrices.size()[2];
    let turn = |tensor: &Tensor| if tall { tensor.transpose(1, 2) } else { tensor.shallow_clone() };
    // Only the Frobenius norm is cheap; it is at least the largest singular value.
    let norms = matrices.norm_scalaropt_dim(2, [1, 2].as_slice(), true);
    let mut x = turn(&(matrices / (norms + 1e-7))).contiguous();
    for _ in 0..ITERATIONS {
        let gram = x.bmm(&x.transpose(1, 2));
        let polynomial = gram.baddbmm(&gram, &gram, b, c);
        x = x.baddbmm(&polynomial, &x, a, 1.0);
    }
    turn(&x).contiguous()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn an_update_has_no_favourite_direction() {
        for shape in [[3i64, 24, 64], [3, 64, 24], [2, 32, 32]] {
            // A matrix of normal draws alone can be almost singular: this one's singular values lie between 0.1 and 1.
            let (u, values, v) = Tensor::randn(shape, (Kind::Float, Device::Cpu)).svd(true, true);
            let values = Tensor::linspace(0.1, 1.0, values.size()[1], (Kind::Float, Device::Cpu));
            let directions = orthogonal(&(u * values).bmm(&v.transpose(1, 2)));
            assert_eq!(directions.size(), shape);
            let (_, values, _) = directions.svd(true, false);
            let (least, most) = (values.min().double_value(&[]), values.max().double_value(&[]));
            assert!(least > 0.6 && most < 1.3, "{shape:?}: singular values from {least} to {most}");
        }
    }

    #[test]
    fn only_the_blocks_kernels_are_matrices() {
        assert_eq!(matrix("encoder/Transformer/encoderblock_0/MHA/query/kernel", &[64, 4, 16]), Some([64, 64]));
        assert_eq!(matrix("decoder/EncDecBlock0/CrossAttn/out/kernel", &[4, 16, 32]), Some([64, 32]));
        assert_eq!(matrix("decoder/EncDecBlock0/MLP/Dense_0/kernel", &[64, 256]), Some([64, 256]));
        assert_eq!(matrix("decoder/EncDecBlock0/MLP/Dense_0/bias", &[256]), None);
        assert_eq!(matrix("decoder/LogitsDense/kernel", &[64, 512]), None);
        assert_eq!(matrix("encoder/embedding/kernel", &[8, 8, 3, 64]), None);
    }
}
