//! A job's updates, across restarts of the coordinator.

use std::time::{Duration, Instant};

use cappa_proto::WatchRequest;
use cappa_proto::job_update::Update as WireUpdate;
use tonic::{Status, Streaming};

use crate::client::{Client, is_away};
use crate::exit::Failure;
use crate::views::{Event, Job};

/// How long the coordinator may be away before a watcher gives up.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a watcher sees.
pub(crate) enum Update {
    Event(Event),
    /// The job as it is now.
    Job(Box<Job>),
    /// The coordinator does not answer; the watcher tries again.
    Away,
}

/// Follows one job to its end. No event is seen twice.
pub(crate) struct Watcher {
    client: Client,
    job: String,
    after_event: u64,
    stream: Option<Streaming<cappa_proto::JobUpdate>>,
    patience: Patience,
    ended: bool,
}

impl Watcher {
    /// Watches a job from its beginning.
    pub(crate) fn new(client: Client, job: impl Into<String>) -> Self {
        let job = job.into();
        Self { client, job, after_event: 0, stream: None, patience: Patience::default(), ended: false }
    }

    /// The next update; none after the job's end was seen.
    ///
    /// # Errors
    /// When the coordinator refuses, or was away for longer than the patience.
    pub(crate) async fn next(&mut self) -> Result<Option<Update>, Failure> {
        while !self.ended {
            let Some(stream) = &mut self.stream else {
                match self.open().await {
                    Ok(()) => continue,
                    Err(status) => match self.lost(&status).await? {
                        Some(update) => return Ok(Some(update)),
                        None => continue,
                    },
                }
            };
            match stream.message().await {
                Ok(Some(update)) => {
                    self.patience.restore();
                    if let Some(update) = update.update {
                        return Ok(Some(self.seen(update)));
                    }
                }
                Ok(None) => {
                    self.stream = None;
                    if let Some(update) = self.check_end().await? {
                        return Ok(Some(update));
                    }
                }
                Err(status) => {
                    self.stream = None;
                    if let Some(update) = self.lost(&status).await? {
                        return Ok(Some(update));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn open(&mut self) -> Result<(), Status> {
        let request = WatchRequest { job_id: self.job.clone(), after_event: self.after_event };
        self.stream = Some(self.client.jobs.clone().watch(request).await?.into_inner());
        Ok(())
    }

    fn seen(&mut self, update: WireUpdate) -> Update {
        match update {
            WireUpdate::Event(event) => {
                self.after_event = self.after_event.max(event.sequence);
                Update::Event(event.into())
            }
            WireUpdate::Job(job) => Update::Job(Box::new(job.into())),
        }
    }

    /// A stream ends with its job, or with its coordinator.
    async fn check_end(&mut self) -> Result<Option<Update>, Failure> {
        let request = cappa_proto::GetRequest { job_id: self.job.clone() };
        match self.client.jobs.clone().get(request).await {
            Ok(reply) => {
                let job = Job::from(reply.into_inner());
                self.ended = job.state.end().is_some();
                if !self.ended {
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Ok(Some(Update::Job(Box::new(job))))
            }
            Err(status) => self.lost(&status).await,
        }
    }

    async fn lost(&mut self, status: &Status) -> Result<Option<Update>, Failure> {
        let is_news = self.patience.lost(&self.client, status).await?;
        Ok(is_news.then_some(Update::Away))
    }
}

/// What keeps a command trying while the coordinator is away.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Since when the coordinator has been away, and how long to wait before the next try.
    away: Option<(Instant, Duration)>,
}

impl Patience {
    /// The coordinator has answered.
    pub(crate) fn restore(&mut self) {
        self.away = None;
    }

    /// Waits before the next try, but for the first, which is news.
    ///
    /// # Errors
    /// When the coordinator refused, or has been away for too long.
    pub(crate) async fn lost(&mut self, client: &Client, status: &Status) -> Result<bool, Failure> {
        let (since, pause) = self.away.unwrap_or((Instant::now(), FIRST_PAUSE));
        if !is_away(status) || since.elapsed() + pause > PATIENCE {
            return Err(client.failure(status));
        }
        let is_news = self.away.is_none();
        self.away = Some((since, (pause * 2).min(LONGEST_PAUSE)));
        if !is_news {
            tokio::time::sleep(pause).await;
        }
        Ok(is_news)
    }
}
