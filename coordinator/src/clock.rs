//! The one clock of the process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cappa_core::Time;

/// Milliseconds since the Unix epoch that never run backwards: the wall clock is read once, and
/// steps of it while the process runs do not matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Time,
    started: Instant,
}

impl Clock {
    /// A clock that starts at the wall clock's time, but not before `earliest`.
    pub(crate) fn starting_after(earliest: Time) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Time(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Self { origin: wall.max(earliest), started: Instant::now() }
    }

    /// Now.
    pub(crate) fn now(&self) -> Time {
        self.origin + self.started.elapsed()
    }
}
