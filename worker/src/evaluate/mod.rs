//! Evaluation by scoring and captioning (paper section 4), data-parallel in the group that trained:
//! every rank takes a range of the samples, counts are added up, rank 0 writes the results.
//!
//! Beside every accuracy of a captioner stands the *blind decoder's*: the same model, every image replaced by the mean
//! image of the set. What it reaches is what the captions alone give away. Two towers have no such thing: the similarity of a text to a
//! mean image is no likelihood of the text.

mod accuracy;
mod answer;
mod caption;
mod choose;
mod classify;
mod fewshot;
mod perplexity;
mod retrieval;
mod samples;
mod scores;
mod vqa;

use std::time::Instant;

use cappa_data::Sources;
use cappa_data::corpus;
use cappa_data::records::Records;
use cappa_data::shards::PoolConfig;
use cappa_data::text::Tokenizer;
use cappa_model::Captioner;
use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_session::{Assignment, Barred};
use cappa_shared::evaluation::{Accuracy, Finding, Outcome, RESULTS_VERSION, Results};
use cappa_shared::spec::{Evaluation, JobKind, Task};
use cappa_shared::storage;
use std::sync::Arc;
use tch::Tensor;

use crate::context::Context;
use crate::train::group::Place;
use crate::train::outcome::{Departure, Ending};
use crate::train::state::TrainState;
use crate::train::stats::{StepStats, vote};
pub(crate) use caption::{caption_of, read_image};
use samples::Samples;

/// What all tasks work with.
struct Evaluator<'a> {
    assignment: &'a Assignment,
    context: &'a Context,
    place: &'a Place,
    state: &'a TrainState,
    tokenizer: Tokenizer,
}

/// Does every evaluation of the spec, or as many as there is time for before the group is asked to end; [`Ending::Finished`] has the
/// results as JSON on rank 0.
pub(crate) fn all(
    assignment: &Assignment,
    context: &Context,
    place: &Place,
    state: &TrainState,
) -> Result<Ending, Departure> {
    if assignment.spec.evaluate.is_empty() {
        return Ok(Ending::Finished(None));
    }
    match results(assignment, context, place, state) {
        Err(Departure::Asked(ending)) => Ok(ending),
        summary => summary.map(Ending::Finished),
    }
}

fn results(
    assignment: &Assignment,
    context: &Context,
    place: &Place,
    state: &TrainState,
) -> Result<Option<String>, Departure> {
    let begun = Instant::now();
    let (job_id, generation) = (assignment.job.to_string(), assignment.generation.0);
    context.ledger.notice(Tell::EvaluationStarted(wire::EvaluationStarted { job_id, generation }));
    let (stats, patience) = (context.metrics.data(), context.fetch.patience);
    let tokenizer = place.wait(assignment, context, corpus::tokenizer(&assignment.spec, patience, &stats))??;
    let evaluator = Evaluator { assignment, context, place, state, tokenizer };
    let evaluations = assignment.spec.evaluate.iter().map(|evaluation| {
        evaluator.one(evaluation).map_err(|departure| match departure {
            lost @ (Departure::Barred(_) | Departure::Asked(_) | Departure::Collective(_)) => lost,
            other => Departure::Evaluation { name: evaluation.name.clone(), source: Box::new(other) },
        })
    });
    let results = Results {
        version: RESULTS_VERSION,
        job: assignment.job.to_string(),
        from: match assignment.spec.kind {
            JobKind::Evaluate => assignment.spec.init.as_ref().map(|init| init.from.clone()),
            JobKind::Pretrain => None,
        },
        step: state.step.0,
        evaluations: evaluations.collect::<Result<_, _>>()?,
        seconds: begun.elapsed().as_secs_f64(),
    };
    if assignment.rank.0 != 0 {
        return Ok(None);
    }
    evaluator.write(&results)?;
    Ok(Some(summary(results)))
}

impl Evaluator<'_> {
    fn one(&self, evaluation: &Evaluation) -> Result<Outcome, Departure> {
        let begun = Instant::now();
        let limit = evaluation.limit.unwrap_or(u64::MAX);
        let samples = self.samples(&evaluation.data, limit)?;
        let (count, finding) = match &evaluation.task {
            Task::Classify { label, labels, template } => classify::classify(self, &samples, label, labels, template)?,
            Task::Choose { caption, negative, .. } => {
                let choice = choose::Choice { caption: caption.as_deref(), negative: negative.as_deref() };
                choose::choose(self, &samples, choice)?
            }
            Task::Fewshot { label, train, shots, draws } => {
                let train = self.samples(train, u64::MAX)?;
                fewshot::fewshot(self, (&train, &samples), label, shots, *draws)?
            }
            Task::Caption(decoding) => caption::captions(self, &samples, *decoding)?,
            Task::Perplexity => perplexity::perplexity(self, &samples)?,
            Task::Retrieval => retrieval::retrieval(self, &samples)?,
            Task::Answer { question, answer, decoding } => {
                answer::answer(self, &samples, question, answer.as_deref(), *decoding)?
            }
            Task::Accuracy => accuracy::top(self, &samples)?,
        };
        tracing::info!(
            evaluation = evaluation.name,
            samples = count,
            seconds = begun.elapsed().as_secs_f64(),
            "evaluated"
        );
        Ok(Outcome { name: evaluation.name.clone(), samples: count, finding })
    }

    fn samples(&self, url: &str, limit: u64) -> Result<Samples, Departure> {
        let (stats, patience) = (self.context.metrics.data(), self.context.fetch.patience);
        let manifest = corpus::manifest(url, patience, &stats);
        let (manifest, origin) = self.place.wait(self.assignment, self.context, manifest)??;
        let records = Records::open(
            PoolConfig {
                sources: Arc::new(Sources::alone(manifest, origin)),
                cache_folder: self.context.cache.clone(),
                cache_bytes: self.context.cache_bytes,
                fetch: self.context.fetch,
                stats: self.context.metrics.data(),
            },
            self.assignment.spec.data.image_size as usize,
        )?;
        let limit = limit.min(records.len());
        Ok(Samples::new(records, self.assignment.rank, self.assignment.world_size(), limit))
    }

    /// Texts as candidates: `[N, L]`.
    fn tokens<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tensor, Departure> {
        let length = self.assignment.spec.data.text_length.longest() as usize;
        let mut ids = Vec::with_capacity(texts.len() * length);
        for text in texts {
            ids.extend(self.tokenizer.encode(text.as_ref(), length).map_err(|e| Departure::Unsuitable(e.to_string()))?);
        }
        Ok(Tensor::from_slice(&ids).view([-1, length as i64]))
    }

    /// The network that writes, which a job of two towers does not have.
    fn decoder(&self) -> Result<&Captioner, Departure> {
        self.state.model.captioner().ok_or_else(|| {
            Departure::Unsuitable("the task needs a decoder, which the job's objective does not train".to_owned())
        })
    }

    /// The mean image's encoding, a batch of one, from this rank's sum of images, if it has any, and their number.
    fn encode_mean(&self, sum: Option<Tensor>, count: i64) -> Result<Tensor, Departure> {
        Ok(self.state.model.encode(&self.mean_image(sum, count)?)?)
    }

    /// Whether going on is in vain.
    fn check(&self) -> Result<(), Barred> {
        self.context.interrupt.check(&self.assignment.job, self.assignment.generation)
    }

    /// Tells the other ranks how many samples this one has for the next round, or that it is late with them; `None` while anybody is.
    ///
    /// # Errors
    /// [`Departure::Asked`], equally on all ranks, when the group is to end.
    fn round(&self, mine: usize, is_late: bool) -> Result<Option<f64>, Departure> {
        let votes = StepStats::votes(self.assignment, self.context);
        let all = StepStats { weight: mine as f64, late: vote(is_late), ..votes }.sum(&self.place.group)?;
        match all.ending() {
            Some(ending) => Err(Departure::Asked(ending)),
            None => Ok((all.late == 0.0).then_some(all.weight)),
        }
    }

    /// Adds up over the group, and looks whether going on is in vain.
    fn sum(&self, mine: &[f64]) -> Result<Vec<f64>, Departure> {
        self.check()?;
        let sums = Tensor::from_slice(mine);
        self.place.group.all_reduce(&sums, cappa_collective::Op::Sum)?;
        Ok(Vec::try_from(sums).expect("a vector of doubles"))
    }

    /// A text of every rank, by rank.
    fn gather(&self, mine: &str) -> Result<Vec<String>, Departure> {
        let group = &self.place.group;
        let longest = Tensor::from_slice(&[mine.len() as i64]);
        group.all_reduce(&longest, cappa_collective::Op::Max)?;
        let mut padded = mine.as_bytes().to_vec();
        // JSON and labels hold no NUL, so it may fill up.
        padded.resize(longest.int64_value(&[0]) as usize, 0);
        let texts = group.all_gather(&Tensor::from_slice(&padded))?;
        let text = |tensor: Tensor| {
            let bytes = Vec::<u8>::try_from(tensor).expect("a vector of bytes");
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        Ok(texts.into_iter().map(text).collect())
    }

    fn write(&self, results: &Results) -> Result<(), Departure> {
        let name = format!("evaluations/{:012}/results.json", results.step);
        let document = serde_json::to_vec_pretty(results).expect("results are plain data");
        let write = async { storage::create(&self.assignment.folder)?.put(&name, document).await };
        self.context.wait(self.assignment, write)?.map_err(|e| crate::checkpoint::CheckpointError::from(e).into())
    }
}

/// The results without their pictures: small enough for the coordinator's log.
fn summary(mut results: Results) -> String {
    for outcome in &mut results.evaluations {
        if let Finding::Caption { examples, .. } = &mut outcome.finding {
            examples.clear();
        }
    }
    serde_json::to_string(&results).expect("results are plain data")
}

/// Shares of counts; nothing of the blind decoder where there is none.
fn accuracy(right: f64, blind: Option<f64>, samples: f64, labels: usize) -> Accuracy {
    let share = |count: f64| if samples > 0.0 { count / samples } else { 0.0 };
    Accuracy {
        accuracy: share(right),
        blind_accuracy: blind.map(share),
        chance: 1.0 / labels.max(1) as f64,
        labels: labels as u64,
    }
}
