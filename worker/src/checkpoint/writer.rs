//! Writing this rank's part of a checkpoint while training goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_session::Assignment;
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::{attempt_folder, part_name};
use cappa_shared::ids::{Generation, JobId, Rank, Step};
use cappa_shared::storage;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sha2::{Digest as _, Sha256};
use tch::{Device, Tensor};

use super::{CheckpointError, Unsaved, parts};
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::metrics::Metrics;
use crate::session::ledger::Ledger;
use crate::train::state::TrainState;

/// Pauses between attempts to write a part.
const RETRIES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Pause between further attempts, where the group ends with the part.
const PAUSE: Duration = Duration::from_secs(2);

/// How soon a wait notices that it is in vain.
const NOTICE: Duration = Duration::from_millis(50);

/// A copy of this rank's share of the state, in host memory.
struct Snapshot {
    job: JobId,
    folder: String,
    step: Step,
    generation: Generation,
    rank: Rank,
    world_size: u32,
    tensors: Vec<(String, Tensor)>,
    /// Digest of the vocabulary that its network was trained with.
    vocabulary: String,
    /// How long training stood still; known once this was handed over.
    stall: Receiver<Duration>,
    /// Nobody makes further steps from what is in memory: it is written again and again.
    is_last: bool,
}

enum Task {
    Write(Box<Snapshot>),
    Flush(Sender<Result<(), CheckpointError>>),
}

/// The thread that writes. One snapshot is written and one may wait; a third makes training wait,
/// which bounds the memory and shows up as checkpoint stall.
pub(crate) struct Writer {
    tasks: Sender<Task>,
    thread: JoinHandle<()>,
    closes: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(context: &Context) -> std::io::Result<Self> {
        let (tasks, received) = bounded(1);
        let closes = Arc::<AtomicBool>::default();
        let means = Means {
            ledger: context.ledger.clone(),
            metrics: context.metrics.clone(),
            interrupt: context.interrupt.clone(),
            runtime: context.runtime.clone(),
            patience: context.fetch.patience,
            closes: closes.clone(),
        };
        let thread =
            std::thread::Builder::new().name("checkpoint".into()).spawn(move || write_all(&received, &means))?;
        Ok(Self { tasks, thread, closes })
    }

    /// Copies this rank's share of the state and hands it to the thread. The `is_last` of a group is written until it is
    /// there, or the patience with stores is over. Returns how long training stood still.
    pub(crate) fn save(
        &self,
        assignment: &Assignment,
        state: &TrainState,
        vocabulary: &str,
        is_last: bool,
    ) -> Duration {
        let begun = Instant::now();
        let (stood, stall) = bounded(1);
        let named = state.named();
        let bytes: Vec<usize> = named.iter().map(|(_, tensor)| parts::bytes_of(tensor)).collect();
        let mine = parts::owners(&bytes, assignment.world_size());
        let tensors = named
            .into_iter()
            .zip(mine)
            .filter(|(_, owner)| *owner == assignment.rank.0 as usize)
            .map(|((name, tensor), _)| (name, host_copy(&tensor)))
            .collect();
        let snapshot = Snapshot {
            job: assignment.job.clone(),
            folder: assignment.folder.clone(),
            step: state.step,
            generation: assignment.generation,
            rank: assignment.rank,
            world_size: u32::try_from(assignment.world_size()).expect("a world size is small"),
            tensors,
            vocabulary: vocabulary.to_owned(),
            stall,
            is_last,
        };
        self.give(Task::Write(Box::new(snapshot)));
        let took = begun.elapsed();
        // An error means that the thread is gone, which was said.
        let _ = stood.send(took);
        took
    }

    /// Waits until everything saved so far is written or has failed, or `check` says that this is in vain.
    ///
    /// # Errors
    /// Those of `check`, and [`Unsaved`] where the last of a group could not be written.
    pub(crate) fn flush<E: From<Unsaved>>(&self, check: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let (done, wait) = bounded(1);
        self.give(Task::Flush(done));
        loop {
            match wait.recv_timeout(NOTICE) {
                Ok(written) => return written.map_err(|error| Unsaved(error).into()),
                Err(RecvTimeoutError::Timeout) => check()?,
                // When the thread is gone there is nothing to wait for.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Writes what is left and ends the thread.
    pub(crate) fn close(self) {
        self.closes.store(true, Ordering::Relaxed);
        drop(self.tasks);
        if self.thread.join().is_err() {
            tracing::error!("the checkpoint thread panicked");
        }
    }

    fn give(&self, task: Task) {
        if self.tasks.send(task).is_err() {
            tracing::error!("the checkpoint thread is gone; this checkpoint is lost");
        }
    }
}

fn host_copy(tensor: &Tensor) -> Tensor {
    match tensor.device() {
        Device::Cpu => tensor.copy(),
        _ => tensor.to_device(Device::Cpu),
    }
}

/// What the thread works with.
struct Means {
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    interrupt: Arc<Interrupt>,
    runtime: tokio::runtime::Handle,
    patience: Duration,
    closes: Arc<AtomicBool>,
}

impl Means {
    /// Whether a part that was not written is worth further attempts.
    fn keep_trying(&self, snapshot: &Snapshot, begun: Instant) -> bool {
        let is_wanted = || self.interrupt.check(&snapshot.job, snapshot.generation).is_ok();
        let is_closing = || self.closes.load(Ordering::Relaxed);
        snapshot.is_last && begun.elapsed() < self.patience && is_wanted() && !is_closing()
    }
}

fn write_all(tasks: &Receiver<Task>, means: &Means) {
    let mut unsaved = None;
    for task in tasks {
        match task {
            Task::Write(snapshot) => {
                let begun = Instant::now();
                let span = tracing::info_span!("write_checkpoint", job = %snapshot.job, step = %snapshot.step);
                let outcome = span.in_scope(|| write(&snapshot, means));
                let stall = snapshot.stall.recv().unwrap_or_default();
                means.metrics.checkpoint(&outcome, stall, begun.elapsed());
                let (report, error) = match outcome {
                    Ok(part) => {
                        let quarantined = means.ledger.book().quarantined();
                        (written(&snapshot, part, (stall, begun.elapsed()), quarantined), None)
                    }
                    Err(error) => {
                        let told = with_causes(&error);
                        tracing::error!(step = %snapshot.step, error = told, "the checkpoint failed");
                        (failed(&snapshot, told), Some(error))
                    }
                };
                means.ledger.checkpoint(snapshot.step, snapshot.generation, report);
                unsaved = error.filter(|_| snapshot.is_last);
            }
            // An error means that nobody waits any more.
            Task::Flush(done) => drop(done.send(unsaved.take().map_or(Ok(()), Err))),
        }
    }
}

/// Writes the part, several times if the store fails.
fn write(snapshot: &Snapshot, means: &Means) -> Result<wire::Part, CheckpointError> {
    let file = bytes::Bytes::from(parts::serialise(&snapshot.tensors, Some(&snapshot.vocabulary))?);
    let sha256 = hex::encode(Sha256::digest(&file));
    let name = part_name(snapshot.rank, snapshot.world_size);
    let path = format!("{}/{name}", attempt_folder(snapshot.step, snapshot.generation));
    let folder = storage::create(&snapshot.folder)?;
    let (begun, stats, mut waiting) = (Instant::now(), means.metrics.data(), None);
    let further = std::iter::from_fn(|| means.keep_trying(snapshot, begun).then_some(PAUSE));
    let mut pauses = RETRIES.into_iter().chain(further);
    loop {
        match (means.runtime.block_on(folder.put_large(&path, file.clone())), pauses.next()) {
            (Ok(()), _) => return Ok(wire::Part { name, bytes: file.len() as u64, sha256 }),
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(pause)) => {
                tracing::warn!(error = with_causes(&error), "a checkpoint part was not written; trying again");
                let wait = || stats.wait_for(format!("{}/{path}", snapshot.folder));
                waiting = waiting.or_else(|| snapshot.is_last.then(wait));
                std::thread::sleep(pause);
            }
        }
    }
}

fn written(
    snapshot: &Snapshot,
    part: wire::Part,
    (stall, took): (Duration, Duration),
    quarantined: Vec<wire::Quarantined>,
) -> Tell {
    Tell::PartsWritten(wire::PartsWritten {
        job_id: snapshot.job.to_string(),
        generation: snapshot.generation.0,
        step: snapshot.step.0,
        rank: snapshot.rank.0,
        world_size: snapshot.world_size,
        parts: vec![part],
        stall_seconds: stall.as_secs_f64(),
        write_seconds: took.as_secs_f64(),
        quarantined,
    })
}

fn failed(snapshot: &Snapshot, error: String) -> Tell {
    Tell::CheckpointFailed(wire::CheckpointFailed {
        job_id: snapshot.job.to_string(),
        generation: snapshot.generation.0,
        step: snapshot.step.0,
        rank: snapshot.rank.0,
        error,
    })
}

#[cfg(test)]
mod tests {
    use cappa_shared::spec::{JobSpec, SpecBase};

    use super::*;

    fn assignment(folder: &str) -> Assignment {
        let text = "apiVersion: cappa.dev/v1\nname: demo\nduration: {steps: 10}\nmodel: {preset: tiny, width: 32, layers: 1, \
                    decoder_layers: 1, mlp: 32}\ndata: {train: /data/manifest.json, tokenizer: /data/tokenizer.json}\n";
        Assignment {
            job: "demo-1".parse().unwrap(),
            generation: Generation(1),
            rank: Rank(0),
            lead: Rank(0),
            members: vec![cappa_session::Peer { store_address: "127.0.0.1:1".into() }],
            spec: JobSpec::parse(text, &SpecBase::none()).unwrap(),
            folder: folder.into(),
            restore: Vec::new(),
            forming: Duration::from_secs(1),
            operation: Duration::from_secs(1),
            total_steps: Step(10),
            discarded: Generation(0),
        }
    }

    #[test]
    fn the_stall_that_is_told_has_the_wait_for_the_snapshots_before() {
        let folder = tempfile::tempdir().unwrap();
        let assignment = assignment(folder.path().to_str().unwrap());
        let state = TrainState::initialise(&assignment.job, &assignment.spec, Step(10), Device::Cpu).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (metrics, closes) = (Arc::new(Metrics::default()), Arc::<AtomicBool>::default());
        let means = Means {
            ledger: Arc::default(),
            metrics: metrics.clone(),
            interrupt: Arc::default(),
            runtime: runtime.handle().clone(),
            patience: Duration::ZERO,
            closes: closes.clone(),
        };
        let (tasks, received) = bounded(1);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(NOTICE);
            write_all(&received, &means);
        });
        let writer = Writer { tasks, thread, closes };
        let stood: Duration = (0..3).map(|_| writer.save(&assignment, &state, "", false)).sum();
        writer.close();
        let text = metrics.text();
        let told = text.lines().find_map(|line| line.strip_prefix("cappa_checkpoint_stall_duration_seconds_sum "));
        let told: f64 = told.unwrap().parse().unwrap();
        assert!((told - stood.as_secs_f64()).abs() < 1e-6, "{told} of {stood:?}");
    }
}
