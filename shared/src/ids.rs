//! Newtypes for every identity and unit, so that a step can't be passed where a rank is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name that is not usable as an identity.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{value}` is not a {what}: use 1 to 63 lower-case letters, digits and inner hyphens")]
pub struct InvalidName {
    what: &'static str,
    value: String,
}

/// RFC 1123 labels: usable in paths, DNS and Kubernetes names as they are.
pub(crate) fn is_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.len() <= 63 && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the identity.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                if is_label(&value) { Ok(Self(value)) } else { Err(InvalidName { what: $what, value }) }
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                s.to_owned().try_into()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $of:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

label!(
    /// A job: the spec's name and a random suffix, e.g. `demo-k7f3q`. Never reused.
    JobId, "job id"
);
label!(
    /// A worker slot, stable over restarts of its process, e.g. `worker-0` or a pod's name.
    WorkerId, "worker id"
);
label!(
    /// Whose quota and fair share a job counts against.
    Namespace, "namespace"
);
number!(
    /// How often a job's group has formed: grows by one, never reused.
    Generation, u64
);
number!(
    /// Completed optimizer updates. The cursor of a run is this one number.
    Step, u64
);
number!(
    /// A member's place in its group, `0..world size`.
    Rank, u32
);

impl Generation {
    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Step {
    /// The step after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_is_a_dns_label() {
        for good in ["a", "demo-k7f3q", "0", &"x".repeat(63)] {
            assert!(good.parse::<JobId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "../x", &"x".repeat(64)] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }
}
