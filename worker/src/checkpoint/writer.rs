//! Writing this rank's part of a checkpoint while training goes on.

use std::sync::Arc;
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

use super::{CheckpointError, parts};
use crate::metrics::Metrics;
use crate::session::ledger::Ledger;
use crate::train::state::TrainState;

/// Pauses between attempts to write a part.
const RETRIES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

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
    stall: Duration,
}

enum Task {
    Write(Box<Snapshot>),
    Flush(Sender<()>),
}

/// The thread that writes. One snapshot is written and one may wait; a third makes training wait,
/// which bounds the memory and shows up as checkpoint stall.
pub(crate) struct Writer {
    tasks: Sender<Task>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
        runtime: tokio::runtime::Handle,
    ) -> std::io::Result<Self> {
        let (tasks, received) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || write_all(&received, &ledger, &metrics, &runtime))?;
        Ok(Self { tasks, thread })
    }

    /// Copies this rank's share of the state and hands it to the thread. Returns how long training
    /// stood still.
    pub(crate) fn save(&self, assignment: &Assignment, state: &TrainState, vocabulary: &str) -> Duration {
        let begun = Instant::now();
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
            stall: begun.elapsed(),
        };
        self.give(Task::Write(Box::new(snapshot)));
        begun.elapsed()
    }

    /// Waits until everything saved so far is written or has failed, or `check` says that this is in vain.
    pub(crate) fn flush<E>(&self, check: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let (done, wait) = bounded(1);
        self.give(Task::Flush(done));
        // When the thread is gone there is nothing to wait for.
        while wait.recv_timeout(NOTICE) == Err(RecvTimeoutError::Timeout) {
            check()?;
        }
        Ok(())
    }

    /// Writes what is left and ends the thread.
    pub(crate) fn close(self) {
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

fn write_all(tasks: &Receiver<Task>, ledger: &Ledger, metrics: &Metrics, runtime: &tokio::runtime::Handle) {
    for task in tasks {
        match task {
            Task::Write(snapshot) => {
                let begun = Instant::now();
                let span = tracing::info_span!("write_checkpoint", job = %snapshot.job, step = %snapshot.step);
                let outcome = span.in_scope(|| write(&snapshot, runtime));
                metrics.checkpoint(&outcome, snapshot.stall, begun.elapsed());
                let report = match outcome {
                    Ok(part) => written(&snapshot, part, begun.elapsed(), ledger.book().quarantined()),
                    Err(error) => {
                        let error = with_causes(&error);
                        tracing::error!(step = %snapshot.step, error, "the checkpoint failed; training goes on");
                        failed(&snapshot, error)
                    }
                };
                ledger.checkpoint(snapshot.step, snapshot.generation, report);
            }
            // An error means that nobody waits any more.
            Task::Flush(done) => drop(done.send(())),
        }
    }
}

/// Writes the part, several times if the store fails.
fn write(snapshot: &Snapshot, runtime: &tokio::runtime::Handle) -> Result<wire::Part, CheckpointError> {
    let file = bytes::Bytes::from(parts::serialise(&snapshot.tensors, Some(&snapshot.vocabulary))?);
    let sha256 = hex::encode(Sha256::digest(&file));
    let name = part_name(snapshot.rank, snapshot.world_size);
    let path = format!("{}/{name}", attempt_folder(snapshot.step, snapshot.generation));
    let folder = storage::create(&snapshot.folder)?;
    let mut pauses = RETRIES.iter();
    loop {
        match (runtime.block_on(folder.put(&path, file.clone())), pauses.next()) {
            (Ok(()), _) => return Ok(wire::Part { name, bytes: file.len() as u64, sha256 }),
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(pause)) => {
                tracing::warn!(error = with_causes(&error), "a checkpoint part was not written; trying again");
                std::thread::sleep(*pause);
            }
        }
    }
}

fn written(snapshot: &Snapshot, part: wire::Part, took: Duration, quarantined: Vec<wire::Quarantined>) -> Tell {
    Tell::PartsWritten(wire::PartsWritten {
        job_id: snapshot.job.to_string(),
        generation: snapshot.generation.0,
        step: snapshot.step.0,
        rank: snapshot.rank.0,
        world_size: snapshot.world_size,
        parts: vec![part],
        stall_seconds: snapshot.stall.as_secs_f64(),
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
