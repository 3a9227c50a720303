//! The planning thread: which slot comes next, and which shards are needed now and soon.

use std::ops::Range;
use std::sync::Arc;

use cappa_shared::ids::Step;
use cappa_shared::order::{EpochOrder, SampleOrder, Slot, Steps};
use crossbeam_channel::{Receiver, Sender};

use super::assemble::Event;
use super::decode::Task;
use crate::shards::{Lease, Schedule, ShardPool};

/// Hands out the tasks of step after step, one permit a step.
pub(super) struct Planner {
    pub(super) order: Arc<SampleOrder>,
    pub(super) steps: Steps,
    pub(super) lanes: Range<u32>,
    pub(super) range: Range<u64>,
    pub(super) pool: Arc<ShardPool>,
    pub(super) permits: Receiver<()>,
    pub(super) events: Sender<Event>,
    pub(super) tasks: Sender<Task>,
}

/// The shards of a lane that are leased: those of the window being read and of the one after it.
#[derive(Default)]
struct LaneShards {
    /// Epoch and slots of the window being read.
    window: Option<(u64, Range<u64>)>,
    now: Vec<Arc<Lease>>,
    ahead: Vec<Arc<Lease>>,
}

/// The loader is being dropped.
struct Closed;

impl Planner {
    /// Runs until the last step is planned or the loader is dropped.
    pub(super) fn run(self) {
        // The error only says that nobody wants more.
        let _ = self.plan();
    }

    fn plan(&self) -> Result<(), Closed> {
        let mut epochs = Epochs::at(&self.order, self.steps.position(Step(self.range.start)).epoch);
        let mut lanes: Vec<LaneShards> = self.lanes.clone().map(|_| LaneShards::default()).collect();
        for step in self.range.clone().map(Step) {
            self.permits.recv().map_err(|_| Closed)?;
            let position = self.steps.position(step);
            if epochs.enter(&self.order, position.epoch) && self.pool.uses_cache() {
                self.pool.plan(self.schedule(&mut epochs, step));
            }
            self.pool.arrived_at(step.0);
            let slots: Vec<Slot> = self.steps.batch(&epochs.current, position, self.lanes.clone()).collect();
            self.events.send(Event::Begin { step, slots: slots.clone() }).map_err(|_| Closed)?;
            let first = self.steps.slots(position).start;
            let per_lane = self.steps.slots_per_step();
            for (row, slot) in slots.into_iter().enumerate() {
                let lane = &mut lanes[(slot.lane - self.lanes.start) as usize];
                let lease = self.lease(lane, &epochs.current, &slot, first + row as u64 % per_lane);
                self.tasks.send(Task { step, row, slot, lease }).map_err(|_| Closed)?;
            }
            // Only now, so that what this step needs was asked for first.
            for (lane, shards) in self.lanes.clone().zip(&mut lanes) {
                self.look_ahead(shards, &mut epochs, lane);
            }
        }
        Ok(())
    }

    /// When the rank's lanes want which shards, in this epoch and the next.
    fn schedule(&self, epochs: &mut Epochs, now: Step) -> Schedule {
        let epoch = epochs.current.epoch();
        let mut uses = self.uses(&epochs.current, epoch);
        uses.extend(self.uses(epochs.following(&self.order), epoch + 1));
        Schedule::new(uses, now.0)
    }

    /// Shards and steps of the windows of an epoch.
    fn uses(&self, order: &EpochOrder, epoch: u64) -> Vec<(u32, Range<u64>)> {
        let (first, per_step) = (epoch * self.steps.per_epoch(), self.steps.slots_per_step());
        let mut uses = Vec::new();
        for lane in self.lanes.clone() {
            let mut index = 0;
            while let Some(window) = order.window(lane, index) {
                index = window.slots.end;
                let steps = first + window.slots.start / per_step..first + window.slots.end.div_ceil(per_step);
                uses.extend(window.shards.into_iter().map(|shard| (shard, steps.clone())));
            }
        }
        uses
    }

    /// The lease of the shard that a slot's sample lies in; nothing for a null slot.
    fn lease(&self, lane: &mut LaneShards, epoch: &EpochOrder, slot: &Slot, index: u64) -> Option<Arc<Lease>> {
        let shard = slot.sample?.shard;
        let known = lane.window.as_ref().is_some_and(|(of, slots)| *of == epoch.epoch() && slots.contains(&index));
        if !known {
            let window = epoch.window(slot.lane, index).expect("a slot with a sample lies in a window");
            lane.now = window.shards.iter().map(|&shard| self.pool.lease(shard)).collect();
            lane.ahead.clear();
            lane.window = Some((epoch.epoch(), window.slots));
        }
        let lease = lane.now.iter().find(|lease| lease.shard() == shard);
        Some(Arc::clone(lease.expect("a window names the shards of all its samples")))
    }

    /// Leases the shards of the window after the one being read, in the next epoch if need be, if the cache has room.
    fn look_ahead(&self, lane: &mut LaneShards, epochs: &mut Epochs, number: u32) {
        let Some((_, slots)) = &lane.window else { return };
        if !lane.ahead.is_empty() {
            return;
        }
        let next = epochs.current.window(number, slots.end);
        let next = next.or_else(|| epochs.following(&self.order).window(number, 0));
        if let Some(window) = next.filter(|window| self.pool.has_room_for(&window.shards)) {
            lane.ahead = window.shards.iter().map(|&shard| self.pool.lease(shard)).collect();
        }
    }
}

/// The order of the epoch being planned, and of the next one once somebody looks that far.
struct Epochs {
    current: EpochOrder,
    following: Option<EpochOrder>,
    entered: bool,
}

impl Epochs {
    fn at(order: &SampleOrder, epoch: u64) -> Self {
        Self { current: order.epoch(epoch), following: None, entered: false }
    }

    /// Goes to an epoch; whether that is news.
    fn enter(&mut self, order: &SampleOrder, epoch: u64) -> bool {
        if epoch != self.current.epoch() {
            self.entered = false;
            let known = self.following.take().filter(|following| following.epoch() == epoch);
            self.current = known.unwrap_or_else(|| order.epoch(epoch));
        }
        !std::mem::replace(&mut self.entered, true)
    }

    fn following(&mut self, order: &SampleOrder) -> &EpochOrder {
        let epoch = self.current.epoch() + 1;
        self.following.get_or_insert_with(|| order.epoch(epoch))
    }
}
