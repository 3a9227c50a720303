//! When the loop looks at the state as a whole: at once when something has happened, and now and then for what time
//! brings, but in a large cluster no more often than leaves most of the loop's time to those who talk to it.

use std::time::{Duration, Instant};

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// Looking is followed by a pause so many times as long, up to the tick, whatever happens.
const PAUSE: u32 = 3;

/// The looks so far.
#[derive(Debug)]
pub(super) struct Looks {
    ended: Instant,
    /// Processor time that the last one took.
    took: Duration,
    /// Something has happened since.
    is_hastened: bool,
}

impl Default for Looks {
    fn default() -> Self {
        Self { ended: Instant::now(), took: Duration::ZERO, is_hastened: true }
    }
}

impl Looks {
    /// Something has happened that may call for something.
    pub(super) fn hasten(&mut self) {
        self.is_hastened = true;
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Instant {
        let pause = if self.is_hastened { (self.took * PAUSE).min(TICK) } else { TICK };
        self.ended + pause
    }

    /// Whether a look is due now.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.due()
    }

    /// A look that took so long is over; `is_all` unless it left something for the next.
    pub(super) fn end(&mut self, took: Duration, is_all: bool) {
        *self = Self { ended: Instant::now(), took, is_hastened: !is_all };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_looked_at_at_once_unless_looking_is_dear() {
        let mut looks = Looks::default();
        looks.end(Duration::ZERO, true);
        assert!(!looks.is_due(), "nothing has happened");
        looks.hasten();
        assert!(looks.is_due());
        looks.end(Duration::from_millis(10), false);
        let wait = looks.due() - looks.ended;
        assert_eq!(wait, Duration::from_millis(30), "what was left is looked at after a pause");
        looks.end(Duration::from_secs(1), false);
        assert_eq!(looks.due() - looks.ended, TICK, "and no later than time is");
    }
}
