//! Training: what a worker does with a place in a group, from forming it to its ending.
//!
//! [`page::train`] is the algorithm; this module brings it its group, state and data, and takes what
//! becomes of it to the coordinator.

pub(crate) mod config;
pub(crate) mod group;
pub(crate) mod outcome;
mod page;
mod record;
pub(crate) mod state;
mod stats;

use std::time::Instant;

use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_shared::causes::with_causes;
use cappa_shared::ids::{Generation, JobId};
use crossbeam_channel::Receiver;
use tracing::info_span;

use crate::batches::Corpus;
use crate::checkpoint::Writer;
use crate::context::Context;
use crate::evaluate;
use crate::session::assignment::{Assignment, Order};
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
    left: Option<(JobId, Generation)>,
}

impl Trainer {
    /// A trainer without state.
    pub(crate) fn new(context: Context, orders: Receiver<Order>, writer: Writer) -> Self {
        Self { context, orders, writer, state: None, left: None }
    }

    /// Obeys until told to exit.
    pub(crate) fn run(mut self) {
        while let Ok(order) = self.orders.recv() {
            match order {
                Order::Form(assignment) => self.serve(&assignment),
                Order::Leave { job, generation } => self.answer_leave(&job, generation),
                Order::Release(job) => {
                    if self.state.as_ref().is_none_or(|state| state.job == job) {
                        self.state = None;
                        self.context.ledger.release();
                    }
                }
                Order::Exit => break,
            }
        }
        self.writer.close();
    }

    /// One turn in one group.
    fn serve(&mut self, assignment: &Assignment) {
        let _span = info_span!("group", job = %assignment.job, generation = %assignment.generation,
            rank = %assignment.rank, world_size = assignment.world_size())
        .entered();
        if self.context.interrupt.draining() {
            return self.tell_left(&assignment.job, assignment.generation, None);
        }
        let outcome = self.attempt(assignment);
        self.context.interrupt.leave();
        match outcome {
            Ok(Ending::Finished(summary)) => self.complete(assignment, wire::Outcome::Finished, summary),
            Ok(Ending::Stopped) => self.complete(assignment, wire::Outcome::Stopped, None),
            Ok(Ending::Drained) => self.tell_left(&assignment.job, assignment.generation, None),
            Err(departure) => {
                tracing::warn!(reason = with_causes(&departure), "left the group");
                self.tell_left(&assignment.job, assignment.generation, departure.failure());
            }
        }
    }

    fn attempt(&mut self, assignment: &Assignment) -> Result<Ending, Departure> {
        let context = &self.context;
        let begun = Instant::now();
        let step = self.state.as_ref().filter(|s| s.job == assignment.job).map(|s| s.step).unwrap_or_default();
        context.ledger.hold(&assignment.job, assignment.generation, step, true);
        context.ledger.speak(assignment.rank.0 == 0);
        let place = info_span!("form").in_scope(|| Place::take(assignment, context))?;
        let formed = Instant::now();
        let held = &mut self.state;
        let state = info_span!("agree_on_state").in_scope(|| place.agree(assignment, held, context))?;
        context.ledger.hold(&assignment.job, assignment.generation, state.step, true);
        let entered = wire::Entered {
            job_id: assignment.job.to_string(),
            generation: assignment.generation.0,
            step: state.step.0,
            form_seconds: (formed - begun).as_secs_f64(),
            state_seconds: formed.elapsed().as_secs_f64(),
            first_step_seconds: 0.0,
        };
        let corpus = context.runtime.block_on(Corpus::open(&assignment.spec))?;
        let mut recorder =
            Recorder::new(assignment, &context.ledger, &context.metrics, corpus.samples(), entered, context.peak_flops);
        let turn = Turn { assignment, context, place: &place, writer: &self.writer, corpus: &corpus };
        let ending = page::train(&turn, &mut recorder, state)?;
        recorder.finish();
        if ending != Ending::Finished(None) {
            self.writer.flush();
            return Ok(ending);
        }
        let summary = info_span!("evaluate").in_scope(|| evaluate::all(assignment, context, &place, state))?;
        self.writer.flush();
        Ok(Ending::Finished(summary))
    }

    fn complete(&mut self, assignment: &Assignment, outcome: wire::Outcome, summary: Option<String>) {
        let step = self.state.as_ref().map_or(0, |state| state.step.0);
        self.context.ledger.complete(wire::Completed {
            job_id: assignment.job.to_string(),
            generation: assignment.generation.0,
            step,
            outcome: outcome.into(),
            summary_json: summary.unwrap_or_default(),
        });
    }

    /// An order to leave that came when the thread was out already, or before it was in.
    fn answer_leave(&mut self, job: &JobId, generation: Generation) {
        let answered = self.left.as_ref().is_some_and(|(j, g)| j == job && *g >= generation);
        if !answered {
            self.tell_left(job, generation, None);
        }
    }

    fn tell_left(&mut self, job: &JobId, generation: Generation, failure: Option<wire::Failure>) {
        let state = self.state.as_ref().filter(|state| state.job == *job);
        let step = state.map(|state| state.step).unwrap_or_default();
        match state {
            Some(_) => self.context.ledger.hold(job, generation, step, false),
            None => self.context.ledger.release(),
        }
        self.context.ledger.notice(Tell::Left(wire::Left {
            job_id: job.to_string(),
            generation: generation.0,
            step: step.0,
            has_state: state.is_some(),
            failure,
        }));
        self.left = Some((job.clone(), generation));
    }
}
