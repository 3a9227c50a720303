//! Data-parallel gradients: c10d's reducer, which DDP is made of.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Arc;

use tch::{Device, Tensor};

use crate::error::{Error, Result, c_count, check};
use crate::ffi::{self, raws};
use crate::group::{Group, RawGroup};
use crate::watchdog::{Armed, Watchdog};

/// The type that gradients travel in between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    /// Their own.
    #[default]
    Full,
    /// bfloat16: half the bytes, about three significant digits.
    BFloat16,
}

/// How a [`Reducer`] works; the defaults are DDP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReducerOptions {
    /// Size of the buckets that gradients are reduced in.
    pub bucket_bytes: usize,
    /// Size of the first bucket, small so that reducing starts early in the backward pass.
    pub first_bucket_bytes: usize,
    /// Needed when a backward pass may leave a parameter without a gradient; walks the graph each step.
    /// All ranks must then name the outputs in [`Reducer::prepare_backward`].
    pub find_unused: bool,
    /// Lets `grad()` of each parameter be a view of its bucket, which saves a copy and its memory. Zero such
    /// gradients in place; never detach or replace them.
    pub gradient_as_bucket_view: bool,
    /// The type that gradients travel in.
    pub wire: Wire,
}

impl Default for ReducerOptions {
    fn default() -> Self {
        ReducerOptions {
            bucket_bytes: 25 << 20,
            first_bucket_bytes: 1 << 20,
            find_unused: false,
            gradient_as_bucket_view: true,
            wire: Wire::Full,
        }
    }
}

/// Averages gradients over the ranks of a group, bucket by bucket, while the backward pass still runs (Li et
/// al., "PyTorch Distributed", arXiv 2006.15704).
///
/// A step is [`prepare_forward`](Reducer::prepare_forward), the forward pass,
/// [`prepare_backward`](Reducer::prepare_backward), `backward`, [`finish`](Reducer::finish). Backward passes
/// outside this bracket only add to the local gradients, which accumulates micro-batches; the last one of
/// a step goes inside.
///
/// The average is over ranks, each with weight one. To get the mean over all examples when ranks hold
/// different numbers, let the local loss be `size · Σ losses / global count`.
///
/// It belongs to its group: after a loss build another one on the new group.
#[derive(Debug)]
pub struct Reducer {
    raw: *mut ffi::Reducer,
    group: Arc<RawGroup>,
    watchdog: Option<Arc<Watchdog>>,
    armed: Option<Armed>,
    device: Device,
}

// SAFETY: the pointer is owned, and c10d's reducer is not bound to the thread that made it.
unsafe impl Send for Reducer {}

impl Reducer {
    /// A reducer of the parameters' gradients. All ranks call it at once, with parameters of the same shapes
    /// in the same order (which is verified) and the same values (which is not: broadcast them first).
    pub fn new(group: &Group, params: &[Tensor], options: ReducerOptions) -> Result<Reducer> {
        let device = params.first().map_or(Device::Cpu, Tensor::device);
        let options = ffi::ReducerOptions {
            bucket_bytes: i64::from(c_count(options.bucket_bytes)?),
            first_bucket_bytes: i64::from(c_count(options.first_bucket_bytes)?),
            find_unused: c_int::from(options.find_unused),
            gradient_as_bucket_view: c_int::from(options.gradient_as_bucket_view),
            bf16_wire: c_int::from(options.wire == Wire::BFloat16),
        };
        let watchdog = group.watchdog().cloned();
        let raw_group = group.raw_group().clone();
        let (n, list) = (c_count(params.len())?, raws(params));
        let mut raw = null_mut();
        let _limit = watchdog.as_ref().map(Watchdog::arm);
        // SAFETY: the group and `n` parameters are alive for the call, which takes references of its own.
        let code = unsafe { ffi::cappa_reducer_new(raw_group.as_ptr(), list.as_ptr(), n, &options, &mut raw) };
        check(code).map_err(|error| raw_group.failure().unwrap_or(error))?;
        Ok(Reducer { raw, group: raw_group, watchdog, armed: None, device })
    }

    /// Comes before the forward pass of a step.
    pub fn prepare_forward(&mut self) -> Result<()> {
        // SAFETY: the reducer is alive.
        let code = unsafe { ffi::cappa_reducer_prepare_forward(self.raw) };
        self.explain(check(code))
    }

    /// Comes between the forward pass, which gave `outputs` (the loss), and `backward`.
    pub fn prepare_backward(&mut self, outputs: &[&Tensor]) -> Result<()> {
        self.armed = self.watchdog.as_ref().map(Watchdog::arm);
        let (n, outputs) = (c_count(outputs.len())?, raws(outputs));
        // SAFETY: the reducer and the `n` outputs are alive for the call.
        let code = unsafe { ffi::cappa_reducer_prepare_backward(self.raw, outputs.as_ptr(), n) };
        self.explain(check(code))
    }

    /// Comes after `backward`, whose outcome it takes: a lost peer surfaces as an error of `backward`, and
    /// is told from an error of libtorch here. On success the gradients are averaged and may be used; on
    /// failure they are worth nothing.
    pub fn finish(&mut self, backward: std::result::Result<(), tch::TchError>) -> Result<()> {
        let outcome = backward
            .map_err(|error| Error::Torch(first_line(&error.to_string())))
            // SAFETY: the reducer is alive.
            .and_then(|()| check(unsafe { ffi::cappa_reducer_finish(self.raw) }))
            // An aborted NCCL reduction need not fail backward, so the device is asked before anyone
            // updates parameters with what it left.
            .and_then(|()| self.group.synchronize(self.device));
        self.armed = None;
        self.explain(outcome)
    }

    /// A whole step: `forward` gives the loss, a 0-dimensional tensor, which is returned.
    pub fn step(&mut self, forward: impl FnOnce() -> Tensor) -> Result<Tensor> {
        self.prepare_forward()?;
        let loss = forward();
        self.prepare_backward(&[&loss])?;
        let backward = loss.f_backward();
        self.finish(backward)?;
        Ok(loss)
    }

    /// Errors of libtorch in the wake of a failed group are the group's.
    fn explain(&self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(Error::Torch(message)) => Err(match self.group.failure() {
                Some(Error::Collective(_)) => Error::Collective(message),
                Some(other) => other,
                None => Error::Torch(message),
            }),
            other => other,
        }
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and this is its last use.
        unsafe { ffi::cappa_reducer_free(self.raw) }
    }
}

/// libtorch appends C++ stacks to its messages.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}
