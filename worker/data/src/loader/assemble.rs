//! The assembling thread: rows, which come in any order, to batches in step order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cappa_shared::ids::Step;
use cappa_shared::order::{SampleRef, Slot};
use crossbeam_channel::{Receiver, Sender};

use super::example::{Example, ExampleMaker};
use super::{Batch, DataError, Quarantined};
use crate::bad::BadSample;
use crate::sources::Sources;

/// What the other threads tell the assembler.
pub(super) enum Event {
    /// A step with these slots was planned; its rows follow.
    Begin { step: Step, slots: Vec<Slot> },
    /// A row of a step is there.
    Row { step: Step, row: usize, outcome: Outcome, fetching: Duration, decoding: Duration },
}

/// What became of a row.
pub(super) enum Outcome {
    /// A null slot.
    Null,
    /// An example.
    Example(Example),
    /// A sample that can't be used.
    Bad(SampleRef, BadSample),
    /// The batch can't be made at all.
    Failed(DataError),
}

/// Collects rows into batches.
pub(super) struct Assembler {
    sources: Arc<Sources>,
    maker: ExampleMaker,
    next: Step,
    events: Receiver<Event>,
    batches: Sender<Result<Batch, DataError>>,
    under_way: BTreeMap<Step, UnderWay>,
}

struct UnderWay {
    batch: Batch,
    missing: usize,
    failed: Option<DataError>,
}

impl Assembler {
    pub(super) fn new(
        sources: Arc<Sources>,
        maker: ExampleMaker,
        first: Step,
        events: Receiver<Event>,
        batches: Sender<Result<Batch, DataError>>,
    ) -> Self {
        Self { sources, maker, next: first, events, batches, under_way: BTreeMap::new() }
    }

    /// Runs until the other threads are done, a batch failed, or the loader is dropped.
    pub(super) fn run(mut self) {
        while let Ok(event) = self.events.recv() {
            match event {
                Event::Begin { step, slots } => self.begin(step, slots),
                Event::Row { step, row, outcome, fetching, decoding } => {
                    let under_way = self.under_way.get_mut(&step).expect("a step begins before its rows come");
                    under_way.missing -= 1;
                    under_way.batch.timing.fetching += fetching;
                    under_way.batch.timing.decoding += decoding;
                    under_way.set(row, outcome, &self.sources);
                }
            }
            if !self.deliver() {
                return;
            }
        }
    }

    fn begin(&mut self, step: Step, slots: Vec<Slot>) {
        let image_bytes = self.maker.preparation.size.pow(2) * 3;
        let parallel = slots.iter().map(|slot| self.maker.parallel(slot)).collect();
        let hidden = slots.iter().filter_map(|slot| self.maker.hidden(slot)).flatten().collect();
        let missing = slots.len();
        let batch = Batch::new(step, slots, parallel, hidden, image_bytes, self.maker.text_lengths.longest());
        self.under_way.insert(step, UnderWay { batch, missing, failed: None });
    }

    /// Sends every batch that is complete and next in order; false when no more are wanted.
    fn deliver(&mut self) -> bool {
        while self.under_way.get(&self.next).is_some_and(|under_way| under_way.missing == 0) {
            let UnderWay { mut batch, failed, .. } = self.under_way.remove(&self.next).expect("it was just found");
            // Rows come in any order; the record does not.
            batch.quarantined.sort_by_key(|bad| bad.sample);
            batch.shorten(&self.maker.text_lengths);
            let sent = self.batches.send(failed.clone().map_or(Ok(batch), Err));
            if sent.is_err() || failed.is_some() {
                return false;
            }
            self.next = self.next.next();
        }
        true
    }
}

impl UnderWay {
    fn set(&mut self, row: usize, outcome: Outcome, sources: &Sources) {
        match outcome {
            Outcome::Null => {}
            Outcome::Example(example) => self.batch.set(row, example),
            Outcome::Failed(error) => self.failed = Some(error),
            Outcome::Bad(sample, bad) => {
                let shard = sources.name(sample.shard);
                tracing::warn!(shard, index = sample.index, key = bad.key, reason = %bad.reason, message = bad.message, "sample quarantined");
                self.batch.quarantined.push(Quarantined {
                    epoch: self.batch.slots[row].epoch,
                    shard,
                    sample,
                    key: bad.key,
                    reason: bad.reason,
                    message: bad.message,
                });
            }
        }
    }
}
