//! Every answer says who leads. A follower serves what the log tells, passes other reads on to who leads, and refuses what
//! is to be decided.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cappa_shared::code::Code;
use cappa_shared::coordinators::LEADER_HEADER;
use tonic::body::Body;
use tonic::codegen::http::{HeaderName, Request, Response};
use tower::{Layer, Service};

use super::forward::{ToLeader, was_passed_on};
use super::{Role, Roles};
use crate::services::status::status;

/// What the log tells.
const FOLLOWED: [&str; 5] = ["Get", "List", "Watch", "Curve", "Checkpoints"];

/// What changes nothing, and is in the memory of who leads alone.
const PASSED_ON: [&str; 3] = ["Queue", "Logs", "ListWorkers"];

const JOBS: &str = "/cappa.v1.Jobs/";
const OURS: &str = "/cappa.v1.";

/// Wraps the services.
#[derive(Debug, Clone)]
pub(crate) struct RedirectLayer {
    roles: Roles,
    to_leader: ToLeader,
}

impl RedirectLayer {
    /// As this coordinator is now.
    pub(crate) fn new(roles: Roles, to_leader: ToLeader) -> Self {
        Self { roles, to_leader }
    }
}

impl<S> Layer<S> for RedirectLayer {
    type Service = Redirect<S>;

    fn layer(&self, inner: S) -> Redirect<S> {
        Redirect { inner, roles: self.roles.clone(), to_leader: self.to_leader.clone() }
    }
}

/// A service that says who leads.
#[derive(Debug, Clone)]
pub(crate) struct Redirect<S> {
    inner: S,
    roles: Roles,
    to_leader: ToLeader,
}

/// Who answers a request that reaches a follower.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The follower.
    Here,
    /// The leader, through the follower.
    PassedOn,
    /// The leader alone, to which whoever asks has to go.
    Leader,
}

impl<S> Service<Request<Body>> for Redirect<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let role = self.roles.borrow().clone();
        let place = if role.leads() { Place::Here } else { place(request.uri().path()) };
        match (place, role.leader().cloned()) {
            (Place::Here, _) => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(led(answer.await?, &role)) })
            }
            (Place::PassedOn, Some(leader)) if !was_passed_on(request.headers()) => {
                let to_leader = self.to_leader.clone();
                Box::pin(async move {
                    let answer = to_leader.pass_on(&leader, request).await;
                    // It says who leads itself, and knows better.
                    Ok(answer.unwrap_or_else(|| led(refusal(&role).into_http(), &role)))
                })
            }
            _ => Box::pin(async move { Ok(led(refusal(&role).into_http(), &role)) }),
        }
    }
}

/// What is added unthought of needs who leads.
fn place(path: &str) -> Place {
    match path.strip_prefix(JOBS) {
        Some(method) if FOLLOWED.contains(&method) => Place::Here,
        Some(method) if PASSED_ON.contains(&method) => Place::PassedOn,
        None if !path.starts_with(OURS) => Place::Here,
        _ => Place::Leader,
    }
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

fn led(mut answer: Response<Body>, role: &Role) -> Response<Body> {
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
            assert_eq!(place(path), Place::Here, "{path}");
        }
        for path in ["/cappa.v1.Jobs/Queue", "/cappa.v1.Jobs/Logs", "/cappa.v1.Jobs/ListWorkers"] {
            assert_eq!(place(path), Place::PassedOn, "{path}");
        }
        for path in ["/cappa.v1.Jobs/Submit", "/cappa.v1.Workers/Session", "/cappa.v1.Jobs/New"] {
            assert_eq!(place(path), Place::Leader, "{path}");
        }
    }
}
