//! CUDA as found at run time. A program links only libtorch_cpu; where the installation has
//! `libtorch_cuda.so`, that is opened before the first use of torch, and our plug-in, which holds the NCCL
//! backend, after it. So one program serves machines with and without a GPU.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::error::{Error, Result, c_count, check};
use crate::ffi;
use crate::group::{Group, Member, RawGroup, Timeouts, form_gloo};
use crate::store::{Store, millis};
use crate::watchdog::Watchdog;

/// The plug-in, which the build leaves beside the program where it finds CUDA's headers.
const PLUGIN: &str = "libcappa_cuda.so";

/// Settings of c10d's NCCL backend, which reads them from the environment.
const NCCL_SETTINGS: [(&CStr, &CStr); 6] = [
    // 3, the default, ends the process when a peer is lost; 2 only ends the communicator.
    (c"TORCH_NCCL_ASYNC_ERROR_HANDLING", c"2"),
    // The monitor ends the process when NCCL hangs, which is what our own watchdog is for.
    (c"TORCH_NCCL_ENABLE_MONITORING", c"0"),
    (c"TORCH_NCCL_DUMP_ON_TIMEOUT", c"0"),
    // c10d's own thread would end the process when the device fails; whoever uses the group meets the same error, and tells it.
    (c"TORCH_NCCL_RETHROW_CUDA_ERRORS", c"0"),
    (c"TORCH_NCCL_LOG_CPP_STACK_ON_UNCLEAN_SHUTDOWN", c"0"),
    // Seconds for the ranks to connect.
    (c"TORCH_NCCL_NONBLOCKING_TIMEOUT", c"10"),
];

/// CUDA and NCCL, once opened; they stay open for the rest of the process.
#[derive(Debug)]
pub struct Cuda {
    nccl_backend: NcclBackend,
}

/// `cappa_nccl_backend` of `shim/cuda.cc`.
type NcclBackend = unsafe extern "C" fn(
    store: *mut c_void,
    rank: c_int,
    size: c_int,
    device: c_int,
    operation_ms: i64,
    message: *mut c_char,
    cap: usize,
) -> *mut c_void;

impl Cuda {
    /// Opens `libtorch_cuda.so` and the plug-in; `None` where libtorch is built for the CPU. Whether there is a
    /// GPU, too, is for `tch::Cuda::is_available` to say.
    ///
    /// Must come before any other use of torch, which asks for CUDA once and remembers the answer, and before a
    /// second thread starts, since it sets `TORCH_NCCL_*` variables that the environment leaves open: by default
    /// c10d ends the process when a peer is lost.
    ///
    /// The plug-in is `CAPPA_CUDA_PLUGIN`, or else `libcappa_cuda.so` beside the program or in the folder
    /// above, or else wherever the loader finds it.
    pub fn open() -> Result<Option<Cuda>> {
        const TORCH: &str = "libtorch_cuda.so";
        match open(OsStr::new(TORCH)) {
            Ok(_) => {}
            // Any other failure, say of a library that it needs, is worth reporting.
            Err(why) if why.starts_with(TORCH) && why.contains("No such file") => return Ok(None),
            Err(why) => return Err(Error::Cuda(why)),
        }
        for (name, value) in NCCL_SETTINGS {
            // SAFETY: two C strings, which are copied; no other thread runs yet, as the caller promises.
            unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 0) };
        }
        let plugin = open(plugin_path().as_os_str()).map_err(Error::Cuda)?;
        // SAFETY: the library is open, the name ends with NUL.
        let symbol = unsafe { libc::dlsym(plugin, c"cappa_nccl_backend".as_ptr()) };
        if symbol.is_null() {
            return Err(Error::Cuda(format!("{PLUGIN} lacks cappa_nccl_backend; build it anew")));
        }
        // SAFETY: the symbol is a function of this type, and the library is never closed.
        let nccl_backend = unsafe { std::mem::transmute::<*mut c_void, NcclBackend>(symbol) };
        Ok(Some(Cuda { nccl_backend }))
    }

    /// Connects to all peers over NCCL, for tensors on CUDA device `device`, and over Gloo, for CPU tensors
    /// and barriers; otherwise as [`Group::gloo`]. Operations on CUDA tensors wait for their end, and the
    /// group is aborted when one outlasts `timeouts.operation`.
    pub fn nccl(
        &self,
        store: &Store,
        member: Member<'_>,
        device: usize,
        timeouts: Timeouts,
        abort: &AbortHandle,
    ) -> Result<Group> {
        let gloo = form_gloo(store, member, timeouts)?;
        let (rank, size, device) = (c_count(member.rank)?, c_count(member.size)?, c_count(device)?);
        let backend = self.nccl_backend;
        let raw = abort.form(move || {
            let group = gloo()?;
            connect(backend, &group, rank, size, device, timeouts.operation)?;
            Ok(group)
        })?;
        let watchdog = Watchdog::start(timeouts.operation, abort.clone())
            .map_err(|e| Error::Cuda(format!("no thread to keep time limits on: {e}")))?;
        Ok(Group::new(raw, member, abort, Some(watchdog)))
    }
}

fn connect(
    backend: NcclBackend,
    group: &RawGroup,
    rank: c_int,
    size: c_int,
    device: c_int,
    limit: Duration,
) -> Result<()> {
    let mut message: [c_char; 1024] = [0; 1024];
    // SAFETY: the store lives as long as the group; the message is as long as said.
    let made =
        unsafe { backend(group.store(), rank, size, device, millis(limit), message.as_mut_ptr(), message.len()) };
    if made.is_null() {
        // SAFETY: the plug-in ended the message with NUL, within the array.
        let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
        let first_line = message.lines().next().unwrap_or_default().to_owned();
        return Err(Error::Collective(first_line));
    }
    // SAFETY: the group is alive and takes over the backend, which nobody else owns.
    check(unsafe { ffi::cappa_group_add_cuda(group.as_ptr(), made) })
}

fn plugin_path() -> PathBuf {
    if let Some(path) = std::env::var_os("CAPPA_CUDA_PLUGIN") {
        return path.into();
    }
    let program = std::env::current_exe().unwrap_or_default();
    let mut beside = program.ancestors().skip(1).take(2);
    beside.find_map(|folder| Some(folder.join(PLUGIN)).filter(|path| path.is_file())).unwrap_or_else(|| PLUGIN.into())
}

/// Opens a library for good, its symbols visible to all; the error is the loader's.
fn open(name: &OsStr) -> std::result::Result<*mut c_void, String> {
    let name = CString::new(name.as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a C string that outlives the call; running libtorch's and our own initialisers is what we want.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !library.is_null() {
        return Ok(library);
    }
    // SAFETY: after a failed dlopen this thread's message is there.
    let message = unsafe { CStr::from_ptr(libc::dlerror()) };
    Err(message.to_string_lossy().into_owned())
}
