//! Looking at intermediate activations, as the reference data does.

use tch::Tensor;

use crate::recompute::Tape;

/// Sees activations as the forward pass makes them.
pub(crate) trait Tap<'a> {
    fn see(&mut self, name: impl FnOnce() -> String, activation: &Tensor);

    /// Where it is one that blocks are recomputed from: they are written down there, and seen by nobody.
    fn tape(&mut self) -> Option<&mut Tape<'a>> {
        None
    }
}

/// Looks at nothing.
pub(crate) struct NoTap;

impl Tap<'_> for NoTap {
    fn see(&mut self, _: impl FnOnce() -> String, _: &Tensor) {}
}

/// Keeps every activation by name.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Vec<(String, Tensor)>);

impl Tap<'_> for Recorder {
    fn see(&mut self, name: impl FnOnce() -> String, activation: &Tensor) {
        self.0.push((name(), activation.shallow_clone()));
    }
}
