//! What other programs call parameters and how they lay them out: one table for a program, which export reads from left to
//! right and import from right to left.
//!
//! E width, H heads, D head dim, P patches.

mod programs;

use tch::Tensor;

pub(crate) use programs::{ImageTower, open_clip_text, timm, transformers};

/// How one of their tensors is made of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Same,
    /// A kernel `[in, out]` is their weight `[out, in]`.
    Dense,
    /// `[patch, patch, 3, E]` is their `[E, 3, patch, patch]`.
    Patches,
    /// Kernels `[E, H, D]` are one weight of theirs, one below the other: `[n · H · D, E]`.
    Projections,
    /// Biases `[H, D]` are one of theirs: `[n · H · D]`.
    ProjectionBiases,
    /// `[H, D, E]` is their `[E, H · D]`.
    Output,
    /// `[1, P, E]` is their table `[P, E]`.
    Table,
    /// `[1]` is their `[]`.
    Scalar,
}

impl Form {
    /// Their tensor, of ours.
    pub(crate) fn theirs(self, ours: &[Tensor]) -> Tensor {
        let joined = |of: fn(&Tensor) -> Tensor| Tensor::cat(&ours.iter().map(of).collect::<Vec<_>>(), 0);
        match self {
            Self::Same => ours[0].shallow_clone(),
            Self::Dense => ours[0].tr(),
            Self::Patches => ours[0].permute([3, 2, 0, 1]),
            Self::Projections => joined(|kernel| kernel.flatten(1, 2).tr()),
            Self::ProjectionBiases => joined(|bias| bias.flatten(0, 1)),
            Self::Output => ours[0].flatten(0, 1).tr(),
            Self::Table => ours[0].squeeze_dim(0),
            Self::Scalar => ours[0].squeeze(),
        }
    }

    /// So many tensors of ours, of theirs; `None` where theirs has not such a shape.
    pub(crate) fn ours(self, theirs: &Tensor, count: i64, heads: i64) -> Option<Vec<Tensor>> {
        let shape = theirs.size();
        let divides = |n: i64, by: i64| by > 0 && n % by == 0;
        match (self, &shape[..]) {
            (Self::Same, _) => Some(vec![theirs.shallow_clone()]),
            (Self::Dense, [_, _]) => Some(vec![theirs.tr()]),
            (Self::Patches, [_, 3, _, _]) => Some(vec![theirs.permute([2, 3, 1, 0])]),
            (Self::Projections, &[rows, width]) if rows > 0 && divides(rows, count * heads) => {
                let kernels = theirs.tr().chunk(count, 1);
                Some(kernels.into_iter().map(|kernel| kernel.reshape([width, heads, -1])).collect())
            }
            (Self::ProjectionBiases, &[rows]) if rows > 0 && divides(rows, count * heads) => {
                Some(theirs.chunk(count, 0).into_iter().map(|bias| bias.reshape([heads, -1])).collect())
            }
            (Self::Output, &[width, inputs]) if divides(inputs, heads) => {
                Some(vec![theirs.tr().reshape([heads, -1, width])])
            }
            (Self::Table, [_, _]) => Some(vec![theirs.unsqueeze(0)]),
            (Self::Scalar, [] | [1]) => Some(vec![theirs.reshape([1])]),
            _ => None,
        }
    }
}

/// One of their tensors.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) theirs: String,
    /// Those of ours that it holds, in order.
    pub(crate) ours: Vec<String>,
    pub(crate) form: Form,
}

/// All tensors of a tower.
#[derive(Debug, Default)]
pub(crate) struct Layout(pub(crate) Vec<Entry>);

impl Layout {
    fn one(&mut self, theirs: impl Into<String>, ours: impl Into<String>, form: Form) {
        self.0.push(Entry { theirs: theirs.into(), ours: vec![ours.into()], form });
    }

    fn layer_norm(&mut self, theirs: &str, ours: &str) {
        self.one(format!("{theirs}.weight"), format!("{ours}/scale"), Form::Same);
        self.one(format!("{theirs}.bias"), format!("{ours}/bias"), Form::Same);
    }

    /// A matrix in one of its forms, and a bias as it is.
    fn layer(&mut self, theirs: &str, ours: &str, form: Form) {
        self.one(format!("{theirs}.weight"), format!("{ours}/kernel"), form);
        self.one(format!("{theirs}.bias"), format!("{ours}/bias"), Form::Same);
    }

    /// Two dense layers.
    fn mlp(&mut self, theirs: [String; 2], ours: &str) {
        for (theirs, layer) in theirs.iter().zip(["Dense_0", "Dense_1"]) {
            self.layer(theirs, &format!("{ours}/{layer}"), Form::Dense);
        }
    }

    /// Some of query, key and value, together one weight and one bias of theirs.
    fn projections(&mut self, weight: String, bias: String, attention: &str, parts: &[&str]) {
        for (theirs, leaf, form) in [(weight, "kernel", Form::Projections), (bias, "bias", Form::ProjectionBiases)] {
            let ours = parts.iter().map(|part| format!("{attention}/{part}/{leaf}")).collect();
            self.0.push(Entry { theirs, ours, form });
        }
    }
}

/// All projections of an attention.
const QKV: [&str; 3] = ["query", "key", "value"];

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn every_form_leads_back_to_the_same_bits() {
        let heads = 4;
        for (form, shape, count, theirs) in [
            (Form::Same, vec![3, 5], 1, vec![3, 5]),
            (Form::Dense, vec![3, 5], 1, vec![5, 3]),
            (Form::Patches, vec![2, 6, 3, 8], 1, vec![8, 3, 2, 6]),
            (Form::Projections, vec![8, heads, 2], 3, vec![24, 8]),
            (Form::ProjectionBiases, vec![heads, 2], 2, vec![16]),
            (Form::Output, vec![heads, 2, 8], 1, vec![8, 8]),
            (Form::Table, vec![1, 9, 8], 1, vec![9, 8]),
            (Form::Scalar, vec![1], 1, vec![]),
        ] {
            let ours: Vec<_> = (0..count).map(|_| Tensor::randn(&shape, (Kind::Float, Device::Cpu))).collect();
            let tensor = form.theirs(&ours);
            assert_eq!(tensor.size(), theirs, "{form:?}");
            assert_eq!(form.ours(&tensor, count, heads).as_ref(), Some(&ours), "{form:?}");
        }
        let odd = Tensor::zeros([25, 8], (Kind::Float, Device::Cpu));
        assert!(Form::Projections.ours(&odd, 3, heads).is_none());
    }
}
