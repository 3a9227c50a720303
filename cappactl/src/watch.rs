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
const FIRST_PAUSE: Duration = Duration::from_millis(200);
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
    /// Since when the coordinator has been away, and how long to wait before the next try.
    away: Option<(Instant, Duration)>,
    ended: bool,
}

impl Watcher {
    /// Watches a job from its beginning.
    pub(crate) fn new(client: Client, job: impl Into<String>) -> Self {
        let job = job.into();
        Self { client, job, after_event: 0, stream: None, away: None, ended: false }
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
                    self.away = None;
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

    /// Waits before the next try; tells of it once.
    async fn lost(&mut self, status: &Status) -> Result<Option<Update>, Failure> {
        if !is_away(status) {
            return Err(self.client.failure(status));
        }
        let (since, pause) = self.away.unwrap_or((Instant::now(), FIRST_PAUSE));
        if since.elapsed() + pause > PATIENCE {
            return Err(self.client.failure(status));
        }
        let is_news = self.away.is_none();
        self.away = Some((since, (pause * 2).min(LONGEST_PAUSE)));
        if is_news {
            return Ok(Some(Update::Away));
        }
        tokio::time::sleep(pause).await;
        Ok(None)
    }
}
