//! Connections to the coordinator: one a worker as in a cluster, or shared by several.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OnceCell, Semaphore};
use tonic::transport::{Channel, Endpoint};

/// Connections that are being opened at once: as many as a listener's backlog takes.
const OPENING: usize = 100;

/// Streams that one connection may carry: HTTP/2 servers allow so many, and a stream beyond would wait in silence.
pub const MOST_STREAMS: usize = 200;

/// Files that a process has open besides its connections.
const OTHER_FILES: u64 = 200;

/// The way to the coordinator.
pub(crate) struct Links {
    endpoint: Endpoint,
    opening: Semaphore,
    /// Empty where every stream has a connection of its own.
    shared: Vec<OnceCell<Channel>>,
    next: AtomicUsize,
}

impl Links {
    /// For so many workers, of which `streams` share a connection. Raises this process's limit of open files, which the
    /// coordinator that it starts inherits.
    ///
    /// # Errors
    /// When the limit does not allow as many connections, with what to do.
    pub(crate) fn new(address: &str, workers: usize, streams: usize) -> Result<Self> {
        if streams == 0 || streams > MOST_STREAMS {
            bail!("a connection carries 1 to {MOST_STREAMS} streams, not {streams}");
        }
        let endpoint =
            Endpoint::from_shared(address.to_owned())?.connect_timeout(Duration::from_secs(10)).tcp_nodelay(true);
        let connections = workers.div_ceil(streams);
        // One in four streams more than are needed: a worker that comes anew takes the next, not the one that was freed.
        let shared = if streams == 1 { 0 } else { (connections * 5).div_ceil(4) };
        let shared = std::iter::repeat_with(OnceCell::new).take(shared).collect();
        Ok(Self { endpoint, opening: Semaphore::new(OPENING), shared, next: AtomicUsize::new(0) })
    }

    /// A connection for a stream.
    pub(crate) async fn open(&self) -> Result<Channel> {
        let _turn = self.opening.acquire().await?;
        if self.shared.is_empty() {
            return Ok(self.endpoint.connect().await?);
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.shared.len();
        Ok(self.shared[place].get_or_try_init(|| self.endpoint.connect()).await?.clone())
    }
}

/// Lets this process, and those that it starts, open a file for each connection.
///
/// # Errors
/// When the system does not allow it, with what to do.
pub(crate) fn allow_connections(workers: usize, streams: usize) -> Result<()> {
    let needed = u64::try_from(workers.div_ceil(streams.max(1)))? + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        bail!(
            "{needed} files are needed and the system allows {}: raise it with `ulimit -Hn`, or let several workers share a \
             connection with --streams-per-connection",
            limit.maximum.unwrap_or_default()
        );
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .context("the limit of open files can't be raised")
}
