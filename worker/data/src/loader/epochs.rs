//! The orders of the epochs being read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use cappa_shared::ids::Step;
use cappa_shared::order::{EpochOrder, JobOrder};

/// The orders of the epochs that lanes are in, and of those after them once somebody looks that far.
pub(super) struct Epochs {
    order: Arc<JobOrder>,
    lanes: Range<u32>,
    known: HashMap<(u32, u64), Arc<EpochOrder>>,
}

impl Epochs {
    pub(super) fn new(order: Arc<JobOrder>, lanes: Range<u32>) -> Self {
        Self { order, lanes, known: HashMap::new() }
    }

    /// The order of an epoch of a source.
    pub(super) fn get(&mut self, source: u32, epoch: u64) -> Arc<EpochOrder> {
        let new = || Arc::new(self.order.epoch(source, epoch));
        Arc::clone(self.known.entry((source, epoch)).or_insert_with(new))
    }

    /// Lets go of the epochs that all lanes have left behind at a step.
    pub(super) fn arrived_at(&mut self, step: Step) {
        let sources = self.order.sources().len();
        // The epoch being read and the one after it: no more are needed most of the time.
        if self.known.len() <= 2 * sources {
            return;
        }
        let first_of = |source| self.lanes.clone().map(|lane| self.order.epoch_at(step, source, lane)).min();
        let firsts: Vec<u64> = (0u32..).take(sources).map(|source| first_of(source).unwrap_or_default()).collect();
        self.known.retain(|(source, epoch), _| *epoch >= firsts[*source as usize]);
    }
}
