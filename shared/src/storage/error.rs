//! What can go wrong with a store, in the few kinds that callers tell apart.

use std::error::Error;
use std::io::ErrorKind;

use thiserror::Error;

use crate::code::Code;

/// A failed operation on a store. URLs are shown without credentials and query strings.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Nothing is there.
    #[error("nothing is at {url}; check the path")]
    NotFound {
        /// What was asked for.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// The bucket itself is not there: deleted, not yet made, or hidden by an outage.
    #[error("the bucket of {url} does not exist; check its name, or restore it")]
    NoBucket {
        /// What was asked for.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// A conditional create found an object.
    #[error("{url} exists already")]
    AlreadyExists {
        /// What was to be created.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// Credentials are absent, or don't suffice.
    #[error("access to {url} is denied; check the credentials in the environment and the rights on it")]
    Denied {
        /// What was asked for.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// The store does not answer.
    #[error("the store of {url} can't be reached; check its address and the network")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What failed.
        source: Cause,
    },
    /// No space, or no quota, is left.
    #[error("the store of {url} is full; free space there or write elsewhere")]
    Full {
        /// What was to be written.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// The URL or path is not one that a store can be opened for.
    #[error("`{url}` can't be used as a storage URL: {reason}")]
    BadUrl {
        /// The URL as given, redacted.
        url: String,
        /// What is wrong with it and what to write.
        reason: String,
    },
    /// The URL is outside the configured allow-list.
    #[error("{url} is not below any allowed storage prefix; ask the operator to allow it or move the data")]
    NotAllowed {
        /// The refused URL.
        url: String,
    },
    /// The store overwrites on a conditional create, so commits on it would not be safe.
    #[error(
        "the store of {url} ignores conditional creates and would overwrite commits; use a store that honours `If-None-Match: *`"
    )]
    NotAtomic {
        /// The probed location.
        url: String,
    },
    /// Anything else.
    #[error("the store failed at {url}")]
    Other {
        /// What was asked for.
        url: String,
        /// What the store said.
        source: Cause,
    },
}

/// How S3, Azure and GCS say that a bucket is missing, in the answer with status 404.
const NO_BUCKET: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"];

/// What a store said, with query strings taken out of any URL in it: they may be signed.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    /// The error with all its sources as one line.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        for source in chain(error).skip(1).map(ToString::to_string) {
            if !text.contains(&source) {
                text.push_str(": ");
                text.push_str(&source);
            }
        }
        Self(without_queries(&text))
    }
}

impl StorageError {
    /// The kind of an error of `object_store` at `url`.
    pub fn at(url: &str, error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let (url, source) = (url.to_owned(), Cause::of(error));
        match error {
            E::NotFound { .. } if NO_BUCKET.iter().any(|code| source.0.contains(code)) => {
                Self::NoBucket { url, source }
            }
            E::NotFound { .. } => Self::NotFound { url, source },
            E::AlreadyExists { .. } | E::Precondition { .. } => Self::AlreadyExists { url, source },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Denied { url, source },
            _ => match chain(error).find_map(kind_of) {
                Some(Kind::Denied) => Self::Denied { url, source },
                Some(Kind::Full) => Self::Full { url, source },
                Some(Kind::Unreachable) => Self::Unreachable { url, source },
                None => Self::Other { url, source },
            },
        }
    }

    /// A store that did not answer as it should; `message` says how.
    pub fn unreachable(url: &str, message: String) -> Self {
        Self::Unreachable { url: url.to_owned(), source: Cause(message) }
    }

    /// The code that people look up.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::DataUnreadable,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Denied { .. } => Code::StoreDenied,
            Self::NoBucket { .. } | Self::Unreachable { .. } | Self::Other { .. } => Code::StoreUnreachable,
            Self::Full { .. } => Code::StoreFull,
            Self::BadUrl { .. } => Code::InvalidSpec,
            Self::NotAllowed { .. } => Code::StoreNotAllowed,
            Self::NotAtomic { .. } => Code::StoreNotAtomic,
        }
    }

    /// Whether trying again later may help without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NoBucket { .. } | Self::Unreachable { .. } | Self::Other { .. })
    }
}

enum Kind {
    Denied,
    Full,
    Unreachable,
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// What an IO or HTTP error deep in the chain says about the store.
fn kind_of(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return match io.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(Kind::Denied),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Some(Kind::Full),
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NotConnected
            | ErrorKind::TimedOut => Some(Kind::Unreachable),
            _ => None,
        };
    }
    error.downcast_ref::<object_store::client::HttpError>().map(|_| Kind::Unreachable)
}

/// `text` with everything from a `?` to the next blank or quote replaced.
fn without_queries(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut hiding = false;
    for c in text.chars() {
        match c {
            '?' => {
                shown.push_str("?…");
                hiding = true;
            }
            _ if hiding && (c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '>')) => {
                hiding = false;
                shown.push(c);
            }
            _ if hiding => {}
            _ => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(kind: ErrorKind) -> object_store::Error {
        object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(std::io::Error::from(kind)) }
    }

    #[test]
    fn a_full_disk_and_a_refused_connection_are_told_apart() {
        let at = |kind| StorageError::at("file:///x", &local(kind));
        assert!(matches!(at(ErrorKind::StorageFull), StorageError::Full { .. }));
        assert!(matches!(at(ErrorKind::ConnectionRefused), StorageError::Unreachable { .. }));
        assert!(matches!(at(ErrorKind::PermissionDenied), StorageError::Denied { .. }));
        assert!(matches!(at(ErrorKind::InvalidData), StorageError::Other { .. }));
    }

    #[test]
    fn a_cause_shows_no_signature() {
        let error = std::io::Error::other("GET (https://h/x?sig=SECRET&se=1) failed");
        assert_eq!(Cause::of(&error).to_string(), "GET (https://h/x?…) failed");
    }
}
