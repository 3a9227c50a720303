//! Threads for the log's own tasks. An append is a chain of them, one behind the other: among the tasks of thousands of streams
//! each would wait its turn, and with an append waits everybody who asks for anything.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// One that appends, and one that condenses beside it.
const THREADS: usize = 2;

/// A runtime that ends when it is dropped, wherever that is.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// New threads without tasks.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn start() -> io::Result<Self> {
        let threads =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("event-log").enable_all().build()?;
        Ok(Self(Some(threads)))
    }

    /// Does something on these threads; tasks that it spawns stay there.
    pub(super) async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let threads = self.0.as_ref().expect("they are there until they are dropped");
        threads.spawn(task).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for them is forbidden in a task.
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}
