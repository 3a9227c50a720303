//! Storage calls from threads that know nothing of tokio.

use std::future::Future;
use std::io;

/// Runs a future to its end on a thread of its own, so that it works inside and outside of a runtime; blocks the caller.
pub(crate) fn block_on<F>(future: F) -> io::Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("storage".into()).spawn_scoped(scope, || runtime.block_on(future))?;
        thread.join().map_err(|_| io::Error::other("a storage call panicked"))
    })
}
