//! When shards are wanted next, from the plan.

use std::collections::HashMap;
use std::ops::Range;

/// The steps at which shards are wanted, for as far as the plan was followed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schedule {
    /// Shard and steps, in the order of the last steps' ends reversed: what is over can be cut off the end.
    uses: Vec<(u32, Range<u64>)>,
    now: u64,
}

impl Schedule {
    /// A schedule of these uses, in any order.
    pub(crate) fn new(mut uses: Vec<(u32, Range<u64>)>, now: u64) -> Self {
        uses.sort_unstable_by_key(|(_, steps)| std::cmp::Reverse(steps.end));
        let mut schedule = Self { uses, now };
        schedule.arrived_at(now);
        schedule
    }

    /// Forgets what is over.
    pub(crate) fn arrived_at(&mut self, step: u64) {
        self.now = step;
        while self.uses.last().is_some_and(|(_, steps)| steps.end <= step) {
            self.uses.pop();
        }
    }

    /// Every shard that is wanted again, and the first step at which it is.
    pub(super) fn next_uses(&self) -> HashMap<u32, u64> {
        let mut next = HashMap::with_capacity(self.uses.len());
        for (shard, steps) in &self.uses {
            let step = steps.start.max(self.now);
            next.entry(*shard).and_modify(|first: &mut u64| *first = step.min(*first)).or_insert(step);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_use_from_now_on_counts() {
        let mut schedule = Schedule::new(vec![(7, 20..30), (7, 0..10), (3, 5..15), (9, 40..50)], 0);
        assert_eq!(schedule.next_uses(), HashMap::from([(7, 0), (3, 5), (9, 40)]));
        schedule.arrived_at(12);
        assert_eq!(schedule.next_uses(), HashMap::from([(7, 20), (3, 12), (9, 40)]));
        schedule.arrived_at(45);
        assert_eq!(schedule.next_uses(), HashMap::from([(9, 45)]));
    }
}
