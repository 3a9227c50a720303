//! Training: what a worker does with a place in a group, from forming it to its ending.
//!
//! [`page::train`] is the algorithm; this module brings it its group, state and data, and takes what
//! becomes of it to the coordinator.

mod begin;
pub(crate) mod config;
mod device;
pub(crate) mod group;
pub(crate) mod loss;
pub(crate) mod network;
pub(crate) mod outcome;
mod page;
mod record;
mod replicas;
mod rewind;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use cappa_data::corpus::Corpus;
use cappa_proto as wire;
use cappa_session::{Assignment, Duty, Order, Turns};
use cappa_shared::causes::with_causes;
use crossbeam_channel::Receiver;
use tracing::info_span;

use crate::checkpoint::Writer;
use crate::context::Context;
use crate::evaluate;
use group::Place;
use outcome::{Departure, Ending};
use page::Turn;
use record::Recorder;
pub(crate) use record::unix_ms;
use state::TrainState;

/// The thread that trains: obeys orders one after the other, and keeps the state between them.
pub(crate) struct Trainer {
    context: Context,
    orders: Receiver<Order>,
    writer: Writer,
    state: Option<TrainState>,
    turns: Turns,
}

impl Trainer {
    /// A trainer without state.
    pub(crate) fn new(context: Context, orders: Receiver<Order>, writer: Writer) -> Self {
        Self { context, orders, writer, state: None, turns: Turns::default() }
    }

    /// Obeys until told to exit, or until the device fails, which it tells.
    pub(crate) fn run(mut self) -> Option<String> {
        let mut failed = None;
        while failed.is_none()
            && let Ok(order) = self.orders.recv()
        {
            let Context { ledger, interrupt, .. } = &self.context;
            let (held, is_draining) = (self.state.as_ref().map(TrainState::held), interrupt.draining());
            match ledger.urgent(|book| self.turns.take(order, held, is_draining, book)) {
                Duty::Serve { assignment, keep } => {
                    self.state.take_if(|state| !keep || state.job != assignment.job);
                    failed = self.serve(&assignment);
                }
                Duty::Drop => self.state = None,
                Duty::Rest => {}
                Duty::Exit => break,
            }
        }
        self.writer.close();
        failed
    }

    /// One turn in one group. Tells how the device failed, if it did.
    fn serve(&mut self, assignment: &Assignment) -> Option<String> {
        let _span = info_span!("group", job = %assignment.job, generation = %assignment.generation,
            rank = %assignment.rank, world_size = assignment.world_size())
        .entered();
        // An order is obeyed in full or its state is dropped, so nothing half done is seen after a panic.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.attempt(assignment)));
        let answers = || device::answers(self.context.device);
        let outcome = outcome.unwrap_or_else(|panic| Err(Departure::of_panic(panic, answers)));
        self.context.interrupt.bars().leave();
        match outcome.map_err(|departure| departure.or_of_device(answers)) {
            Ok(Ending::Finished(summary)) => self.complete(assignment, wire::Outcome::Finished, summary),
            Ok(Ending::Stopped) => self.complete(assignment, wire::Outcome::Stopped, None),
            Ok(Ending::Drained) => self.tell_left(assignment, None),
            Err(departure @ Departure::Device(_)) => {
                let fault = departure.to_string();
                tracing::error!(
                    fault,
                    "left the group: the process is to end, because it can't use its device any more"
                );
                // Known before it has left, so that it is put into no other group.
                self.context.interrupt.bars().drain(&fault);
                std::mem::forget(self.state.take()); // freeing its tensors would take the device
                self.tell_left(assignment, departure.failure());
                return Some(fault);
            }
            Err(departure) => {
                tracing::warn!(reason = with_causes(&departure), "left the group");
                self.state.take_if(|_| departure.is_of_own_state());
                self.tell_left(assignment, departure.failure());
            }
        }
        None
    }

    fn attempt(&mut self, assignment: &Assignment) -> Result<Ending, Departure> {
        let context = &self.context;
        let begun = Instant::now();
        let place = info_span!("form").in_scope(|| Place::take(assignment, context))?;
        let formed = Instant::now();
        let held = &mut self.state;
        let state = info_span!("agree_on_state").in_scope(|| place.agree(assignment, held, context))?;
        self.turns.agreed(assignment, state.step, &mut context.ledger.book());
        let entered = wire::Entered {
            job_id: assignment.job.to_string(),
            generation: assignment.generation.0,
            step: state.step.0,
            form_seconds: (formed - begun).as_secs_f64(),
            state_seconds: formed.elapsed().as_secs_f64(),
            first_step_seconds: 0.0,
        };
        let stats = context.metrics.data();
        let corpus =
            place.wait(assignment, context, Corpus::open(&assignment.spec, context.fetch.patience, &stats))??;
        let mut recorder =
            Recorder::new(assignment, &context.ledger, &context.metrics, corpus.samples(), entered, context.peak_flops);
        let turn = Turn { assignment, context, place: &place, writer: &self.writer, corpus: &corpus };
        let ending = page::train(&turn, &mut recorder, state)?;
        recorder.finish();
        let is_wanted = || Ok(context.interrupt.check(&assignment.job, assignment.generation)?);
        let flush = || self.writer.flush::<Departure>(is_wanted);
        if ending != Ending::Finished(None) {
            flush()?;
            return Ok(ending);
        }
        let evaluate = || state.averaged(|| evaluate::all(assignment, context, &place, state));
        let ending = info_span!("evaluate").in_scope(evaluate)?;
        flush()?;
        Ok(ending)
    }

    fn complete(&self, assignment: &Assignment, outcome: wire::Outcome, summary: Option<String>) {
        let step = self.state.as_ref().map(|state| state.step).unwrap_or_default();
        self.context.ledger.urgent(|book| self.turns.completed(assignment, step, outcome, summary, book));
    }

    fn tell_left(&mut self, assignment: &Assignment, failure: Option<wire::Failure>) {
        let held = self.state.as_ref().map(TrainState::held);
        let Assignment { job, generation, .. } = assignment;
        self.context.ledger.urgent(|book| self.turns.left(job, *generation, held, failure, book));
    }
}
