//! A rank's batches: from the data crate's bytes to the model crate's tensors.
//!
//! ```text
//! loader ─ bytes ─> feeder (1 thread) ─ tensors in host memory ─> training thread ─ copy that it does not wait for ─> device
//! ```

mod feeder;
mod tensors;

use std::time::{Duration, Instant};

use cappa_data::corpus::Corpus;
use cappa_data::loader::{Loader, LoaderConfig};
use cappa_session::{Assignment, Barred};
use cappa_shared::ids::Step;
use cappa_shared::order::lanes_of_rank;

use crate::context::Context;
use crate::train::outcome::Departure;
use feeder::Feeder;
pub(crate) use tensors::RankBatch;

/// Steps made ahead by the loader; the feeder holds up to two more, and one lies here.
const DEPTH: usize = 4;
/// How often a wait for data looks whether it is in vain.
const PATIENCE: Duration = Duration::from_millis(50);

/// A rank's batches, in step order. Dropping it ends the threads that make them.
pub(crate) struct Batches<'a> {
    feeder: Feeder,
    /// The next step's batch, once it is there.
    ahead: Option<Result<RankBatch, Departure>>,
    assignment: &'a Assignment,
    context: &'a Context,
}

impl<'a> Batches<'a> {
    /// Starts making the batches of this rank's lanes, from a step on.
    pub(crate) fn start(
        corpus: &Corpus,
        assignment: &'a Assignment,
        context: &'a Context,
        first_step: Step,
    ) -> Result<Self, Departure> {
        let spec = &assignment.spec;
        let world_size = u32::try_from(assignment.world_size()).expect("a world size is small");
        let stats = context.metrics.data();
        let loader = Loader::start(LoaderConfig {
            lanes: lanes_of_rank(assignment.rank, world_size, spec.data.lanes),
            first_step,
            end_step: Some(assignment.total_steps),
            cache_folder: context.cache.clone(),
            cache_bytes: context.cache_bytes,
            decode_threads: context.decode_threads(assignment.members_on_host()),
            fetch: context.fetch,
            depth: DEPTH,
            stats: stats.clone(),
            ..corpus.loader(spec, &context.cache)?
        })?;
        let feeder = Feeder::start(loader, context.device, spec.data.image_size, stats)?;
        Ok(Self { feeder, ahead: None, assignment, context })
    }

    /// Whether it is known what the next step's batch is, or why there is none, after a wait of so long at most.
    ///
    /// # Errors
    /// When the group is given up meanwhile.
    pub(crate) fn are_ready(&mut self, limit: Duration) -> Result<bool, Barred> {
        let begun = Instant::now();
        while self.ahead.is_none() {
            let left = limit.saturating_sub(begun.elapsed());
            self.ahead = self.feeder.next_within(left.min(PATIENCE)).transpose();
            if self.ahead.is_none() && left.is_zero() {
                return Ok(false);
            }
            self.context.interrupt.check(&self.assignment.job, self.assignment.generation)?;
        }
        Ok(true)
    }

    /// The next step's batch, its images on their way to the device; gives up when the group is.
    pub(crate) fn next(&mut self) -> Result<RankBatch, Departure> {
        let batch = loop {
            match self.ahead.take() {
                Some(batch) => break batch?,
                None => self.are_ready(Duration::MAX)?,
            };
        };
        Ok(batch.sent_to(self.context.device)?)
    }
}
