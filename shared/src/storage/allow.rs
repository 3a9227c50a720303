//! Which storage a job may name. A job spec is data: it must not reach for other files of the machine.

use url::Url;

use super::{StorageError, open::parse};

/// URL prefixes below which jobs may read and write.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    /// `None`: everything is allowed.
    prefixes: Option<Vec<Url>>,
}

impl AllowList {
    /// Allows every URL; for a machine with one user.
    pub fn everything() -> Self {
        Self { prefixes: None }
    }

    /// Allows what is at or below one of these URLs or absolute paths.
    ///
    /// # Errors
    /// [`StorageError::BadUrl`] for the first prefix that is none.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Result<Self, StorageError> {
        let prefixes = prefixes.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { prefixes: Some(prefixes) })
    }

    /// Whether `url` is at or below an allowed prefix; whole path segments count, so `s3://b/a` does not allow `s3://b/ab`.
    pub fn permits(&self, url: &str) -> bool {
        let Some(prefixes) = &self.prefixes else { return true };
        parse(url).is_ok_and(|url| prefixes.iter().any(|prefix| is_below(prefix, &url)))
    }

    /// As [`AllowList::permits`], with the error that says what to do.
    ///
    /// # Errors
    /// [`StorageError::NotAllowed`].
    pub fn check(&self, url: &str) -> Result<(), StorageError> {
        if self.permits(url) {
            return Ok(());
        }
        let shown = parse(url)?.to_string();
        Err(StorageError::NotAllowed { url: shown })
    }
}

fn is_below(prefix: &Url, url: &Url) -> bool {
    let same_store = prefix.scheme() == url.scheme()
        && prefix.host() == url.host()
        && prefix.port_or_known_default() == url.port_or_known_default();
    let folder = prefix.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(folder);
    same_store && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_below_a_prefix_are_allowed() {
        let list = AllowList::new(["s3://bucket/team", "/data/"]).unwrap();
        for url in ["s3://bucket/team", "s3://bucket/team/x", "/data/a", "file:///data/a/b"] {
            assert!(list.permits(url), "{url}");
        }
        for url in ["s3://bucket/teams/x", "s3://other/team/x", "gs://bucket/team", "/database", "/data/../etc", "x"] {
            assert!(!list.permits(url), "{url}");
            assert!(list.check(url).is_err(), "{url}");
        }
        assert!(AllowList::everything().permits("s3://any/thing"));
    }
}
