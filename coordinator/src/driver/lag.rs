//! How long what is ready to run waits for its turn: an alarm that is set over and over, and how late it rings. Where ten
//! thousand streams are told something at once, each of them, and each answer, stands in the same line as a person's call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// From one alarm to the next.
const PERIOD: Duration = Duration::from_millis(3);

/// So late an alarm is on an idle machine: timers are exact to a millisecond.
const EXACT: Duration = Duration::from_millis(2);

/// The wait, as it was a moment ago.
#[derive(Debug)]
pub(super) struct Lag {
    micros: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Lag {
    /// Measures it from now on, until it is dropped.
    pub(super) fn measured() -> Self {
        let (micros, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        tokio::spawn(stop.clone().run_until_cancelled_owned(measure(Arc::clone(&micros))));
        Self { micros, _stop: stop.drop_guard() }
    }

    /// The wait; zero where it is no longer than timers are exact.
    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

async fn measure(micros: Arc<AtomicU64>) {
    loop {
        let due = Instant::now() + PERIOD;
        tokio::time::sleep_until(due).await;
        let late = due.elapsed();
        let counts = if late > EXACT { late } else { Duration::ZERO };
        micros.store(u64::try_from(counts.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_holds_up_the_others_is_measured_while_it_lasts() {
        let lag = Lag::measured();
        tokio::time::sleep(PERIOD * 2).await;
        std::thread::sleep(Duration::from_millis(60));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(lag.now() >= Duration::from_millis(40), "{:?}", lag.now());
        let begun = Instant::now();
        while lag.now() > Duration::from_millis(30) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", lag.now());
            tokio::time::sleep(PERIOD).await;
        }
    }
}
