//! Looking at intermediate activations, as the reference data does.

use tch::Tensor;

/// Sees activations as the forward pass makes them.
pub(crate) trait Tap {
    fn see(&mut self, name: impl FnOnce() -> String, activation: &Tensor);
}

/// Looks at nothing.
pub(crate) struct NoTap;

impl Tap for NoTap {
    fn see(&mut self, _: impl FnOnce() -> String, _: &Tensor) {}
}

/// Keeps every activation by name.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Vec<(String, Tensor)>);

impl Tap for Recorder {
    fn see(&mut self, name: impl FnOnce() -> String, activation: &Tensor) {
        self.0.push((name(), activation.shallow_clone()));
    }
}
