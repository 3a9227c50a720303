//! How long to wait before the coordinator is tried again.

use std::time::Duration;

use cappa_shared::timing::{FIRST_PAUSE, LONGEST_PAUSE};

/// Pauses that grow as long as no stream lasts.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Backoff {
    /// The pause after a stream (or an attempt at one) that lasted so long.
    pub fn pause(&mut self, lasted: Duration) -> Duration {
        if lasted > LONGEST_PAUSE {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit_and_begin_anew_after_a_stream_that_lasted() {
        let mut backoff = Backoff::default();
        let at_once = Duration::ZERO;
        let pauses: Vec<u128> = (0..7).map(|_| backoff.pause(at_once).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 800, 800, 800]);
        assert_eq!(backoff.pause(Duration::from_secs(60)), FIRST_PAUSE);
    }
}
