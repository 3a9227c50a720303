//! The way from a coordinator that follows to the one that leads: what its living memory alone can answer (who waits for what,
//! the workers, what they log) is passed on to it, and its answer back, streams as streams.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use cappa_proto as proto;
use cappa_proto::jobs_client::JobsClient;
use cappa_shared::code::Code;
use futures::StreamExt as _;
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use super::Leader;
use crate::services::status::status;

/// Marks a request that a follower has passed on. It goes no further: two that take each other for the leader do not
/// send it to and fro.
const FORWARDED: &str = "cappa-forwarded";

/// The largest answer: a list of all workers.
const LARGEST_ANSWER: usize = 64 << 20;

/// A connection to whoever leads, made when it is first needed. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ToLeader {
    /// How long the leader may let a caller wait for a connection and for the beginning of its answer, and how long a
    /// silent connection is believed in.
    limit: Duration,
    connected: Arc<Mutex<Option<Connected>>>,
}

#[derive(Debug)]
struct Connected {
    leader: Leader,
    channel: Channel,
}

impl ToLeader {
    /// Connects to nobody yet.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, connected: Arc::default() }
    }

    /// The leader's answer; none when it can't be reached or says nothing in time.
    pub(super) async fn pass_on(&self, leader: &Leader, mut request: Request<Body>) -> Option<Response<Body>> {
        request.headers_mut().insert(HeaderName::from_static(FORWARDED), HeaderValue::from_static("1"));
        let mut channel = self.channel(leader)?;
        let answer = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        };
        match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(answer)) => Some(answer.map(ended_in_words)),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(leader = leader.at.grpc, error, "a read can't be passed on");
                None
            }
            Err(_) => None,
        }
    }

    /// All workers as the leader knows them; none when it can't be asked.
    pub(crate) async fn workers(&self, leader: &Leader) -> Option<Vec<proto::Worker>> {
        let mut request = tonic::Request::new(proto::ListWorkersRequest {});
        request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
        let client = JobsClient::new(self.channel(leader)?);
        let mut client = client.max_decoding_message_size(LARGEST_ANSWER);
        let answer = tokio::time::timeout(self.limit, client.list_workers(request)).await.ok()?;
        Some(answer.ok()?.into_inner().workers)
    }

    fn channel(&self, leader: &Leader) -> Option<Channel> {
        let mut connected = self.connected.lock();
        if let Some(Connected { channel, .. }) = connected.as_ref().filter(|connected| connected.leader == *leader) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", leader.at.grpc)).ok()?;
        let channel = endpoint
            .connect_timeout(self.limit)
            .http2_keep_alive_interval(self.limit)
            .keep_alive_timeout(self.limit)
            .connect_lazy();
        *connected = Some(Connected { leader: leader.clone(), channel: channel.clone() });
        Some(channel)
    }
}

/// Whether a follower has passed it on already.
pub(super) fn was_passed_on(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED)
}

/// An answer that breaks off with the leader ends as one that is to be asked for again.
fn ended_in_words(answer: Body) -> Body {
    let frames = BodyStream::new(answer).map(|frame| {
        let ended = |error| {
            let broken = status(Code::NotLeader, format!("the leader's answer broke off; repeat the request: {error}"));
            let mut trailers = HeaderMap::new();
            // It has no metadata that could be refused.
            let _ = broken.add_header(&mut trailers);
            Frame::trailers(trailers)
        };
        Ok::<_, Infallible>(frame.unwrap_or_else(ended))
    });
    Body::new(StreamBody::new(frames))
}
