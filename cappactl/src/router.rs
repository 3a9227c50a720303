//! The way of every call to the coordinator that leads, whichever of them that is.
//!
//! A call goes on to the next coordinator only if it was certainly not performed: no connection was made, or who was asked
//! follows another and said so.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cappa_shared::code::Code;
use cappa_shared::coordinators::{Coordinators, LEADER_HEADER};
use http_body_util::{BodyExt as _, Full};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Endpoint};
use tonic::{ConnectError, Status};
use tonic_types::StatusExt as _;
use tower::Service;

/// A coordinator that has not accepted a connection by then is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a connection whose other end is gone without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long nobody may lead before a call fails: a take-over is a matter of seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of them all.
const PAUSE: Duration = Duration::from_millis(200);

type Failed = Box<dyn Error + Send + Sync>;

/// Connections that are made when they are first used, and again after they were lost. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    coordinators: Coordinators,
    channels: HashMap<String, Channel>,
}

/// What to do after an answer.
enum Next {
    /// It is the answer.
    Done,
    /// Another is asked; after a pause if nobody is left.
    Another { is_pause_due: bool },
}

/// A connection to one coordinator, made when it is first used.
pub(crate) fn channel(url: &str) -> Result<Channel, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_lazy())
}

impl Router {
    pub(crate) fn new(coordinators: Coordinators) -> Self {
        Self { known: Arc::new(Mutex::new(Known { coordinators, channels: HashMap::new() })) }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn route(self, request: Request<Body>) -> Result<Response<Body>, Failed> {
        let (parts, body) = request.into_parts();
        // No call of ours sends a stream.
        let body = body.collect().await?.to_bytes();
        let begun = Instant::now();
        loop {
            let again = Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
            let answer = match self.known(Known::channel) {
                Ok(mut channel) => send(&mut channel, again).await,
                Err(error) => Err(error.into()),
            };
            match self.known(|known| known.judge(&answer)) {
                Next::Another { is_pause_due } if begun.elapsed() < PATIENCE => {
                    if is_pause_due {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                _ => return answer,
            }
        }
    }
}

impl Known {
    fn channel(&mut self) -> Result<Channel, tonic::transport::Error> {
        let url = self.coordinators.current();
        if let Some(channel) = self.channels.get(url) {
            return Ok(channel.clone());
        }
        let made = channel(url)?;
        self.channels.insert(url.to_owned(), made.clone());
        Ok(made)
    }

    fn judge(&mut self, answer: &Result<Response<Body>, Failed>) -> Next {
        match answer {
            Ok(response) if is_followers_refusal(response) => {
                let leader = response.headers().get(LEADER_HEADER).and_then(|leader| leader.to_str().ok());
                let is_pause_due = match leader {
                    Some(leader) => self.coordinators.follow(leader),
                    None => self.coordinators.advance(),
                };
                Next::Another { is_pause_due }
            }
            Ok(_) => {
                self.coordinators.reached();
                Next::Done
            }
            Err(error) if was_not_sent(error.as_ref()) => {
                let was_alone = self.coordinators.urls() == [self.coordinators.current()];
                let is_pause_due = self.coordinators.advance();
                // There is nobody else to ask; who called says so, and may try again.
                if was_alone { Next::Done } else { Next::Another { is_pause_due } }
            }
            Err(_) => {
                // What came of it is not known, so it is not repeated; but the next call need not run into the same.
                self.coordinators.advance();
                Next::Done
            }
        }
    }
}

async fn send(channel: &mut Channel, request: Request<Body>) -> Result<Response<Body>, Failed> {
    std::future::poll_fn(|context| Service::poll_ready(channel, context)).await?;
    Ok(channel.call(request).await?)
}

fn is_followers_refusal(response: &Response<Body>) -> bool {
    let Some(status) = Status::from_header_map(response.headers()) else { return false };
    let code = status.get_details_error_info().map(|info| info.reason);
    code.as_deref() == Some(Code::NotLeader.as_str())
}

fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Service<Request<Body>> for Router {
    type Response = Response<Body>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().route(request))
    }
}
