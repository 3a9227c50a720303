//! PyTorch's distributed engine (c10d) for `tch` tensors: a rendezvous [`Store`], process [`Group`]s that can be
//! aborted and formed anew in a living process, and DDP's gradient [`Reducer`]. [`ops`] holds operators on lists
//! of tensors that tch does not bind. All unsafe code of the project is in this crate.
//!
//! The life of a worker:
//!
//! ```no_run
//! # use cappa_collective::*;
//! # use std::time::Duration;
//! # fn train(_: &Group) -> Result<()> { Ok(()) }
//! cappa_collective::init(); // first thing in main
//! let _cuda = Cuda::open()?; // before torch is used, or a thread started
//! let (store, _port) = Store::serve("0.0.0.0", 0, Duration::from_secs(10))?;
//! for generation in 0.. {
//!     let abort = AbortHandle::new(); // given to the thread that hears of lost peers
//!     let member = Member { rank: 0, size: 1, host: "127.0.0.1" };
//!     let prefix = store.prefix(&format!("generation-{generation}"))?;
//!     match Group::gloo(&prefix, member, Timeouts::default(), &abort).and_then(|group| train(&group)) {
//!         Err(lost) if lost.is_group_lost() => prefix.clear()?, // the next generation forms
//!         other => return other,
//!     };
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! # Building
//!
//! `LIBTORCH` names the `torch` folder of an unpacked wheel. A build script's rpath reaches only its own package,
//! so a crate whose programs or tests link this one needs a build script that passes the rpath on; as a direct
//! dependent it finds the folder in `DEP_CAPPA_COLLECTIVE_LIB`.
//!
//! The CUDA plug-in `libcappa_cuda.so` is built into the profile's folder (`target/release`) when the headers of
//! CUDA and NCCL are found, and skipped otherwise: in `$LIBTORCH/../nvidia`, where the wheels nvidia-cuda-runtime,
//! nvidia-cuda-crt, nvidia-cuda-cccl and nvidia-nccl-cu13 unpack to, or in the include folders that
//! `CAPPA_CUDA_INCLUDE` lists, separated by colons. Neither CUDA's libraries nor its compiler are needed.

mod abort;
mod cuda;
mod error;
mod ffi;
mod group;
pub mod ops;
mod reducer;
mod store;
mod watchdog;

pub use abort::AbortHandle;
pub use cuda::Cuda;
pub use error::{Error, Result};
pub use group::{Group, Member, Op, Timeouts};
pub use reducer::{Reducer, ReducerOptions, Wire};
pub use store::Store;

/// Quiets the engine: c10d logs C++ stacks to stderr whenever a peer is lost, which is business as usual here and
/// comes back as an [`Error`]. Call it first thing in `main`. A `TORCH_CPP_LOG_LEVEL` of the environment wins.
pub fn init() {
    // SAFETY: takes nothing and sets a level.
    unsafe { ffi::cappa_quiet() };
}

/// Ends the process, without the destructors that `std::process::exit` runs: threads that an abort left behind
/// may still be inside the engine, which must not be torn down under them. Write and flush everything before.
pub fn exit(code: u8) -> ! {
    // SAFETY: takes an integer and does not return; the system takes back all that the process has.
    unsafe { libc::_exit(i32::from(code)) }
}
