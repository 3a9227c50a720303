//! How shards are fetched.

use std::time::Duration;

/// How shards are fetched and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// Shards fetched at the same time.
    pub threads: usize,
    /// A shard is asked for in ranges of this size, in bytes.
    pub part_bytes: u64,
    /// Bound of the memory that holds parts on their way from the store to the disk, over all shards, in bytes. With second requests
    /// beside slow ones up to twice as much; at least one part.
    pub memory_bytes: u64,
    /// How long a store may deliver nothing before the pipeline gives up. Until then it waits and tries again.
    pub patience: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self { threads: 2, part_bytes: 8 << 20, memory_bytes: 64 << 20, patience: Duration::from_secs(600) }
    }
}
