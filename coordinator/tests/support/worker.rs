//! A worker without training: it says what the test tells it to, and lives by heartbeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cappa_proto::coordinator_message::Message as FromCoordinator;
use cappa_proto::worker_message::Message;
use cappa_proto::workers_client::WorkersClient;
use cappa_proto::{
    Abort, Completed, CoordinatorMessage, Entered, Form, Heartbeat, Hello, Holding, Left, Outcome, Part, PartsWritten,
    Progress, StepMetrics, Stop, Welcome, WorkerMessage,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::PATIENCE;

static INCARNATIONS: AtomicU32 = AtomicU32::new(1);

/// One stream of one scripted process. Dropping it is the end of the stream, as of a killed process.
pub struct FakeWorker {
    pub id: String,
    pub incarnation: String,
    pub welcome: Welcome,
    to: mpsc::Sender<WorkerMessage>,
    from: Streaming<CoordinatorMessage>,
    place: Arc<Mutex<Heartbeat>>,
    heart: JoinHandle<()>,
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

impl FakeWorker {
    /// A new process that holds nothing.
    pub async fn connect(address: &str, id: &str) -> Self {
        let incarnation = INCARNATIONS.fetch_add(1, Ordering::Relaxed).to_string();
        Self::open(address, id, &incarnation, Heartbeat::default()).await
    }

    /// The same process on a new stream, at work in its group if it was.
    pub async fn reconnect(self, address: &str) -> Self {
        let place = self.place.lock().clone();
        Self::open(address, &self.id, &self.incarnation, place).await
    }

    async fn open(address: &str, id: &str, incarnation: &str, place: Heartbeat) -> Self {
        let (to, messages) = mpsc::channel(64);
        let Heartbeat { job_id, generation, step, .. } = place.clone();
        let hello = Hello {
            worker_id: id.to_owned(),
            incarnation: incarnation.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: "here".to_owned(),
            store_address: format!("{id}:1"),
            holding: (!job_id.is_empty()).then_some(Holding { job_id, generation, step, stepping: true }),
            ..Hello::default()
        };
        to.send(WorkerMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
        let mut client = WorkersClient::connect(address.to_owned()).await.unwrap();
        let mut from = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let Some(FromCoordinator::Welcome(welcome)) = from.message().await.unwrap().and_then(|first| first.message)
        else {
            panic!("the first message is no welcome");
        };
        let place = Arc::new(Mutex::new(place));
        let heart = tokio::spawn(beat(to.clone(), place.clone()));
        Self { id: id.to_owned(), incarnation: incarnation.to_owned(), welcome, to, from, place, heart }
    }

    /// The next thing the coordinator says.
    pub async fn next(&mut self) -> FromCoordinator {
        let next = tokio::time::timeout(PATIENCE, self.from.message()).await;
        let next = next.unwrap_or_else(|_| panic!("{} waited in vain for the coordinator", self.id));
        next.unwrap().and_then(|message| message.message).expect("the stream goes on")
    }

    /// Likewise, but that a checkpoint is committed.
    pub async fn next_order(&mut self) -> FromCoordinator {
        loop {
            let next = self.next().await;
            if !matches!(next, FromCoordinator::Committed(_)) {
                return next;
            }
        }
    }

    /// What the coordinator says within a while, if anything.
    pub async fn hears(&mut self, within: Duration) -> Option<FromCoordinator> {
        let next = tokio::time::timeout(within, self.from.message()).await.ok()?;
        next.ok()?.and_then(|message| message.message)
    }

    /// Waits for the end of its stream.
    pub async fn ended(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.from.message()).await;
        let end = end.unwrap_or_else(|_| panic!("{} waited in vain for the end of its stream", self.id));
        assert!(matches!(end, Ok(None)), "{}: {end:?} instead of the end of its stream", self.id);
    }

    pub async fn say(&self, message: Message) {
        self.to.send(WorkerMessage { message: Some(message) }).await.unwrap();
    }

    /// Stops its heartbeats, as a process that hangs.
    pub fn hang(&self) {
        self.heart.abort();
    }

    /// Is told to form, and has made its first step in the group.
    pub async fn form(&mut self) -> Form {
        let form = match self.next_order().await {
            FromCoordinator::Form(form) => form,
            other => panic!("{} was told {other:?} instead of to form", self.id),
        };
        let lead = &form.members[form.lead as usize];
        self.entered(&form, lead.step + 1).await;
        form
    }

    pub async fn entered(&self, form: &Form, step: u64) {
        self.step_to(form, step);
        let (job_id, generation) = (form.job_id.clone(), form.generation);
        self.say(Message::Entered(Entered { job_id, generation, step, ..Entered::default() })).await;
    }

    /// Says from now on that a store keeps it waiting for this, or that none does.
    pub fn wait_for(&self, url: Option<&str>) {
        let waiting = url.map(|url| cappa_proto::Waiting { url: url.to_owned(), seconds: 12.0 });
        self.place.lock().waiting = waiting;
    }

    /// Is at a step from now on.
    pub fn step_to(&self, form: &Form, step: u64) {
        let Form { job_id, generation, .. } = form.clone();
        *self.place.lock() = Heartbeat { job_id, generation, step, pace: 0, waiting: None };
    }

    /// Is told to abort, and leaves with its state.
    pub async fn abort(&mut self) -> Abort {
        let abort = match self.next().await {
            FromCoordinator::Abort(abort) => abort,
            other => panic!("{} was told {other:?} instead of to abort", self.id),
        };
        let step = self.place.lock().step;
        let (job_id, generation) = (abort.job_id.clone(), abort.generation);
        self.say(Message::Left(Left { job_id, generation, step, has_state: true, failure: None })).await;
        abort
    }

    /// Has left its group with its state.
    pub async fn left(&self, form: &Form, step: u64) {
        self.step_to(form, step);
        let (job_id, generation) = (form.job_id.clone(), form.generation);
        self.say(Message::Left(Left { job_id, generation, step, has_state: true, failure: None })).await;
    }

    /// Reports the points of steps, as rank 0.
    pub async fn progress(&self, form: &Form, steps: std::ops::RangeInclusive<u64>) {
        let (job_id, generation) = (form.job_id.clone(), form.generation);
        let loss = |step| 10.0 / step as f64;
        let point = |step| StepMetrics { step, generation, loss: loss(step), seconds: 0.01, ..StepMetrics::default() };
        let points = steps.map(point).collect();
        self.say(Message::Progress(Progress { job_id, generation, points, ..Progress::default() })).await;
    }

    /// Reports its parts of a checkpoint.
    pub async fn parts(&self, form: &Form, step: u64) {
        let world_size = u32::try_from(form.members.len()).unwrap();
        let name = format!("part-{:05}-of-{world_size:05}.safetensors", form.rank);
        let part = Part { name, bytes: 100, sha256: "cd".repeat(32) };
        self.say(Message::PartsWritten(PartsWritten {
            job_id: form.job_id.clone(),
            generation: form.generation,
            step,
            rank: form.rank,
            world_size,
            parts: vec![part],
            ..PartsWritten::default()
        }))
        .await;
    }

    /// Has done all it was formed for.
    pub async fn complete(&self, form: &Form) {
        self.complete_as(form, form.total_steps, Outcome::Finished).await;
    }

    /// Likewise at any step, of which it has saved its part.
    pub async fn complete_as(&self, form: &Form, step: u64, outcome: Outcome) {
        self.step_to(form, step);
        self.parts(form, step).await;
        self.say(Message::Completed(Completed {
            job_id: form.job_id.clone(),
            generation: form.generation,
            step,
            outcome: outcome.into(),
            ..Completed::default()
        }))
        .await;
    }

    /// Is told to save its state and stop, and does at the step it is at.
    pub async fn stop(&mut self, form: &Form) -> Stop {
        let stop = match self.next().await {
            FromCoordinator::Stop(stop) => stop,
            other => panic!("{} was told {other:?} instead of to stop", self.id),
        };
        let step = self.place.lock().step;
        self.complete_as(form, step, Outcome::Stopped).await;
        stop
    }

    /// Is told to drop the job's state, and does.
    pub async fn release(&mut self) {
        match self.next_order().await {
            FromCoordinator::Release(_) => *self.place.lock() = Heartbeat::default(),
            other => panic!("{} was told {other:?} instead of being released", self.id),
        }
    }
}

async fn beat(to: mpsc::Sender<WorkerMessage>, place: Arc<Mutex<Heartbeat>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let heartbeat = place.lock().clone();
        if to.send(WorkerMessage { message: Some(Message::Heartbeat(heartbeat)) }).await.is_err() {
            return;
        }
    }
}
