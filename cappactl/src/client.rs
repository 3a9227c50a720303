//! The connection to the coordinator's Jobs service, and its errors as people read them.

use cappa_proto::jobs_client::JobsClient;
use cappa_proto::{GetRequest, Job};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::address::Address;
use crate::exit::{Exit, Failure};
use crate::router::{self, Router};

/// A curve has one point a step: room for a million of them.
const MAX_MESSAGE: usize = 128 << 20;

/// A connection that is made when it is first used, and again after it was lost.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) jobs: JobsClient<Router>,
    pub(crate) address: Address,
}

impl Client {
    pub(crate) fn new(address: Address) -> Result<Self, Failure> {
        for url in address.coordinators.urls() {
            router::channel(url).map_err(|error| {
                Failure::new(Exit::Usage, format!("`{url}` is not an address"))
                    .source(error)
                    .remedy("use http://HOST:PORT")
            })?;
        }
        let router = Router::new(address.coordinators.clone());
        Ok(Self { jobs: JobsClient::new(router).max_decoding_message_size(MAX_MESSAGE), address })
    }

    /// The job as it is now.
    pub(crate) async fn job(&self, id: &str) -> Result<Job, Failure> {
        let request = GetRequest { job_id: id.to_owned() };
        Ok(self.jobs.clone().get(request).await.map_err(|status| self.failure(&status))?.into_inner())
    }

    /// What a refusal means: the exit code, the reason with its code, and each mistake of a spec.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        if is_away(status) {
            return self.address.unreachable().details(cause_of(status).into_iter().collect());
        }
        let details = status.get_error_details();
        let mistakes: Vec<String> =
            mistakes(status).into_iter().map(|(field, description)| format!("{field}: {description}")).collect();
        let exit = match status.code() {
            Code::InvalidArgument if !mistakes.is_empty() => Exit::InvalidSpec,
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NotPermitted,
            Code::NotFound => Exit::NotFound,
            Code::ResourceExhausted => Exit::OverQuota,
            Code::DeadlineExceeded => Exit::TimedOut,
            _ => Exit::Failed,
        };
        let failure = Failure::new(exit, status.message()).details(mistakes);
        match details.error_info() {
            Some(info) => failure.code(&info.reason),
            None => failure,
        }
    }
}

/// The mistakes of a spec that a refusal names: each field's path, and what is wrong with it.
pub(crate) fn mistakes(status: &Status) -> Vec<(String, String)> {
    let violations = status.get_details_bad_request().map(|request| request.field_violations);
    violations.into_iter().flatten().map(|mistake| (mistake.field, mistake.description)).collect()
}

/// Whether a call failed because the coordinator is away, so that trying again makes sense.
pub(crate) fn is_away(status: &Status) -> bool {
    let lost_connection = std::error::Error::source(status).is_some();
    status.code() == Code::Unavailable || (lost_connection && matches!(status.code(), Code::Unknown | Code::Internal))
}

/// What lies deepest under a lost connection, such as "connection refused".
fn cause_of(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}
