//! The rendezvous store: a small key-value server that the ranks of a group meet at.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::error::{Result, c_name, check};
use crate::ffi;

/// A connection to a c10d `TCPStore`, seen through a prefix. Cheap to clone; clones share the connection,
/// which serves one request at a time.
///
/// A process serves one store for its whole life. Every generation of a group takes its own prefix, and
/// [`Store::clear`] removes the keys of one that is over.
#[derive(Debug, Clone)]
pub struct Store(Arc<Raw>);

#[derive(Debug)]
struct Raw(*mut ffi::Store);

// SAFETY: the pointer is owned, and c10d's stores lock around every operation.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Store {
    /// Serves a store from this process and connects to it; port 0 picks a free one, which is returned.
    /// `timeout` bounds connecting and every wait for a key.
    pub fn serve(host: &str, port: u16, timeout: Duration) -> Result<(Store, u16)> {
        Store::tcp(host, port, true, timeout)
    }

    /// Connects to a store served elsewhere. `timeout` bounds connecting and every wait for a key.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Store> {
        Store::tcp(host, port, false, timeout).map(|(store, _)| store)
    }

    /// Likewise, until the order to abort: the store of a process that ended or stands still is not waited for.
    pub fn connect_until(abort: &AbortHandle, host: &str, port: u16, timeout: Duration) -> Result<Store> {
        let host = host.to_owned();
        abort.run("join-store", move || Store::connect(&host, port, timeout), drop)
    }

    fn tcp(host: &str, port: u16, serve: bool, timeout: Duration) -> Result<(Store, u16)> {
        let host = c_name(host)?;
        let (mut out, mut bound) = (null_mut(), 0);
        // SAFETY: a C string that outlives the call, and places for the results; `out` is ours on success.
        check(unsafe {
            ffi::cappa_store_tcp(host.as_ptr(), port, c_int::from(serve), millis(timeout), &mut out, &mut bound)
        })?;
        Ok((Store(Arc::new(Raw(out))), bound))
    }

    /// The same store seen under a further prefix.
    pub fn prefix(&self, prefix: &str) -> Result<Store> {
        let prefix = c_name(prefix)?;
        let mut out = null_mut();
        // SAFETY: our handle is alive, the string outlives the call; `out` is ours on success.
        check(unsafe { ffi::cappa_store_prefix(self.raw(), prefix.as_ptr(), &mut out) })?;
        Ok(Store(Arc::new(Raw(out))))
    }

    /// Sets a key.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = c_name(key)?;
        // SAFETY: our handle is alive; string and bytes outlive the call, which copies them.
        check(unsafe { ffi::cappa_store_set(self.raw(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// The value of a key; blocks until it is there, at most for the store's time limit.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let key = c_name(key)?;
        let (mut bytes, mut len) = (null_mut(), 0);
        // SAFETY: our handle is alive, the string outlives the call; on success `bytes` holds `len` bytes.
        check(unsafe { ffi::cappa_store_get(self.raw(), key.as_ptr(), &mut bytes, &mut len) })?;
        // SAFETY: as just received, and not freed yet.
        let value = unsafe { std::slice::from_raw_parts(bytes, len) }.to_vec();
        // SAFETY: frees what cappa_store_get gave, once.
        unsafe { ffi::cappa_bytes_free(bytes) };
        Ok(value)
    }

    /// Adds to the counter of a key, which starts at 0, and gives the sum.
    pub fn add(&self, key: &str, by: i64) -> Result<i64> {
        let key = c_name(key)?;
        let mut sum = 0;
        // SAFETY: our handle is alive, the string outlives the call.
        check(unsafe { ffi::cappa_store_add(self.raw(), key.as_ptr(), by, &mut sum) })?;
        Ok(sum)
    }

    /// Blocks until the key is there, at most for `timeout`.
    pub fn wait(&self, key: &str, timeout: Duration) -> Result<()> {
        let key = c_name(key)?;
        // SAFETY: our handle is alive, the string outlives the call.
        check(unsafe { ffi::cappa_store_wait(self.raw(), key.as_ptr(), millis(timeout)) })
    }

    /// Deletes every key under this store's prefix and gives their number.
    pub fn clear(&self) -> Result<usize> {
        let mut deleted = 0;
        // SAFETY: our handle is alive.
        check(unsafe { ffi::cappa_store_clear(self.raw(), &mut deleted) })?;
        Ok(deleted)
    }

    pub(crate) fn raw(&self) -> *mut ffi::Store {
        self.0.0
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and this is its last use.
        unsafe { ffi::cappa_store_free(self.0) }
    }
}

/// Whole milliseconds, at least one: the engine reads 0 as "no limit" in places.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}
