//! A worker's process without training: the production session logic over gRPC, and a heart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cappa_proto as wire;
use cappa_session::{
    Assignment, Backoff, Bars, Book, Conversation, Duty, Held, Identity, Order, Turns, Unwanted, obey,
};
use cappa_shared::checkpoint::part_name;
use cappa_shared::ids::{Generation, JobId, Rank, Step};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use wire::coordinator_message::Message as Told;
use wire::worker_message::Message as Tell;
use wire::workers_client::WorkersClient;

use super::gang::{Gangs, Stepped};
use super::links::Links;

/// What a simulated process shares with those beside it.
pub(crate) struct Surroundings {
    pub(crate) links: Links,
    pub(crate) gangs: Arc<Gangs>,
    /// Streams that ended though nobody had ended them.
    pub(crate) streams_lost: AtomicU64,
}

/// One process.
pub(crate) struct Worker {
    identity: Identity,
    mind: Mutex<Mind>,
    news: Notify,
    /// The process is killed: its connection closes.
    killed: CancellationToken,
    /// The process hangs: its connection stays, and nothing comes.
    stopped: CancellationToken,
}

/// What the process knows.
#[derive(Default)]
struct Mind {
    book: Book,
    bars: Bars<()>,
    turns: Turns,
    orders: VecDeque<Order>,
    place: Option<(JobId, Generation)>,
    state: Option<(JobId, Step)>,
}

impl Worker {
    /// A process that holds nothing, in the worker's place.
    pub(crate) fn new(place: usize, incarnation: u64) -> Arc<Self> {
        let host = format!("host-{:04}", place / 8);
        let identity = Identity {
            worker: format!("worker-{place:05}").parse().expect("a worker id"),
            incarnation: incarnation.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            store_address: format!("{host}:{}", 20_000 + place % 8),
            metrics_address: String::new(),
            host,
            device: "cpu".into(),
        };
        let (killed, stopped) = (CancellationToken::new(), CancellationToken::new());
        Arc::new(Self { identity, mind: Mutex::default(), news: Notify::new(), killed, stopped })
    }

    pub(crate) fn id(&self) -> &str {
        self.identity.worker.as_str()
    }

    /// SIGKILL: the connection closes.
    pub(crate) fn kill(&self) {
        self.killed.cancel();
    }

    /// SIGSTOP: it says nothing any more.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    /// The group that it is in.
    pub(crate) fn place(&self) -> Option<(JobId, Generation)> {
        self.mind.lock().place.clone()
    }

    /// Whether it lives and is in this group.
    pub(crate) fn is_in(&self, job: &JobId, generation: Generation) -> bool {
        let is_gone = self.killed.is_cancelled() || self.stopped.is_cancelled();
        !is_gone && self.mind.lock().place.as_ref().is_some_and(|(of, at)| of == job && *at == generation)
    }

    /// The step of the job's state that it holds.
    pub(crate) fn held(&self, job: &JobId) -> Option<Step> {
        let mind = self.mind.lock();
        mind.state.as_ref().filter(|(of, _)| of == job).map(|(_, step)| *step)
    }

    /// A step of its group is done.
    pub(crate) fn step(&self, rank: Rank, stepped: Stepped<'_>) {
        let has_news = self.mind.lock().step(rank, stepped);
        if has_news {
            self.news.notify_one();
        }
    }

    /// Talks until it is killed.
    pub(crate) async fn live(self: Arc<Self>, around: Arc<Surroundings>) {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            tokio::select! {
                biased;
                () = self.killed.cancelled() => return,
                _ended = self.converse(&around) => {}
            }
            around.streams_lost.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(backoff.pause(begun.elapsed())).await;
        }
    }

    /// One stream, up to its end.
    async fn converse(self: &Arc<Self>, around: &Surroundings) -> anyhow::Result<()> {
        let channel: Channel = around.links.open().await?;
        let (tell, told) = mpsc::channel(64);
        let (mut conversation, hello) = Conversation::open(&self.identity, &mut self.mind.lock().book);
        tell.send(message(hello)).await?;
        let mut stream = WorkersClient::new(channel).session(ReceiverStream::new(told)).await?.into_inner();
        let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
        loop {
            let due = tokio::select! {
                biased;
                () = self.stopped.cancelled() => std::future::pending().await,
                heard = stream.next() => {
                    let Some(heard) = heard else { return Ok(()) };
                    match heard?.message {
                        Some(Told::Welcome(welcome)) => {
                            // Those that start together do not beat together for ever.
                            let period = Duration::try_from_secs_f64(welcome.heartbeat_seconds)?;
                            let first = period.mul_f64(rand::random());
                            heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + first, period);
                        }
                        Some(told) => self.hear(told, &around.gangs)?,
                        None => {}
                    }
                    Vec::new()
                }
                () = self.news.notified() => conversation.news(&mut self.mind.lock().book, None),
                _ = heartbeat.tick() => vec![conversation.heartbeat(&self.mind.lock().book)],
            };
            for due in due {
                tell.send(message(due)).await?;
            }
        }
    }

    fn hear(self: &Arc<Self>, told: Told, gangs: &Arc<Gangs>) -> Result<(), Unwanted> {
        let assignment = self.mind.lock().hear(told)?;
        self.news.notify_one();
        if let Some(assignment) = assignment {
            gangs.join(self, &assignment);
        }
        Ok(())
    }
}

impl Mind {
    /// Takes in a message, and returns the place that it leads to.
    fn hear(&mut self, told: Told) -> Result<Option<Box<Assignment>>, Unwanted> {
        let reaction = obey(told, &mut self.book, &mut self.bars)?;
        if reaction.abort.is_some() {
            self.leave();
        }
        self.orders.extend(reaction.order);
        Ok(self.take_orders())
    }

    fn take_orders(&mut self) -> Option<Box<Assignment>> {
        while self.place.is_none()
            && let Some(order) = self.orders.pop_front()
        {
            let held = self.state.as_ref().map(|(job, step)| Held { job, step: *step });
            match self.turns.take(order, held, false, &mut self.book) {
                Duty::Serve { assignment, keep } => {
                    let (job, generation) = (assignment.job.clone(), assignment.generation);
                    self.state.take_if(|(of, _)| !keep || *of != job);
                    let is_barred = self.bars.enter(&job, generation, ()).is_err();
                    self.place = Some((job, generation));
                    if !is_barred {
                        return Some(assignment);
                    }
                    self.leave();
                }
                Duty::Drop => self.state = None,
                Duty::Rest | Duty::Exit => {}
            }
        }
        None
    }

    /// It is out of its group, with its state.
    fn leave(&mut self) {
        let Some((job, generation)) = self.place.take() else { return };
        self.bars.leave();
        let held = self.state.as_ref().map(|(job, step)| Held { job, step: *step });
        self.turns.left(&job, generation, held, None, &mut self.book);
    }

    /// Notes a step; true when there is something to tell at once.
    fn step(&mut self, rank: Rank, stepped: Stepped<'_>) -> bool {
        let Stepped { job, generation, step, world_size, is_first, saves } = stepped;
        if self.place.as_ref().is_none_or(|(of, at)| of != job || *at != generation) {
            return false;
        }
        self.state = Some((job.clone(), step));
        if is_first {
            self.book.hold(job, generation, step, true);
            let (job_id, generation, step) = (job.to_string(), generation.0, step.0);
            self.book.notice(Tell::Entered(wire::Entered { job_id, generation, step, ..Default::default() }));
        }
        let (generation, step) = (generation.0, step.0);
        self.book.point(wire::StepMetrics { step, generation, world_size, loss: 1.0, ..Default::default() });
        if saves {
            let part = wire::Part { name: part_name(rank, world_size), bytes: 1 << 20, sha256: "ab".repeat(32) };
            let written = wire::PartsWritten {
                job_id: job.to_string(),
                generation,
                step,
                rank: rank.0,
                world_size,
                parts: vec![part],
                ..Default::default()
            };
            self.book.checkpoint(Step(step), Generation(generation), Tell::PartsWritten(written));
        }
        is_first || saves || rank.0 == 0
    }
}

fn message(tell: Tell) -> wire::WorkerMessage {
    wire::WorkerMessage { message: Some(tell) }
}
