//! The planning thread: which slot comes next, and which shards are needed now and soon.

use std::ops::Range;
use std::sync::Arc;

use cappa_shared::ids::Step;
use cappa_shared::order::{JobOrder, Place, Slot};
use crossbeam_channel::{Receiver, Sender};

use super::assemble::Event;
use super::decode::Task;
use super::epochs::Epochs;
use crate::shards::{Lease, Schedule, ShardPool};

/// Hands out the tasks of step after step, one permit a step.
pub(super) struct Planner {
    pub(super) order: Arc<JobOrder>,
    pub(super) lanes: Range<u32>,
    pub(super) range: Range<u64>,
    pub(super) pool: Arc<ShardPool>,
    pub(super) permits: Receiver<()>,
    pub(super) events: Sender<Event>,
    pub(super) tasks: Sender<Task>,
}

/// The shards of a source that are leased for a lane: those of the window being read and of the one after it.
#[derive(Default)]
struct Reading {
    /// Epoch and slots of the window being read.
    window: Option<(u64, Range<u64>)>,
    now: Vec<Arc<Lease>>,
    ahead: Vec<Arc<Lease>>,
}

/// The loader is being dropped.
struct Closed;

/// However short the epochs of a source are, the cache's plan is made anew so many times at most in an epoch of the largest.
const PLANS_PER_EPOCH: u64 = 16;

impl Planner {
    /// Runs until the last step is planned or the loader is dropped.
    pub(super) fn run(self) {
        // The error only says that nobody wants more.
        let _ = self.plan();
    }

    fn plan(&self) -> Result<(), Closed> {
        let mut epochs = Epochs::new(Arc::clone(&self.order), self.lanes.clone());
        let mut lanes: Vec<Vec<Reading>> = self.lanes.clone().map(|_| self.readings()).collect();
        let (uses_cache, mut next_schedule) = (self.pool.uses_cache(), Step(self.range.start));
        for step in self.range.clone().map(Step) {
            self.permits.recv().map_err(|_| Closed)?;
            if uses_cache && step >= next_schedule {
                self.pool.plan(self.schedule(&mut epochs, step));
                next_schedule = self.next_schedule(step);
            }
            self.pool.arrived_at(step.0);
            epochs.arrived_at(step);
            let places: Vec<Place> = self.lanes.clone().flat_map(|lane| self.order.places(step, lane)).collect();
            let slot = |place: &Place| self.order.slot(&epochs.get(place.source, place.epoch), *place);
            let slots: Vec<Slot> = places.iter().map(slot).collect();
            self.events.send(Event::Begin { step, slots: slots.clone() }).map_err(|_| Closed)?;
            for (row, (place, slot)) in places.into_iter().zip(slots).enumerate() {
                let reading = &mut lanes[(place.lane - self.lanes.start) as usize][place.source as usize];
                let lease = self.lease(reading, &mut epochs, place, &slot);
                self.tasks.send(Task { step, row, slot, lease }).map_err(|_| Closed)?;
            }
            // Only now, so that what this step needs was asked for first.
            for (lane, readings) in self.lanes.clone().zip(&mut lanes) {
                for (source, reading) in (0..).zip(readings) {
                    self.look_ahead(reading, &mut epochs, source, lane);
                }
            }
        }
        Ok(())
    }

    fn readings(&self) -> Vec<Reading> {
        self.order.sources().iter().map(|_| Reading::default()).collect()
    }

    fn sources(&self) -> impl Iterator<Item = u32> {
        (0..).take(self.order.sources().len())
    }

    /// When the rank's lanes want which shards, in the epochs that they are in and the next ones.
    fn schedule(&self, epochs: &mut Epochs, now: Step) -> Schedule {
        let mut uses = Vec::new();
        for (source, lane) in self.sources().flat_map(|source| self.lanes.clone().map(move |lane| (source, lane))) {
            let current = self.order.epoch_at(now, source, lane);
            for epoch in [current, current + 1] {
                let order = epochs.get(source, epoch);
                let step = |index| self.order.step_of(Place { source, epoch, lane, index }).0;
                let mut index = 0;
                while let Some(window) = order.window(lane, index) {
                    index = window.slots.end;
                    let steps = step(window.slots.start)..step(index - 1) + 1;
                    uses.extend(window.shards.into_iter().map(|shard| (shard, steps.clone())));
                }
            }
        }
        Schedule::new(uses, now.0)
    }

    /// When the schedule made now must be made anew: as soon as all lanes have entered the next epoch of a source.
    fn next_schedule(&self, now: Step) -> Step {
        let begin = |source, lane, epoch| self.order.step_of(Place { source, epoch, lane, index: 0 });
        let entered = |source| {
            let lanes = self.lanes.clone();
            lanes.map(|lane| begin(source, lane, self.order.epoch_at(now, source, lane) + 1)).max()
        };
        let longest = self.sources().map(|source| begin(source, 0, 1).0).max().unwrap_or_default();
        let first = self.sources().filter_map(entered).min().unwrap_or(Step(u64::MAX));
        first.max(Step(now.0 + longest / PLANS_PER_EPOCH))
    }

    /// The lease of the shard that a slot's sample lies in; nothing for a null slot.
    fn lease(&self, reading: &mut Reading, epochs: &mut Epochs, place: Place, slot: &Slot) -> Option<Arc<Lease>> {
        let shard = slot.sample?.shard;
        let is_known = |(epoch, slots): &(u64, Range<u64>)| *epoch == place.epoch && slots.contains(&place.index);
        if !reading.window.as_ref().is_some_and(is_known) {
            let window = epochs.get(place.source, place.epoch).window(place.lane, place.index);
            let window = window.expect("a slot with a sample lies in a window");
            reading.now = window.shards.iter().map(|&shard| self.pool.lease(shard)).collect();
            reading.ahead.clear();
            reading.window = Some((place.epoch, window.slots));
        }
        let lease = reading.now.iter().find(|lease| lease.shard() == shard);
        Some(Arc::clone(lease.expect("a window names the shards of all its samples")))
    }

    /// Leases the shards of the window after the one being read, in the next epoch if need be, if the cache has room.
    fn look_ahead(&self, reading: &mut Reading, epochs: &mut Epochs, source: u32, lane: u32) {
        let Some((epoch, slots)) = &reading.window else { return };
        if !reading.ahead.is_empty() {
            return;
        }
        let next = epochs.get(source, *epoch).window(lane, slots.end);
        let next = next.or_else(|| epochs.get(source, epoch + 1).window(lane, 0));
        if let Some(window) = next.filter(|window| self.pool.has_room_for(&window.shards)) {
            reading.ahead = window.shards.iter().map(|&shard| self.pool.lease(shard)).collect();
        }
    }
}
