//! Every answer says who leads, and a follower serves only what the log tells.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cappa_shared::code::Code;
use cappa_shared::coordinators::LEADER_HEADER;
use tonic::codegen::http::{HeaderName, Request, Response};
use tower::{Layer, Service};

use super::{Role, Roles};
use crate::services::status::status;

/// What a follower serves. All else needs who decides, or knows the workers, and is refused with its address.
const FOLLOWED: [&str; 5] = ["Get", "List", "Watch", "Curve", "Checkpoints"];

const JOBS: &str = "/cappa.v1.Jobs/";
const OURS: &str = "/cappa.v1.";

/// Wraps the services.
#[derive(Debug, Clone)]
pub(crate) struct RedirectLayer {
    roles: Roles,
}

impl RedirectLayer {
    /// As this coordinator is now.
    pub(crate) fn new(roles: Roles) -> Self {
        Self { roles }
    }
}

impl<S> Layer<S> for RedirectLayer {
    type Service = Redirect<S>;

    fn layer(&self, inner: S) -> Redirect<S> {
        Redirect { inner, roles: self.roles.clone() }
    }
}

/// A service that says who leads.
#[derive(Debug, Clone)]
pub(crate) struct Redirect<S> {
    inner: S,
    roles: Roles,
}

impl<S, Q, A> Service<Request<Q>> for Redirect<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: Send,
    A: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let role = self.roles.borrow().clone();
        if let Role::Follows { .. } = role
            && !is_followed(request.uri().path())
        {
            let refused = refusal(&role).into_http::<A>();
            return Box::pin(async move { Ok(led(refused, &role)) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(led(answer.await?, &role)) })
    }
}

fn is_followed(path: &str) -> bool {
    !path.starts_with(OURS) || path.strip_prefix(JOBS).is_some_and(|method| FOLLOWED.contains(&method))
}

fn refusal(role: &Role) -> tonic::Status {
    match role.leader() {
        Some(leader) => status(
            Code::NotLeader,
            format!("this coordinator follows; repeat the request at {}, which leads", leader.at.grpc),
        ),
        None => status(Code::NotLeader, "no coordinator leads at the moment; repeat the request soon"),
    }
}

fn led<A>(mut answer: Response<A>, role: &Role) -> Response<A> {
    if let Some(leader) = role.leader().and_then(|leader| leader.header.clone()) {
        answer.headers_mut().insert(HeaderName::from_static(LEADER_HEADER), leader);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_serves_what_the_log_tells_and_nothing_that_is_added_unthought_of() {
        for path in ["/cappa.v1.Jobs/Get", "/cappa.v1.Jobs/Curve", "/grpc.health.v1.Health/Check"] {
            assert!(is_followed(path), "{path}");
        }
        for path in ["/cappa.v1.Jobs/Submit", "/cappa.v1.Jobs/Queue", "/cappa.v1.Workers/Session", "/cappa.v1.Jobs/New"]
        {
            assert!(!is_followed(path), "{path}");
        }
    }
}
