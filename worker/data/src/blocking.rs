//! Storage calls from threads that know nothing of tokio.

use std::future::Future;
use std::io;
use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

/// One for all calls, so that a store's connections outlive a call.
static RUNTIME: LazyLock<io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("storage").enable_all().build());

/// Runs a future to its end on a thread of its own, so that it works inside and outside of a runtime; blocks the caller.
pub(crate) fn block_on<F>(future: F) -> io::Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = RUNTIME.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("storage-call".into()).spawn_scoped(scope, || runtime.block_on(future))?;
        thread.join().map_err(|_| io::Error::other("a storage call panicked"))
    })
}
