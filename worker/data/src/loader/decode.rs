//! The decoding threads: from tasks to rows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cappa_shared::ids::Step;
use cappa_shared::order::Slot;
use crossbeam_channel::{Receiver, Sender};

use super::DataError;
use super::assemble::{Event, Outcome};
use super::example::ExampleMaker;
use crate::bad::BadReason;
use crate::shards::Lease;

/// A row to make.
pub(super) struct Task {
    pub(super) step: Step,
    pub(super) row: usize,
    pub(super) slot: Slot,
    /// The shard of the slot's sample.
    pub(super) lease: Option<Arc<Lease>>,
}

/// One decoding thread.
pub(super) struct Decoder {
    pub(super) maker: ExampleMaker,
    pub(super) tasks: Receiver<Task>,
    pub(super) events: Sender<Event>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Decoder {
    /// Runs until there are no more tasks or the loader is dropped.
    pub(super) fn run(self) {
        for task in &self.tasks {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let mut fetching = Duration::ZERO;
            let begin = Instant::now();
            // A lost row would stall the loader for ever, so a panic becomes the row's outcome.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.make(&task, &mut fetching)))
                .unwrap_or(Outcome::Failed(DataError::Panicked));
            let decoding = begin.elapsed().saturating_sub(fetching);
            self.maker.stats.network.add(fetching);
            self.maker.stats.rows.add(decoding);
            self.maker.stats.samples.add(u64::from(task.slot.sample.is_some()));
            let row = Event::Row { step: task.step, row: task.row, outcome, fetching, decoding };
            if self.events.send(row).is_err() {
                return;
            }
        }
    }

    fn make(&self, task: &Task, fetching: &mut Duration) -> Outcome {
        let (Some(sample), Some(lease)) = (task.slot.sample, &task.lease) else { return Outcome::Null };
        let begin = Instant::now();
        let shard = lease.wait();
        *fetching = begin.elapsed();
        match shard {
            Err(error) => Outcome::Failed(DataError::Shard(error)),
            Ok(shard) => match self.maker.make(&shard, &task.slot, sample) {
                Ok(example) => Outcome::Example(example),
                // The job is wrong, not the sample.
                Err(bad) if bad.reason == BadReason::ClassUnknown => Outcome::Failed(DataError::UnknownClass(bad)),
                Err(bad) => Outcome::Bad(sample, bad),
            },
        }
    }
}
