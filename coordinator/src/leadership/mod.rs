//! Which of several coordinators over one store leads. A [lease] in the store says so and makes a successor quick; what makes
//! it safe is that the event log takes appends from the one who opened it last. All others [follow](crate::driver).

mod candidate;
mod forward;
mod lease;
mod redirect;

use std::time::Duration;

use tokio::sync::watch;
use tonic::codegen::http::HeaderValue;

pub(crate) use candidate::Candidate;
pub(crate) use forward::ToLeader;
pub(crate) use lease::{Held, Renewals};
pub(crate) use redirect::RedirectLayer;

/// Where a coordinator is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// `host:port` of gRPC.
    pub(crate) grpc: String,
    /// `host:port` of HTTP.
    pub(crate) http: String,
}

/// What this coordinator does, as far as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// It decides.
    Leads {
        /// Itself.
        here: Leader,
        /// How long nobody was heard to lead before it did; none when it was the first or was handed over to.
        after: Option<Duration>,
    },
    /// It reads the log that another writes.
    Follows {
        /// Who does, as far as is known.
        leader: Option<Leader>,
    },
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Where.
    pub(crate) at: Addresses,
    /// Which lease of the store this is, from 1.
    pub(crate) term: u64,
    /// `at.grpc` as a header of answers.
    header: Option<HeaderValue>,
}

impl Leader {
    fn new(at: Addresses, term: u64) -> Self {
        let header = HeaderValue::from_str(&at.grpc).ok();
        Self { at, term, header }
    }
}

impl Role {
    /// Whether this coordinator decides.
    pub(crate) fn leads(&self) -> bool {
        matches!(self, Self::Leads { .. })
    }

    /// Who leads, as far as is known.
    pub(crate) fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leads { here, .. } => Some(here),
            Self::Follows { leader } => leader.as_ref(),
        }
    }
}

/// Tells what this coordinator does.
pub(crate) type Roles = watch::Receiver<Role>;
