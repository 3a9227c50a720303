//! The training page.
//!
//! Captioners as in Tschannen et al., arXiv 2306.07915, section 3: an image encoder and a text decoder
//! trained to predict the caption, each example autoregressively or, with the objective's parallel
//! fraction, all tokens at once from mask tokens. The loss is the mean over a caption's tokens, then
//! over the examples of the global batch, whatever the number of ranks. Or two towers, trained to tell which
//! text of the global batch belongs to which image. [`Plan`] has the losses of both.

use std::time::Duration;

use cappa_collective::{Reducer, ReducerOptions};
use cappa_data::corpus::Corpus;
use cappa_model::ModelError;
use cappa_proto as wire;
use cappa_session::Assignment;
use cappa_shared::checkpoint::manifest_path;
use cappa_shared::ids::Step;
use tch::Tensor;

use super::group::{Place, patience};
use super::loss::Plan;
use super::outcome::{Departure, Ending};
use super::record::{Clock, Phase, Recorder};
use super::state::TrainState;
use super::stats::{StepStats, vote};
use super::verdict::{Verdict, anchor, judge};
use crate::batches::{Batches, RankBatch};
use crate::checkpoint::Writer;
use crate::context::Context;

/// What a turn of the page works with.
pub(super) struct Turn<'a> {
    /// The order that formed the group.
    pub assignment: &'a Assignment,
    /// The process.
    pub context: &'a Context,
    /// The place in the group.
    pub place: &'a Place,
    /// Where checkpoints go.
    pub writer: &'a Writer,
    /// What is trained on.
    pub corpus: &'a Corpus,
}

impl Turn<'_> {
    /// What this rank brings to a step's sums, besides the loss and its time.
    fn stats(&self, batch: &RankBatch) -> StepStats {
        let bad = batch.quarantined.len() as f64;
        StepStats { weight: batch.weight, seen: batch.seen, bad, ..self.votes() }
    }

    /// Whether this rank was asked to end the group.
    fn votes(&self) -> StepStats {
        StepStats::votes(self.assignment, self.context)
    }

    /// Waits until every rank has its batch, and not inside the gradients' collectives, which would take a rank that waits for its store
    /// for one that hangs. Ends where the group is asked to end meanwhile.
    fn await_data(&self, batches: &mut Batches<'_>, clock: &mut Clock) -> Result<Option<Ending>, Departure> {
        loop {
            let is_ready = batches.are_ready(patience(self.assignment))?;
            clock.lap(Phase::Data);
            let all = StepStats { late: vote(!is_ready), ..self.votes() }.sum(&self.place.group)?;
            clock.lap_for_others();
            match all.ending() {
                _ if all.late == 0.0 => return Ok(None),
                None => {}
                ending => return Ok(ending),
            }
        }
    }

    /// After a bad update: goes back to the newest checkpoint of the schedule, and tells its step.
    fn rewind(&self, state: &mut TrainState, all: &StepStats) -> Result<Step, Departure> {
        let to = anchor(&self.assignment.spec, state);
        let earlier = self.place.earlier(self.assignment, self.context, to)?;
        state.rewind(&earlier.tensors, all)?;
        Ok(earlier.step)
    }

    /// Tells that the update of a step was not made: before the checkpoint after it, whose account has that.
    fn tell_refused(&self, state: &TrainState, why: &str, rewound_to: Option<Step>) {
        let (step, to) = (state.step, rewound_to.map(|to| to.0));
        tracing::warn!(%step, why, rewound_to = to, "an update is not made");
        self.context.ledger.urgent(|book| {
            book.refuse(wire::UpdateRefused {
                job_id: self.assignment.job.to_string(),
                generation: self.assignment.generation.0,
                step: step.0,
                reason: why.to_owned(),
                rewound_to: to,
            });
        });
    }

    /// The samples of this rank whose update was not made: listed as bad ones are.
    fn spent(&self, batch: RankBatch, step: Step, why: &str) -> Vec<wire::Quarantined> {
        let reason = format!("update_skipped: the update of step {step} was not made, {why}");
        let spent = batch.good.into_iter().map(|(sample, key)| wire::Quarantined {
            shard: self.corpus.shard_name(sample.shard),
            index: sample.index.into(),
            key,
            reason: reason.clone(),
        });
        batch.quarantined.into_iter().chain(spent).collect()
    }

    /// Hands this rank's share of the state over to be written, of a group that may end here.
    fn save(&self, state: &TrainState, ending: Option<&Ending>) {
        let is_last = match ending {
            // The others go on with what they hold.
            Some(Ending::Drained) => self.context.interrupt.draining(),
            ending => ending.is_some(),
        };
        let is_last = is_last || state.step >= self.assignment.total_steps;
        self.writer.save(self.assignment, state, self.corpus.vocabulary(), is_last);
    }

    /// Saves what a group that broke may have made without saving it.
    fn save_again(&self, state: &TrainState) {
        let is_committed = self.assignment.restore.contains(&manifest_path(state.step));
        if state.step > Step(0) && !is_committed {
            self.save(state, None);
        }
    }

    /// Compares the replicas, where the job asks for that after this step.
    fn verify(&self, state: &TrainState, saves: bool) -> Result<(), Departure> {
        match self.assignment.spec.verify_replicas {
            Some(every) if saves || state.step.0.is_multiple_of(every) => {
                self.place.verify(self.assignment, state, self.context)
            }
            _ => Ok(()),
        }
    }
}

/// Trains from the state's step to the job's last, or until the group breaks or is asked to end.
pub(super) fn train(turn: &Turn<'_>, recorder: &mut Recorder, state: &mut TrainState) -> Result<Ending, Departure> {
    let Assignment { spec, total_steps, .. } = turn.assignment;
    if state.step >= *total_steps {
        turn.save_again(state);
        return Ok(Ending::Finished(None)); // only evaluations are left
    }
    let group = &turn.place.group;
    state.model.params().clear_grads()?; // a group that broke left gradients half reduced
    let trained = state.model.params().tensors().filter(|tensor| tensor.requires_grad());
    let params: Vec<Tensor> = trained.map(Tensor::shallow_clone).collect();
    let mut reducer = Reducer::new(group, &params, ReducerOptions::default())?;
    let mut batches = Batches::start(turn.corpus, turn.assignment, turn.context, state.step)?;
    // The reducer averages over ranks, so each brings its sum as a share of world size / batch size.
    let share = group.size() as f64 / f64::from(spec.batch_size);
    let plan = Plan::new(spec, group.size());

    let (mut somebody_is_late, mut saved) = (true, Step(0));
    while state.step < *total_steps {
        let mut clock = recorder.start();
        if somebody_is_late && let Some(ending) = turn.await_data(&mut batches, &mut clock)? {
            if state.step > saved {
                turn.verify(state, true)?;
                turn.save(state, Some(&ending));
            }
            return Ok(ending);
        }
        let batch = batches.next()?;
        clock.lap(Phase::Data);

        let mut passes = plan.passes(&state.model, &batch.examples, Some(group))?;
        while passes.remaining() > 1 {
            passes.forward()?.backward(share).map_err(ModelError::Torch)?; // adds to this rank's gradients
        }
        reducer.prepare_forward()?;
        let pass = passes.forward()?;
        clock.lap(Phase::Forward);

        reducer.prepare_backward(&[pass.scalar()])?;
        let backward = pass.backward(share);
        reducer.finish(backward)?; // gradients are averaged while backward runs
        clock.lap(Phase::Backward);

        // Where this completes, every rank has all gradients: the step counts.
        clock.others_took(passes.waited());
        let (loss, busy) = (passes.sum(), clock.busy());
        let late = vote(!batches.are_ready(Duration::ZERO)?);
        let all = StepStats { loss, busy, late, ..turn.stats(&batch) }.sum(group)?;
        somebody_is_late = all.late > 0.0;
        recorder.check(&all, state, &batch.quarantined)?;
        clock.lap(Phase::Comm);

        let verdict = judge(spec, state, &all)?;
        let update = state.update(&verdict, &all, spec.batch_size)?;
        let rewound_to = match verdict {
            Verdict::Rewind(_) => Some(turn.rewind(state, &all)?),
            _ => None,
        };
        let listed = match verdict.fault() {
            None => batch.quarantined,
            Some(why) => {
                turn.tell_refused(state, why, rewound_to);
                turn.spent(batch, state.step, why)
            }
        };
        clock.lap(Phase::Optimizer);

        let ending = all.ending();
        let is_due = state.step.0.is_multiple_of(spec.checkpoint.every) || state.step == *total_steps;
        let saves = is_due || ending.is_some() || rewound_to.is_some();
        let verified = turn.verify(state, saves); // no checkpoint is made of replicas that have come apart
        clock.lap(Phase::Comm);
        if saves && verified.is_ok() {
            turn.save(state, ending.as_ref());
            saved = state.step;
            clock.lap(Phase::Checkpoint);
        }
        recorder.record(clock, &all, update.as_ref(), verdict.told(), state, listed);
        verified?;
        if let Some(ending) = ending.filter(|_| state.step < *total_steps) {
            return Ok(ending);
        }
    }
    Ok(Ending::Finished(None))
}
