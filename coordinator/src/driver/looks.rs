//! When the loop looks at the state as a whole: at once when something has happened, and now and then for what time
//! brings, but in a large cluster no more often than leaves most of the loop's time to those who talk to it. A look is
//! followed by a pass over the orders that come of it; where those are too many for one, further passes need no look.

use std::time::{Duration, Instant};

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// Looking is followed by a pause so many times as long, up to the tick, whatever happens.
const PAUSE: u32 = 3;

/// The longest pause after a look or a pass that has left something: each does only so much at once, and where it takes long all
/// the same others use the processor.
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
    /// When the orders are due that the last pass has left.
    orders_due: Option<Instant>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { ended: Instant::now(), took: Duration::ZERO, is_hastened: true, has_left: false, orders_due: None }
    }
}

impl Looks {
    /// Something has happened that may call for something.
    pub(super) fn hasten(&mut self) {
        self.is_hastened = true;
    }

    /// When a look or a pass is due.
    pub(super) fn due(&self) -> Instant {
        let look = self.look_due();
        self.orders_due.map_or(look, |orders| orders.min(look))
    }

    /// Whether a look is due now.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.look_due()
    }

    /// Whether a pass is due now that no look calls for.
    pub(super) fn orders_are_due(&self) -> bool {
        self.orders_due.is_some_and(|due| Instant::now() >= due)
    }

    /// How long ago the last look ended.
    pub(super) fn since(&self) -> Duration {
        self.ended.elapsed()
    }

    /// Whether the last pass has left orders.
    pub(super) fn has_orders(&self) -> bool {
        self.orders_due.is_some()
    }

    /// Orders that were left are due.
    pub(super) fn hasten_orders(&mut self) {
        self.orders_due = self.orders_due.map(|due| due.min(Instant::now()));
    }

    /// A look that took so long is over; `is_all` unless it left something for the next.
    pub(super) fn end(&mut self, took: Duration, is_all: bool) {
        let (ended, has_left) = (Instant::now(), !is_all);
        *self = Self { ended, took, is_hastened: false, has_left, orders_due: self.orders_due };
    }

    /// A pass is over; `is_all` unless it left orders for the next.
    pub(super) fn passed(&mut self, is_all: bool) {
        self.orders_due = (!is_all).then(|| Instant::now() + REST);
    }

    fn look_due(&self) -> Instant {
        let pause = self.took * PAUSE;
        self.ended
            + match (self.has_left, self.is_hastened) {
                (true, _) => pause.min(REST),
                (false, true) => pause.min(TICK),
                (false, false) => TICK,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_looked_at_at_once_unless_looking_is_dear() {
        let mut looks = Looks::default();
        looks.end(Duration::ZERO, true);
        assert_eq!(looks.due(), looks.ended + TICK, "nothing has happened");
        looks.hasten();
        assert_eq!(looks.due(), looks.ended, "at once");
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

    #[test]
    fn orders_that_were_left_need_no_look() {
        let mut looks = Looks::default();
        looks.end(Duration::from_secs(1), true);
        looks.passed(false);
        let due = looks.due();
        assert!(looks.has_orders() && due <= Instant::now() + REST);
        looks.hasten_orders();
        assert!(looks.orders_are_due() && looks.due() <= due);
        assert_eq!(looks.look_due(), looks.ended + TICK, "of the look nothing is changed");
        looks.passed(true);
        looks.hasten_orders();
        assert!(!looks.orders_are_due());
    }
}
