//! The C surface of `shim/`. Every function returns a code of [`OK`] and its siblings unless it says
//! otherwise; tensors are `at::Tensor*` borrowed from tch.

use std::borrow::Borrow;
use std::ffi::{c_char, c_int, c_void};

use tch::Tensor;

pub(crate) const OK: c_int = 0;
pub(crate) const COLLECTIVE: c_int = 2;
pub(crate) const STORE: c_int = 3;
pub(crate) const NETWORK: c_int = 4;
pub(crate) const ABORTED: c_int = 5;

pub(crate) type List = *const *mut c_void;

#[repr(C)]
pub(crate) struct Store(());
#[repr(C)]
pub(crate) struct Group(());
#[repr(C)]
pub(crate) struct Reducer(());

/// `cappa_reducer_options` of `shim/reducer.cc`.
#[repr(C)]
pub(crate) struct ReducerOptions {
    pub(crate) bucket_bytes: i64,
    pub(crate) first_bucket_bytes: i64,
    pub(crate) find_unused: c_int,
    pub(crate) gradient_as_bucket_view: c_int,
    pub(crate) bf16_wire: c_int,
}

unsafe extern "C" {
    pub(crate) fn cappa_last_error() -> *const c_char;
    pub(crate) fn cappa_quiet();

    pub(crate) fn cappa_store_tcp(
        host: *const c_char,
        port: u16,
        is_server: c_int,
        timeout_ms: i64,
        out: *mut *mut Store,
        bound: *mut u16,
    ) -> c_int;
    pub(crate) fn cappa_store_prefix(s: *const Store, prefix: *const c_char, out: *mut *mut Store) -> c_int;
    pub(crate) fn cappa_store_set(s: *mut Store, key: *const c_char, value: *const u8, len: usize) -> c_int;
    pub(crate) fn cappa_store_get(s: *mut Store, key: *const c_char, value: *mut *mut u8, len: *mut usize) -> c_int;
    pub(crate) fn cappa_store_add(s: *mut Store, key: *const c_char, by: i64, sum: *mut i64) -> c_int;
    pub(crate) fn cappa_store_wait(s: *mut Store, key: *const c_char, timeout_ms: i64) -> c_int;
    pub(crate) fn cappa_store_clear(s: *mut Store, deleted: *mut usize) -> c_int;
    pub(crate) fn cappa_store_free(s: *mut Store);
    pub(crate) fn cappa_bytes_free(bytes: *mut u8);

    pub(crate) fn cappa_group_gloo(
        s: *const Store,
        rank: c_int,
        size: c_int,
        host: *const c_char,
        form_ms: i64,
        operation_ms: i64,
        out: *mut *mut Group,
    ) -> c_int;
    /// The group's `c10d::Store*`, borrowed.
    pub(crate) fn cappa_group_store(g: *mut Group) -> *mut c_void;
    pub(crate) fn cappa_group_add_cuda(g: *mut Group, backend: *mut c_void) -> c_int;
    pub(crate) fn cappa_group_all_reduce(g: *mut Group, tensor: *mut c_void, op: c_int) -> c_int;
    pub(crate) fn cappa_group_broadcast(g: *mut Group, tensor: *mut c_void, root: c_int) -> c_int;
    pub(crate) fn cappa_group_broadcast_all(
        g: *mut Group,
        list: List,
        n: c_int,
        bucket_bytes: usize,
        root: c_int,
    ) -> c_int;
    pub(crate) fn cappa_group_all_gather(g: *mut Group, tensor: *mut c_void, outs: List, n: c_int) -> c_int;
    pub(crate) fn cappa_group_barrier(g: *mut Group) -> c_int;
    pub(crate) fn cappa_group_abort(g: *mut Group) -> c_int;
    pub(crate) fn cappa_group_synchronize(g: *mut Group, index: c_int) -> c_int;
    /// 0: sound, 1: an operation failed, 2: aborted.
    pub(crate) fn cappa_group_state(g: *const Group) -> c_int;
    pub(crate) fn cappa_group_free(g: *mut Group);

    pub(crate) fn cappa_reducer_new(
        g: *mut Group,
        params: List,
        n: c_int,
        options: *const ReducerOptions,
        out: *mut *mut Reducer,
    ) -> c_int;
    pub(crate) fn cappa_reducer_prepare_forward(r: *mut Reducer) -> c_int;
    pub(crate) fn cappa_reducer_prepare_backward(r: *mut Reducer, outputs: List, n: c_int) -> c_int;
    pub(crate) fn cappa_reducer_finish(r: *mut Reducer) -> c_int;
    pub(crate) fn cappa_reducer_free(r: *mut Reducer);

    pub(crate) fn cappa_adamw(
        params: List,
        grads: List,
        m: List,
        v: List,
        steps: List,
        n: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
    pub(crate) fn cappa_joint_norm(list: List, n: c_int, norm: *mut *mut c_void) -> c_int;
    pub(crate) fn cappa_clip_norm(list: List, n: c_int, max_norm: f64, norm: *mut *mut c_void) -> c_int;
    pub(crate) fn cappa_zero(a: List, n: c_int) -> c_int;
    pub(crate) fn cappa_drop_grads(a: List, n: c_int) -> c_int;
    pub(crate) fn cappa_add_scalar(a: List, n: c_int, b: f64) -> c_int;
    pub(crate) fn cappa_mul_scalar(a: List, n: c_int, b: f64) -> c_int;
    pub(crate) fn cappa_mul_tensor(a: List, n: c_int, b: *mut c_void) -> c_int;
    pub(crate) fn cappa_clamp_max_scalar(a: List, n: c_int, b: f64) -> c_int;
    pub(crate) fn cappa_clamp_min_scalar(a: List, n: c_int, b: f64) -> c_int;
    pub(crate) fn cappa_sqrt(a: List, n: c_int) -> c_int;
    pub(crate) fn cappa_rsqrt(a: List, n: c_int) -> c_int;
    pub(crate) fn cappa_reciprocal(a: List, n: c_int) -> c_int;
    pub(crate) fn cappa_add(a: List, b: List, n: c_int, alpha: f64) -> c_int;
    pub(crate) fn cappa_mul(a: List, b: List, n: c_int) -> c_int;
    pub(crate) fn cappa_div(a: List, b: List, n: c_int) -> c_int;
    pub(crate) fn cappa_lerp(a: List, b: List, n: c_int, weight: f64) -> c_int;
    pub(crate) fn cappa_copy(a: List, b: List, n: c_int) -> c_int;
    pub(crate) fn cappa_addcmul(a: List, b: List, c: List, n: c_int, value: f64) -> c_int;
    pub(crate) fn cappa_addcdiv(a: List, b: List, c: List, n: c_int, value: f64) -> c_int;
    pub(crate) fn cappa_norms(a: List, n: c_int, out: *mut *mut c_void) -> c_int;
    pub(crate) fn cappa_products(a: List, b: List, n: c_int, out: *mut *mut c_void) -> c_int;
    pub(crate) fn cappa_autocast_enter(device_type: c_int, dtype: c_int, before: *mut [c_int; 2]) -> c_int;
    pub(crate) fn cappa_autocast_leave(device_type: c_int, before: *const [c_int; 2]) -> c_int;
    pub(crate) fn cappa_matmul_precision(precision: *const c_char) -> c_int;
    pub(crate) fn cappa_device_memory(device_type: c_int, index: c_int, reset_peak: c_int, out: *mut [i64; 3])
    -> c_int;
    pub(crate) fn cappa_copy_async(dst: *mut c_void, src: *const c_void) -> c_int;
}

/// The tensor as the shim takes it: borrowed, valid while `tensor` lives.
pub(crate) fn raw(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

/// A list as the shim takes it: each element valid while its tensor lives.
pub(crate) fn raws<T: Borrow<Tensor>>(tensors: &[T]) -> Vec<*mut c_void> {
    tensors.iter().map(|tensor| raw(tensor.borrow())).collect()
}
