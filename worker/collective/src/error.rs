//! What can fail, and how the shim's codes and messages become it.

use std::ffi::{CStr, CString, c_int};

use crate::ffi;

/// A failure of the engine. [`Error::is_group_lost`] tells a lost group from everything else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The group was aborted, by this process or by the caller's own order.
    #[error("the group was aborted; form a new one")]
    Aborted,
    /// A peer is gone, or an operation or the forming of a group outlasted its limit.
    #[error("collective failed, form a new group: {0}")]
    Collective(String),
    /// The rendezvous store failed or a key did not come in time.
    #[error("rendezvous store failed: {0}")]
    Store(String),
    /// The rendezvous store could not be reached or listened on.
    #[error("rendezvous store out of reach: {0}")]
    Network(String),
    /// libtorch refused an operation (shapes, types, memory): a fault of the caller, not of a peer.
    #[error("libtorch failed: {0}")]
    Torch(String),
    /// A CUDA library or the plug-in could not be used.
    #[error("cannot use CUDA: {0}")]
    Cuda(String),
    /// A name given to the engine holds a NUL byte.
    #[error("name {0:?} must not hold a NUL byte")]
    Name(String),
    /// A length or rank is too large for the engine's C interface.
    #[error("{0} is too large for the engine")]
    TooLarge(usize),
}

impl Error {
    /// Whether the cure is a new group (a peer or the store is gone) rather than a change of program or job.
    pub fn is_group_lost(&self) -> bool {
        matches!(self, Error::Aborted | Error::Collective(_) | Error::Store(_) | Error::Network(_))
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns a code of the shim into a result; the message is the calling thread's last.
pub(crate) fn check(code: c_int) -> Result<()> {
    if code == ffi::OK {
        return Ok(());
    }
    // SAFETY: the shim returns its thread-local string, which lives until this thread's next failure.
    let message = unsafe { CStr::from_ptr(ffi::cappa_last_error()) };
    let message = message.to_string_lossy().into_owned();
    Err(match code {
        ffi::COLLECTIVE => Error::Collective(message),
        ffi::STORE => Error::Store(message),
        ffi::NETWORK => Error::Network(message),
        ffi::ABORTED => Error::Aborted,
        _ => Error::Torch(message),
    })
}

pub(crate) fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::Name(name.to_owned()))
}

pub(crate) fn c_count(count: usize) -> Result<c_int> {
    c_int::try_from(count).map_err(|_| Error::TooLarge(count))
}
