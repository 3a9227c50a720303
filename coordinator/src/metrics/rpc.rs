//! Times every call, by method and status.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Metrics;

/// Wraps the services.
#[derive(Debug, Clone)]
pub(crate) struct RpcLayer {
    metrics: Metrics,
}

impl RpcLayer {
    /// Observations go to these metrics.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, metrics: self.metrics.clone() }
    }
}

/// A service whose calls are timed.
#[derive(Debug, Clone)]
pub(crate) struct Timed<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, Q, A> Service<Request<Q>> for Timed<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let (metrics, started) = (self.metrics.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // Unknown methods are not worth a label each: anybody could make up any number of them.
            let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
            let method = if code == Code::Unimplemented { "unknown" } else { &method };
            metrics.called(method, code, started.elapsed().as_secs_f64());
            Ok(answer)
        })
    }
}
