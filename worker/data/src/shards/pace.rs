//! When to try again, and when a request is slow enough to be made a second time.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The pause after the first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pauses between attempts: doubling, with jitter so that workers that failed together don't return together ("full jitter" of half
/// the range; Brooker, "Exponential Backoff And Jitter", 2015).
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failures)).min(LONGEST_PAUSE);
        self.failures = (self.failures + 1).min(16);
        // The keys of a fresh hasher are random.
        let jitter = (RandomState::new().build_hasher().finish() % 1000) as u32;
        longest / 2 + longest * jitter / 2000
    }
}

/// Times that are remembered.
const REMEMBERED: usize = 64;
/// Before so many are known, [`FIRST_BOUND`] holds.
const ENOUGH: usize = 8;
const FIRST_BOUND: Duration = Duration::from_secs(5);
/// Requests that are quick anyway aren't worth a second one.
const LEAST_BOUND: Duration = Duration::from_millis(200);
/// A request is slow when it takes so many times the 95th percentile.
const FACTOR: u32 = 3;

/// How long requests took lately, and from when on one is slow (hedged requests: Dean and Barroso, "The Tail at Scale", 2013).
#[derive(Debug, Default)]
pub(super) struct Pace {
    recent: Mutex<VecDeque<Duration>>,
}

impl Pace {
    /// Remembers a request that was answered whole.
    pub(super) fn record(&self, took: Duration) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(took);
    }

    /// A request that takes longer than this gets a second one beside it.
    pub(super) fn bound(&self) -> Duration {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() < ENOUGH {
            return FIRST_BOUND;
        }
        let mut sorted: Vec<_> = recent.iter().copied().collect();
        sorted.sort_unstable();
        (sorted[sorted.len() * 95 / 100] * FACTOR).max(LEAST_BOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_vary() {
        let mut backoff = Backoff::default();
        for n in 0..40 {
            let longest = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(n)).min(LONGEST_PAUSE);
            let pause = backoff.next();
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?} of {longest:?}");
        }
        let firsts: std::collections::HashSet<_> = (0..20).map(|_| Backoff::default().next()).collect();
        assert!(firsts.len() > 5, "{firsts:?}");
    }

    #[test]
    fn the_bound_follows_what_is_usual() {
        let pace = Pace::default();
        assert_eq!(pace.bound(), FIRST_BOUND);
        (0..20).for_each(|_| pace.record(Duration::from_millis(10)));
        assert_eq!(pace.bound(), LEAST_BOUND);
        (0..REMEMBERED).for_each(|_| pace.record(Duration::from_secs(1)));
        assert_eq!(pace.bound(), Duration::from_secs(3), "a store that is slow as a whole is not asked twice");
    }
}
