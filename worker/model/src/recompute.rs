//! Gradient checkpointing: the activations inside a block are not kept for the backward pass but computed again there (Chen et al.,
//! "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174; `remat` in big_vision).
//!
//! The forward pass runs every block without a graph, and its output begins a new one. The tape knows how each was made. Its backward
//! pass differentiates the loss down to the last of these outputs, then block by block: compute it again with a graph, take the
//! gradient at its output through that, which leaves gradients at the block's parameters and at the output before. Every parameter
//! gets its gradient in one piece, as DDP's reducer demands.

use tch::{Kind, TchError, Tensor};

use crate::tap::Tap;

/// What a forward pass leaves for its backward pass.
pub struct Tape<'a> {
    is_on: bool,
    segments: Vec<Segment<'a>>,
}

/// A part of the forward pass that is differentiated by itself.
struct Segment<'a> {
    /// What the rest of the forward pass saw of it: no part of its graph.
    output: Tensor,
    /// Gives its output with a graph.
    run: Box<dyn Fn() -> Tensor + 'a>,
}

impl<'a> Tape<'a> {
    /// A tape that keeps nothing: there is one graph, and all activations are kept.
    #[must_use]
    pub fn off() -> Self {
        Self::new(false)
    }

    /// A tape that blocks are recomputed from, if that is wanted.
    #[must_use]
    pub fn new(is_on: bool) -> Self {
        Self { is_on, segments: Vec::new() }
    }

    /// Whether blocks are recomputed.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Ends the graph of `x`: what several segments see, or the first of them.
    pub(crate) fn cut(&mut self, x: Tensor) -> Tensor {
        if !self.is_on || !x.requires_grad() {
            return x;
        }
        let output = x.detach().set_requires_grad(true);
        self.push(&output, move || x.shallow_clone());
        output
    }

    /// A block of these inputs, which is computed again in the backward pass. All that `run` sees with a gradient must be cut, or
    /// another block's output.
    pub(crate) fn block(&mut self, inputs: &[&Tensor], run: impl Fn() -> Tensor + 'a) -> Tensor {
        // Where no gradient comes in, as behind a frozen encoder, there is little to be saved, or nothing to be differentiated.
        if !self.is_on || !inputs.iter().any(|input| input.requires_grad()) {
            return run();
        }
        let output = tch::no_grad(&run).set_requires_grad(true);
        self.push(&output, run);
        output
    }

    fn push(&mut self, output: &Tensor, run: impl Fn() -> Tensor + 'a) {
        self.segments.push(Segment { output: output.shallow_clone(), run: Box::new(run) });
    }

    /// Adds the gradients of a scalar that the forward pass came to, to those of the parameters.
    ///
    /// # Errors
    /// libtorch refuses, or has no memory left.
    pub fn backward(mut self, scalar: &Tensor) -> Result<(), TchError> {
        scalar.f_backward()?;
        while let Some(Segment { output, run }) = self.segments.pop() {
            let gradient = output.grad();
            if gradient.defined() {
                (run() * gradient).sum(Kind::Float).f_backward()?;
            }
        }
        Ok(())
    }
}

impl<'a> Tap<'a> for Tape<'a> {
    fn see(&mut self, _: impl FnOnce() -> String, _: &Tensor) {}

    fn tape(&mut self) -> Option<&mut Tape<'a>> {
        self.is_on.then_some(self)
    }
}
