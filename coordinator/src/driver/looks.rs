//! When the loop looks at the state as a whole: at once when something has happened, and now and then for what time
//! brings, but in a large cluster no more often than leaves most of the loop's time to those who talk to it.

use std::time::{Duration, Instant};

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// Looking is followed by a pause so many times as long, up to the tick, whatever happens.
const PAUSE: u32 = 3;

/// The longest pause after a look that has left something: a look does only so much at once, and where it takes long all the same
/// others use the processor.
const REST: Duration = Duration::from_millis(10);

/// The looks so far.
#[derive(Debug)]
pub(super) struct Looks {
    ended: Instant,
    /// Processor time that the last one took.
    took: Duration,
    /// Something has happened since.
    is_hastened: bool,
    /// It has left something.
    has_left: bool,
}

impl Default for Looks {
    fn default() -> Self {
        Self { ended: Instant::now(), took: Duration::ZERO, is_hastened: true, has_left: false }
    }
}

impl Looks {
    /// Something has happened that may call for something.
    pub(super) fn hasten(&mut self) {
        self.is_hastened = true;
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Instant {
        let pause = self.took * PAUSE;
        self.ended
            + match (self.has_left, self.is_hastened) {
                (true, _) => pause.min(REST),
                (false, true) => pause.min(TICK),
                (false, false) => TICK,
            }
    }

    /// Whether a look is due now.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.due()
    }

    /// A look that took so long is over; `is_all` unless it left something for the next.
    pub(super) fn end(&mut self, took: Duration, is_all: bool) {
        *self = Self { ended: Instant::now(), took, is_hastened: false, has_left: !is_all };
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
        let wait_after = |looks: &mut Looks, took, is_all| {
            looks.end(took, is_all);
            looks.hasten();
            looks.due() - looks.ended
        };
        let [short, long] = [2, 1_000].map(Duration::from_millis);
        assert_eq!(wait_after(&mut looks, short, true), Duration::from_millis(6), "after a pause");
        assert_eq!(wait_after(&mut looks, long, true), TICK, "and no later than time is");
        assert_eq!(wait_after(&mut looks, short, false), Duration::from_millis(6), "as is what was left");
        assert_eq!(wait_after(&mut looks, long, false), REST, "but that does not wait for long");
    }
}
