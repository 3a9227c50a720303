//! Operators on whole lists of tensors (one call, and on CUDA a few kernels, for all parameters), and
//! settings of libtorch that tch leaves out.
//!
//! Operators whose name ends in `_` write in place, behind autograd's back. Lists of one call have one
//! length and pairwise equal shapes, and their tensors live on one device; an empty list is a no-op.

use std::borrow::Borrow;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, c_count, c_name, check};
use crate::ffi::{self, List, raw, raws};

/// Hyper-parameters of one [`adamw_`] update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rates of the first and second moments.
    pub betas: (f64, f64),
    /// Decoupled weight decay, multiplied by `lr`.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// State of [`adamw_`]: for each parameter its moments (of the parameter's shape) and its step count (a
/// 0-dimensional float tensor on the parameter's device).
#[derive(Debug, Clone, Copy)]
pub struct AdamWState<'a> {
    /// First moments.
    pub m: &'a [Tensor],
    /// Second moments.
    pub v: &'a [Tensor],
    /// Updates made so far.
    pub steps: &'a [Tensor],
}

/// One AdamW update (Loshchilov and Hutter, arXiv 1711.05101) of all parameters, fused.
pub fn adamw_<P: Borrow<Tensor>, G: Borrow<Tensor>>(
    params: &[P],
    grads: &[G],
    state: AdamWState<'_>,
    options: &AdamW,
) -> Result<()> {
    let n = lists([params.len(), grads.len(), state.m.len(), state.v.len(), state.steps.len()])?;
    let (params, grads) = (raws(params), raws(grads));
    let (m, v, steps) = (raws(state.m), raws(state.v), raws(state.steps));
    // SAFETY: five lists of `n` tensors, all borrowed for the call.
    check(unsafe {
        ffi::cappa_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            steps.as_ptr(),
            n,
            options.lr,
            options.betas.0,
            options.betas.1,
            options.weight_decay,
            options.eps,
        )
    })
}

/// The Euclidean norm of all elements of the (non-empty) list: a 0-dimensional float tensor on its device.
pub fn joint_norm<T: Borrow<Tensor>>(list: &[T]) -> Result<Tensor> {
    let (n, list) = (c_count(list.len())?, raws(list));
    let mut norm = null_mut();
    // SAFETY: `n` borrowed tensors; on success `norm` is a new tensor that is ours.
    check(unsafe { ffi::cappa_joint_norm(list.as_ptr(), n, &mut norm) })?;
    Ok(own(norm))
}

/// Scales the (non-empty) list to a joint norm of at most `max_norm` and gives the norm it had, on its
/// device: the host does not wait.
pub fn clip_norm_<T: Borrow<Tensor>>(list: &[T], max_norm: f64) -> Result<Tensor> {
    let (n, list) = (c_count(list.len())?, raws(list));
    let mut norm = null_mut();
    // SAFETY: `n` borrowed tensors; on success `norm` is a new tensor that is ours.
    check(unsafe { ffi::cappa_clip_norm(list.as_ptr(), n, max_norm, &mut norm) })?;
    Ok(own(norm))
}

/// The Euclidean norm of each tensor, as 0-dimensional float tensors.
pub fn norms<T: Borrow<Tensor>>(list: &[T]) -> Result<Vec<Tensor>> {
    let (n, list) = (c_count(list.len())?, raws(list));
    let mut out = vec![null_mut(); list.len()];
    // SAFETY: `n` borrowed tensors and room for as many; on success each of `out` is ours.
    check(unsafe { ffi::cappa_norms(list.as_ptr(), n, out.as_mut_ptr()) })?;
    Ok(out.into_iter().map(own).collect())
}

/// `a * b`, pairwise, as new tensors; `products(g, g)` squares.
pub fn products<A: Borrow<Tensor>, B: Borrow<Tensor>>(a: &[A], b: &[B]) -> Result<Vec<Tensor>> {
    let n = lists([a.len(), b.len()])?;
    let (a, b) = (raws(a), raws(b));
    let mut out = vec![null_mut(); a.len()];
    // SAFETY: two lists of `n` borrowed tensors and room for as many; on success each of `out` is ours.
    check(unsafe { ffi::cappa_products(a.as_ptr(), b.as_ptr(), n, out.as_mut_ptr()) })?;
    Ok(out.into_iter().map(own).collect())
}

macro_rules! one_list {
    ($($(#[$doc:meta])* $name:ident => $ffi:ident($($arg:ident: $kind:ty),*);)*) => {$(
        $(#[$doc])*
        pub fn $name<T: Borrow<Tensor>>(a: &[T] $(, $arg: $kind)*) -> Result<()> {
            let (n, a) = (c_count(a.len())?, raws(a));
            if n == 0 {
                return Ok(());
            }
            // SAFETY: `n` tensors, borrowed for the call.
            check(unsafe { ffi::$ffi(a.as_ptr(), n $(, $arg)*) })
        }
    )*};
}

one_list! {
    /// `a = 0`.
    zero_ => cappa_zero();
    /// Forgets the gradients of leaf tensors: the next backward pass makes new ones and adds to none.
    drop_grads_ => cappa_drop_grads();
    /// `a += b`.
    add_scalar_ => cappa_add_scalar(b: f64);
    /// `a *= b`.
    mul_scalar_ => cappa_mul_scalar(b: f64);
    /// `a = min(a, b)`.
    clamp_max_ => cappa_clamp_max_scalar(b: f64);
    /// `a = max(a, b)`.
    clamp_min_ => cappa_clamp_min_scalar(b: f64);
    /// `a = √a`.
    sqrt_ => cappa_sqrt();
    /// `a = 1 / √a`.
    rsqrt_ => cappa_rsqrt();
    /// `a = 1 / a`.
    reciprocal_ => cappa_reciprocal();
}

/// `a *= b`, with `b` a 0-dimensional tensor on the list's device: the host does not wait for its value.
pub fn mul_tensor_<T: Borrow<Tensor>>(a: &[T], b: &Tensor) -> Result<()> {
    let (n, a) = (c_count(a.len())?, raws(a));
    if n == 0 {
        return Ok(());
    }
    // SAFETY: `n` tensors and `b`, borrowed for the call.
    check(unsafe { ffi::cappa_mul_tensor(a.as_ptr(), n, raw(b)) })
}

/// `a += alpha * b`.
pub fn add_<A: Borrow<Tensor>, B: Borrow<Tensor>>(a: &[A], b: &[B], alpha: f64) -> Result<()> {
    // SAFETY: `two` passes lists of one length, borrowed for the call.
    two(a, b, |a, b, n| unsafe { ffi::cappa_add(a, b, n, alpha) })
}

/// `a *= b`.
pub fn mul_<A: Borrow<Tensor>, B: Borrow<Tensor>>(a: &[A], b: &[B]) -> Result<()> {
    // SAFETY: `two` passes lists of one length, borrowed for the call.
    two(a, b, |a, b, n| unsafe { ffi::cappa_mul(a, b, n) })
}

/// `a /= b`.
pub fn div_<A: Borrow<Tensor>, B: Borrow<Tensor>>(a: &[A], b: &[B]) -> Result<()> {
    // SAFETY: `two` passes lists of one length, borrowed for the call.
    two(a, b, |a, b, n| unsafe { ffi::cappa_div(a, b, n) })
}

/// `a += weight * (b - a)`: an exponential moving average of decay `1 - weight`.
pub fn lerp_<A: Borrow<Tensor>, B: Borrow<Tensor>>(a: &[A], b: &[B], weight: f64) -> Result<()> {
    // SAFETY: `two` passes lists of one length, borrowed for the call.
    two(a, b, |a, b, n| unsafe { ffi::cappa_lerp(a, b, n, weight) })
}

/// `a = b`, converting types.
pub fn copy_<A: Borrow<Tensor>, B: Borrow<Tensor>>(a: &[A], b: &[B]) -> Result<()> {
    // SAFETY: `two` passes lists of one length, borrowed for the call.
    two(a, b, |a, b, n| unsafe { ffi::cappa_copy(a, b, n) })
}

/// `a += value * b * c`.
pub fn addcmul_(a: &[Tensor], b: &[Tensor], c: &[Tensor], value: f64) -> Result<()> {
    let n = lists([a.len(), b.len(), c.len()])?;
    let (a, b, c) = (raws(a), raws(b), raws(c));
    // SAFETY: three lists of `n` tensors, borrowed for the call.
    check(unsafe { ffi::cappa_addcmul(a.as_ptr(), b.as_ptr(), c.as_ptr(), n, value) })
}

/// `a += value * b / c`.
pub fn addcdiv_(a: &[Tensor], b: &[Tensor], c: &[Tensor], value: f64) -> Result<()> {
    let n = lists([a.len(), b.len(), c.len()])?;
    let (a, b, c) = (raws(a), raws(b), raws(c));
    // SAFETY: three lists of `n` tensors, borrowed for the call.
    check(unsafe { ffi::cappa_addcdiv(a.as_ptr(), b.as_ptr(), c.as_ptr(), n, value) })
}

/// While it lives, matrix products and the like of this thread compute in a reduced type; numerically
/// delicate operators stay in float, and parameters keep theirs. Leave before `backward`.
#[derive(Debug)]
pub struct Autocast {
    device_type: c_int,
    before: [c_int; 2],
    /// libtorch keeps the setting per thread, so the guard stays on its own.
    this_thread: PhantomData<*const ()>,
}

impl Autocast {
    /// Enters autocast to `Kind::BFloat16` or `Kind::Half` for operators on `device`.
    pub fn enter(device: Device, kind: Kind) -> Result<Autocast> {
        let dtype = match kind {
            Kind::Half => 5, // values of c10::ScalarType
            Kind::BFloat16 => 15,
            other => {
                return Err(Error::Torch(format!("autocast to {other:?} is not supported, use BFloat16 or Half")));
            }
        };
        let (device_type, _) = device_code(device)?;
        let mut before = [0; 2];
        // SAFETY: writes two integers.
        check(unsafe { ffi::cappa_autocast_enter(device_type, dtype, &mut before) })?;
        Ok(Autocast { device_type, before, this_thread: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: reads the two integers that entering wrote. It fails for device types libtorch does not
        // know, which entering has ruled out.
        unsafe { ffi::cappa_autocast_leave(self.device_type, &self.before) };
    }
}

/// Runs `f` under [`Autocast`].
pub fn autocast<T>(device: Device, kind: Kind, f: impl FnOnce() -> T) -> Result<T> {
    let _guard = Autocast::enter(device, kind)?;
    Ok(f())
}

/// How float matrix products compute where the hardware has faster, coarser ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// Full float.
    Highest,
    /// TF32 on CUDA.
    High,
    /// bfloat16 where available.
    Medium,
}

/// Sets the precision of float matrix products for the whole process.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<()> {
    let name = c_name(match precision {
        MatmulPrecision::Highest => "highest",
        MatmulPrecision::High => "high",
        MatmulPrecision::Medium => "medium",
    })?;
    // SAFETY: a NUL-terminated string that outlives the call.
    check(unsafe { ffi::cappa_matmul_precision(name.as_ptr()) })
}

/// What the caching allocator of a device holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In live tensors now.
    pub allocated: u64,
    /// The most in live tensors since the peak was last reset.
    pub peak: u64,
    /// Taken from the device, in use or cached.
    pub reserved: u64,
}

/// Memory statistics of a CUDA device; `reset_peak` starts the peak anew. The CPU keeps none.
pub fn device_memory(device: Device, reset_peak: bool) -> Result<DeviceMemory> {
    let (device_type, index) = device_code(device)?;
    let mut out = [0; 3];
    // SAFETY: writes three integers.
    check(unsafe { ffi::cappa_device_memory(device_type, index, c_int::from(reset_peak), &mut out) })?;
    let [allocated, peak, reserved] = out.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    Ok(DeviceMemory { allocated, peak, reserved })
}

/// Copies between pinned host memory and a device on a side stream, after what the current stream has
/// queued so far; what it queues later waits for the copy, the host does not. Between host tensors it is
/// a plain copy. Reading `dst` on the host needs a synchronisation first.
pub fn copy_async(dst: &Tensor, src: &Tensor) -> Result<()> {
    // SAFETY: both tensors are borrowed for the call; libtorch's allocators keep their memory until the
    // copy has run even if they are dropped before.
    check(unsafe { ffi::cappa_copy_async(raw(dst), raw(src)) })
}

fn two<A: Borrow<Tensor>, B: Borrow<Tensor>>(
    a: &[A],
    b: &[B],
    f: impl FnOnce(List, List, c_int) -> c_int,
) -> Result<()> {
    let n = lists([a.len(), b.len()])?;
    if n == 0 {
        return Ok(());
    }
    let (a, b) = (raws(a), raws(b));
    check(f(a.as_ptr(), b.as_ptr(), n))
}

/// The common length of the lists of one call.
fn lists<const N: usize>(lengths: [usize; N]) -> Result<c_int> {
    if lengths.iter().any(|length| *length != lengths[0]) {
        return Err(Error::Torch(format!("lists of one call must have one length, not {lengths:?}")));
    }
    c_count(lengths[0])
}

/// `c10::DeviceType` and index.
fn device_code(device: Device) -> Result<(c_int, c_int)> {
    match device {
        Device::Cpu => Ok((0, 0)),
        Device::Cuda(index) => Ok((1, c_count(index)?)),
        other => Err(Error::Torch(format!("{other:?} is not supported"))),
    }
}

fn own(tensor: *mut c_void) -> Tensor {
    // SAFETY: the shim gave us this at::Tensor*, made by `new`, which is how tch frees its own.
    unsafe { Tensor::from_ptr(tensor.cast()) }
}

/// Lets the process keep the memory that it frees. By default glibc returns large blocks to the kernel at once;
/// every training step on the CPU then takes page faults for the same activations again, which cost up to a
/// quarter of the step. Elsewhere than on glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, c_int::MAX);
    }
}
