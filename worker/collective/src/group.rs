//! Process groups: ranks that compute together.

use std::borrow::Borrow;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Tensor};

use crate::abort::AbortHandle;
use crate::error::{Error, Result, c_count, c_name, check};
use crate::ffi::{self, raw, raws};
use crate::store::{Store, millis};
use crate::watchdog::Watchdog;

/// Bytes that [`Group::broadcast_all`] sends at once, as DDP does when it synchronises a model.
const BROADCAST_BUCKET: usize = 250 << 20;

/// How long a group may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For all ranks to find and connect to each other. Short, since a peer lost meanwhile is noticed by
    /// this limit or an abort only.
    pub form: Duration,
    /// For each operation. May be long, where somebody orders aborts when a peer hangs.
    pub operation: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { form: Duration::from_secs(10), operation: Duration::from_secs(60) }
    }
}

/// This process's place in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// From 0; each rank once.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// The local address at which the peers reach this process.
    pub host: &'a str,
}

/// How [`Group::all_reduce`] combines the ranks' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Sum.
    Sum = 0,
    /// Sum divided by the number of ranks; for floating-point tensors.
    Avg = 1,
    /// Least.
    Min = 2,
    /// Greatest.
    Max = 3,
}

/// Ranks that compute together: every rank calls the same operations in the same order, with tensors of the
/// same shapes and types. An operation blocks until it is done on this rank.
///
/// A lost peer fails the operation in flight ([`Error::is_group_lost`]); the cure is a new group under a new
/// prefix of the store. An operation can outlive the loss by its whole time limit when the peer hangs
/// instead of dying, and now and then when it dies in mid-send, so have whoever learns of a loss abort the
/// group on all survivors.
#[derive(Debug)]
pub struct Group {
    raw: Arc<RawGroup>,
    abort: AbortHandle,
    watchdog: Option<Arc<Watchdog>>,
    rank: usize,
    size: usize,
}

/// The shim's group, freed with the last group, reducer or abort that uses it.
#[derive(Debug)]
pub(crate) struct RawGroup(*mut ffi::Group);

// SAFETY: the pointer is owned; process groups may be used and freed on any thread.
unsafe impl Send for RawGroup {}
// SAFETY: the shim serialises operations and abort with its own lock.
unsafe impl Sync for RawGroup {}

impl Group {
    /// Connects to all peers over Gloo, for CPU tensors; all ranks call it with one prefix of one store,
    /// which no other group has used. `abort` ends the wait for peers too.
    pub fn gloo(store: &Store, member: Member<'_>, timeouts: Timeouts, abort: &AbortHandle) -> Result<Group> {
        let raw = abort.form(form_gloo(store, member, timeouts)?)?;
        Ok(Group::new(raw, member, abort, None))
    }

    pub(crate) fn new(
        raw: Arc<RawGroup>,
        member: Member<'_>,
        abort: &AbortHandle,
        watchdog: Option<Arc<Watchdog>>,
    ) -> Group {
        Group { raw, abort: abort.clone(), watchdog, rank: member.rank, size: member.size }
    }

    /// This process's rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Combines the tensors of all ranks; each ends with the result, in place.
    pub fn all_reduce(&self, tensor: &Tensor, op: Op) -> Result<()> {
        self.timed(tensor.device(), || {
            // SAFETY: group and tensor are alive for the call.
            check(unsafe { ffi::cappa_group_all_reduce(self.raw.0, raw(tensor), op as c_int) })
        })
    }

    /// Gives all ranks the root's values, in place.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        let root = self.root(root)?;
        self.timed(tensor.device(), || {
            // SAFETY: group and tensor are alive for the call.
            check(unsafe { ffi::cappa_group_broadcast(self.raw.0, raw(tensor), root) })
        })
    }

    /// Gives all ranks the root's values of a list of tensors on one device, in place, whatever their types
    /// (parameters, optimizer state): small tensors travel together.
    pub fn broadcast_all<T: Borrow<Tensor>>(&self, tensors: &[T], root: usize) -> Result<()> {
        let root = self.root(root)?;
        let Some(first) = tensors.first() else {
            return Ok(());
        };
        let (n, list) = (c_count(tensors.len())?, raws(tensors));
        self.timed(first.borrow().device(), || {
            // SAFETY: the group and `n` tensors are alive for the call.
            check(unsafe { ffi::cappa_group_broadcast_all(self.raw.0, list.as_ptr(), n, BROADCAST_BUCKET, root) })
        })
    }

    /// The tensors of all ranks, by rank; all of one shape and type.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        let gathered: Vec<Tensor> = (0..self.size).map(|_| tensor.zeros_like()).collect();
        let (n, outs) = (c_count(self.size)?, raws(&gathered));
        self.timed(tensor.device(), || {
            // SAFETY: group, tensor and the `n` results are alive for the call.
            check(unsafe { ffi::cappa_group_all_gather(self.raw.0, raw(tensor), outs.as_ptr(), n) })
        })?;
        Ok(gathered)
    }

    /// Returns when all ranks have called it.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: the group is alive for the call.
        check(unsafe { ffi::cappa_group_barrier(self.raw.0) })
    }

    /// Ends the group: whatever is in flight fails, here and on the peers. Callable from any thread.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// What [`Group::abort`] acts on, for a thread that should not keep the group alive.
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// The error of a group that is of no more use: aborted, or with a failed operation.
    pub fn failure(&self) -> Option<Error> {
        self.raw.failure()
    }

    pub(crate) fn raw_group(&self) -> &Arc<RawGroup> {
        &self.raw
    }

    pub(crate) fn watchdog(&self) -> Option<&Arc<Watchdog>> {
        self.watchdog.as_ref()
    }

    fn root(&self, root: usize) -> Result<c_int> {
        if root >= self.size {
            return Err(Error::Torch(format!("root {root} is not a rank of a group of {}", self.size)));
        }
        c_count(root)
    }

    /// Runs an operation; on CUDA, where it is merely queued, waits for it under the watchdog.
    fn timed(&self, device: Device, operation: impl FnOnce() -> Result<()>) -> Result<()> {
        let _limit = self.watchdog.as_ref().map(Watchdog::arm);
        operation()?;
        self.raw.synchronize(device)
    }
}

impl RawGroup {
    /// # Safety
    /// `group` is a `cappa_group` that nobody else owns.
    pub(crate) unsafe fn own(group: *mut ffi::Group) -> RawGroup {
        RawGroup(group)
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::Group {
        self.0
    }

    /// The `c10d::Store*` the group was formed through, for the plug-in.
    pub(crate) fn store(&self) -> *mut c_void {
        // SAFETY: the group is alive; the store lives as long.
        unsafe { ffi::cappa_group_store(self.0) }
    }

    pub(crate) fn abort(&self) {
        // SAFETY: the group is alive. The call fails only where there is nothing left to end.
        unsafe { ffi::cappa_group_abort(self.0) };
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        // SAFETY: the group is alive.
        match unsafe { ffi::cappa_group_state(self.0) } {
            0 => None,
            2 => Some(Error::Aborted),
            _ => Some(Error::Collective("an operation of the group failed".to_owned())),
        }
    }

    /// Waits for what is queued on a CUDA device and asks whether it went well.
    pub(crate) fn synchronize(&self, device: Device) -> Result<()> {
        let Device::Cuda(index) = device else {
            return Ok(());
        };
        let index = c_count(index)?;
        // SAFETY: the group is alive.
        check(unsafe { ffi::cappa_group_synchronize(self.0, index) })
    }
}

impl Drop for RawGroup {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and this is its last use.
        unsafe { ffi::cappa_group_free(self.0) }
    }
}

/// Forming over Gloo as a job for another thread.
pub(crate) fn form_gloo(
    store: &Store,
    member: Member<'_>,
    timeouts: Timeouts,
) -> Result<impl FnOnce() -> Result<RawGroup> + Send + 'static> {
    let (store, host) = (store.clone(), c_name(member.host)?);
    let (rank, size) = (c_count(member.rank)?, c_count(member.size)?);
    Ok(move || {
        let mut out = null_mut();
        // SAFETY: store and host are owned by this closure; on success `out` is ours.
        check(unsafe {
            ffi::cappa_group_gloo(
                store.raw(),
                rank,
                size,
                host.as_ptr(),
                millis(timeouts.form),
                millis(timeouts.operation),
                &mut out,
            )
        })?;
        // SAFETY: just made, and handed to nobody else.
        Ok(unsafe { RawGroup::own(out) })
    })
}
