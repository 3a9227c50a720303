//! The parameters of a network by name, in a fixed order.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use crate::{ModelError, init, spec::ParamSpec};

/// The prefix of parameters in checkpoints.
const PREFIX: &str = "params/";

/// Leaf tensors (f32, gradients wanted) by name, in the order in which the forward pass uses
/// them. Names are the paths of the authors' tree joined by `/`.
#[derive(Debug)]
pub struct ParamTable {
    entries: Vec<(String, Tensor)>,
    index: HashMap<String, usize>,
}

impl ParamTable {
    /// Freshly initialised parameters; the same for the same seed on every device.
    #[must_use]
    pub fn init(specs: &[ParamSpec], seed: u64, device: Device) -> Self {
        let value = |spec: &ParamSpec| (spec.name.clone(), init::initial_value(spec, seed).to_device(device));
        Self::of(specs.iter().map(value))
    }

    /// Parameters of the right shapes, all 0, to be loaded.
    #[must_use]
    pub fn empty(specs: &[ParamSpec], device: Device) -> Self {
        Self::of(specs.iter().map(|spec| (spec.name.clone(), Tensor::zeros(&spec.shape, (Kind::Float, device)))))
    }

    /// A table of copies of the given tensors.
    #[must_use]
    pub fn from_tensors<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        Self::of(
            tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.detach().to_kind(Kind::Float).copy())),
        )
    }

    fn of(tensors: impl Iterator<Item = (String, Tensor)>) -> Self {
        let entries: Vec<_> = tensors.map(|(name, tensor)| (name, tensor.set_requires_grad(true))).collect();
        let index = entries.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Self { entries, index }
    }

    /// Names and tensors, in their fixed order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensors alone, in their fixed order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.entries.iter().map(|(_, tensor)| tensor)
    }

    /// How many parameters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of elements of all parameters.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.tensors().map(Tensor::numel).sum()
    }

    /// The parameter of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.entries[i].1)
    }

    /// The gradients that the last backward pass left, in the order of the parameters; `None`
    /// where it reached none (frozen parameters).
    #[must_use]
    pub fn grads(&self) -> Vec<Option<Tensor>> {
        self.tensors().map(|tensor| Some(tensor.grad()).filter(Tensor::defined)).collect()
    }

    /// Forgets all gradients; the next backward pass makes new ones instead of adding to them.
    ///
    /// # Errors
    /// The operation on the list fails.
    pub fn clear_grads(&self) -> Result<(), ModelError> {
        let tensors: Vec<&Tensor> = self.tensors().collect();
        Ok(cappa_collective::ops::drop_grads_(&tensors)?)
    }

    /// Stops gradients to every parameter whose name the predicate accepts.
    pub fn freeze(&mut self, frozen: impl Fn(&str) -> bool) {
        for (name, tensor) in &self.entries {
            let _ = tensor.set_requires_grad(!frozen(name));
        }
    }

    /// The parameters as a checkpoint names them: `params/<name>`, sharing memory.
    #[must_use]
    pub fn to_named(&self) -> Vec<(String, Tensor)> {
        self.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.detach())).collect()
    }

    /// Overwrites every parameter in place from the tensors of a checkpoint (`params/<name>` or
    /// `<name>`; further tensors are ignored).
    ///
    /// # Errors
    /// A parameter is missing or has another shape. Nothing is overwritten then.
    pub fn load_named(&mut self, named: &[(String, Tensor)]) -> Result<(), ModelError> {
        let given: HashMap<&str, &Tensor> =
            named.iter().map(|(name, tensor)| (name.strip_prefix(PREFIX).unwrap_or(name), tensor)).collect();
        let mut values = Vec::with_capacity(self.len());
        for (name, tensor) in &self.entries {
            let value = *given.get(name.as_str()).ok_or_else(|| ModelError::MissingTensor { name: name.clone() })?;
            if value.size() != tensor.size() {
                return Err(ModelError::shape(name, value, tensor.size()));
            }
            values.push(value);
        }
        tch::no_grad(|| {
            for ((_, tensor), value) in self.entries.iter().zip(values) {
                tensor.shallow_clone().copy_(value);
            }
        });
        Ok(())
    }
}
