//! Time limits for CUDA, whose operations are queued and would otherwise hang the host for as long as a
//! peer does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::abort::AbortHandle;

/// Aborts a group when what it is armed for outlasts the limit. One at a time.
#[derive(Debug)]
pub(crate) struct Watchdog {
    limit: Duration,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    deadline: Option<Instant>,
    closed: bool,
}

impl Watchdog {
    /// Starts the thread that keeps the time; it ends with the watchdog.
    pub(crate) fn start(limit: Duration, abort: AbortHandle) -> std::io::Result<Arc<Watchdog>> {
        let shared = Arc::<Shared>::default();
        let watched = shared.clone();
        std::thread::Builder::new().name("group-watchdog".to_owned()).spawn(move || watched.keep(&abort))?;
        Ok(Arc::new(Watchdog { limit, shared }))
    }

    /// Starts the limit, which is lifted when the guard is dropped.
    pub(crate) fn arm(self: &Arc<Self>) -> Armed {
        self.shared.set(Some(Instant::now() + self.limit));
        Armed(self.clone())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

/// While it lives, the limit runs.
#[derive(Debug)]
pub(crate) struct Armed(Arc<Watchdog>);

impl Drop for Armed {
    fn drop(&mut self) {
        self.0.shared.set(None);
    }
}

impl Shared {
    fn set(&self, deadline: Option<Instant>) {
        self.lock().deadline = deadline;
        self.changed.notify_all();
    }

    fn keep(&self, abort: &AbortHandle) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            state = match state.deadline {
                Some(deadline) if deadline <= now => {
                    drop(state);
                    abort.abort();
                    return;
                }
                Some(deadline) => {
                    self.changed.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of state is one assignment, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_outlasts_the_limit_is_aborted() {
        let abort = AbortHandle::new();
        let limit = Duration::from_secs(1);
        let watchdog = Watchdog::start(limit, abort.clone()).unwrap();
        // Longer than the limit only together.
        for _ in 0..4 {
            let _armed = watchdog.arm();
            std::thread::sleep(Duration::from_millis(300));
        }
        std::thread::sleep(limit);
        assert!(!abort.is_aborted(), "nothing was armed for longer than the limit");
        let _armed = watchdog.arm();
        let begun = Instant::now();
        while !abort.is_aborted() {
            assert!(begun.elapsed() < limit * 20, "it does not bite");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(begun.elapsed() > limit / 2, "{:?}", begun.elapsed());
    }
}
