//! Errors as gRPC statuses that tools can read: a code that `cappactl explain` knows, and for a
//! bad spec one violation a mistake.

use std::collections::HashMap;

use cappa_core::{Bound, Refusal};
use cappa_shared::code::Code;
use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::queue;
use crate::driver::Stopped;

/// Whose codes they are.
const DOMAIN: &str = "cappa.dev";

/// A status with its code in an ErrorInfo.
pub(crate) fn status(code: Code, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(grpc(code), message, details)
}

/// A status with a violation for each mistake: its path in the document and what to do.
pub(crate) fn bad_request(code: Code, message: impl Into<String>, mistakes: Vec<(String, String)>) -> Status {
    let mut details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, HashMap::new());
    let violations = mistakes.into_iter().map(|(path, message)| FieldViolation::new(path, message));
    details.set_bad_request(violations.collect::<Vec<_>>());
    Status::with_error_details(grpc(code), message, details)
}

fn grpc(code: Code) -> tonic::Code {
    tonic::Code::from_i32(code.grpc().number())
}

/// The status of a refusal by the core.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::UnknownJob(job) => not_found(job.as_str()),
        Refusal::Ended(job) => status(Code::AlreadyEnded, format!("job {job} is over")),
        Refusal::NotPaused(job) => {
            status(Code::WrongState, format!("job {job} is not paused; only a paused job can be resumed"))
        }
        Refusal::NotRequeueable(job) => {
            let message =
                format!("job {job} has not failed, been cancelled or pre-empted; only such a job can be requeued");
            status(Code::WrongState, message)
        }
        Refusal::UnknownDependency(job) => {
            let mistakes = vec![("after".to_owned(), format!("there is no job `{job}`"))];
            bad_request(Code::InvalidSpec, "the spec has 1 mistake", mistakes)
        }
        Refusal::OverQuota { namespace, bound, limit } => {
            let besides = if *bound == Bound::Queued { ", paused ones included" } else { "" };
            let message = format!("namespace {namespace} may have {limit} {} at most{besides}", queue::noun(*bound));
            status(Code::OverQuota, message)
        }
        Refusal::UnknownCheckpoint { job, step, kept } => {
            let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
            let there =
                if kept.is_empty() { "there is none yet".into() } else { format!("there are {}", kept.join(", ")) };
            status(Code::NotFound, format!("job {job} has no checkpoint of step {step}; {there}"))
        }
        Refusal::Pinned { job, step } => {
            let message = format!(
                "job {job} would give up its checkpoint of step {step}, which is pinned; unpin it first \
                 (`cappactl checkpoints unpin {job} --step {step}`)"
            );
            status(Code::WrongState, message)
        }
        Refusal::StillCommitting(job) => status(
            Code::WrongState,
            format!("a checkpoint of job {job} is still being committed; repeat this in a moment"),
        ),
        Refusal::StillPausing(job) => {
            status(Code::WrongState, format!("job {job} is still saving its state; resume it when it is paused"))
        }
        Refusal::AlreadySubmitted(job) | Refusal::JobIdTaken(job) => {
            status(Code::AlreadyExists, format!("job {job} exists already"))
        }
        Refusal::UnknownWorker(worker) => status(Code::NotFound, format!("no worker `{worker}` is connected")),
        Refusal::NotQuarantined(worker) => {
            status(Code::WrongState, format!("worker {worker} is neither quarantined nor cordoned"))
        }
        Refusal::WorkerIdTaken => {
            status(Code::AlreadyExists, "another live process has this worker id; give each worker its own")
        }
        Refusal::StaleLink | Refusal::StaleGeneration(_) | Refusal::NotOutstanding => {
            status(Code::WrongState, "the request is out of date")
        }
    }
}

/// The status for a job that is not there.
pub(crate) fn not_found(job: &str) -> Status {
    status(Code::NotFound, format!("there is no job `{job}`"))
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        status(Code::Unavailable, stopped.to_string())
    }
}
