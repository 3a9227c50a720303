//! From a URL or a path to a store. Credentials come from the environment only (`AWS_…`, `GOOGLE_…`,
//! `AZURE_…`, as the providers' own tools read them), never from a URL.

use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::{Location, StorageError};

/// The schemes that [`open`] knows, for messages.
pub const SCHEMES: [&str; 6] = ["file", "s3", "gs", "az", "http", "https"];

/// The store and place that an absolute path or a URL names. Nothing is created or asked of the store yet.
///
/// # Errors
/// [`StorageError::BadUrl`] for what is no URL of a known scheme, names a parent folder or holds credentials; the
/// kind that fits when the environment's settings don't make a client.
pub fn open(url: &str) -> Result<Location, StorageError> {
    let parsed = parse(url)?;
    let shown = redacted(&parsed);
    let bad_path = |error: object_store::path::Error| bad(url, error.to_string());
    if parsed.scheme() == "file" {
        let path = parsed.to_file_path().map_err(|()| bad(url, "it does not name a local path".into()))?;
        // The store's root is `/` so that a location's parent and siblings are in the same store.
        let prefix = Path::from_absolute_path(path).map_err(bad_path)?;
        return Ok(Location::new(Arc::new(LocalFileSystem::new().with_fsync(true)), prefix, shown));
    }
    let store = remote(&parsed).map_err(|error| StorageError::at(&shown, &error))?;
    let prefix = Path::from_url_path(parsed.path()).map_err(bad_path)?;
    Ok(Location::new(store, prefix, shown))
}

/// As [`open`]; a local folder is created with its parents when it is absent.
///
/// # Errors
/// Those of [`open`], and what the file system answers.
pub fn create(url: &str) -> Result<Location, StorageError> {
    let parsed = parse(url)?;
    if let Ok(path) = parsed.to_file_path() {
        std::fs::create_dir_all(path).map_err(|error| {
            let error = object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) };
            StorageError::at(&redacted(&parsed), &error)
        })?;
    }
    open(url)
}

/// A URL or absolute path as a URL of a known scheme, without credentials, query or parent folders.
///
/// # Errors
/// [`StorageError::BadUrl`].
pub fn parse(url: &str) -> Result<Url, StorageError> {
    if url.split(['/', '\\']).any(|part| part == ".." || part.eq_ignore_ascii_case("%2e%2e")) {
        return Err(bad(url, "`..` is not allowed; write the path that is meant".into()));
    }
    if !url.contains("://") {
        let path = FilePath::new(url);
        if !path.is_absolute() {
            return Err(bad(url, "the path is relative; give an absolute path or a URL".into()));
        }
        return Url::from_file_path(path).map_err(|()| bad(url, "the path is not absolute".into()));
    }
    let parsed = Url::parse(url).map_err(|error| bad(url, error.to_string()))?;
    if !SCHEMES.contains(&parsed.scheme()) {
        let known = SCHEMES.join(", ");
        return Err(bad(url, format!("the scheme `{}` is not supported; use one of {known}", parsed.scheme())));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(bad(url, "it holds credentials; put them into the environment".into()));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(bad(url, "queries and fragments are not supported; take them out".into()));
    }
    match (parsed.scheme(), parsed.host_str()) {
        ("file", Some(host)) => Err(bad(url, format!("`{host}` is read as a host; write three slashes: file:///path"))),
        ("file", None) => Ok(parsed),
        (_, None | Some("")) => Err(bad(url, "the bucket or host is missing".into())),
        _ => Ok(parsed),
    }
}

/// `path` under `folder` unless it is absolute, without `.` and `..`.
pub fn absolute(folder: &FilePath, path: &FilePath) -> PathBuf {
    let mut out = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

fn remote(url: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    let host = url.host_str().unwrap_or_default();
    Ok(match url.scheme() {
        "s3" => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(host).with_retry(retries());
            let plain = |name| std::env::var(name).is_ok_and(|endpoint| is_loopback_http(&endpoint));
            let builder = if plain("AWS_ENDPOINT_URL") || plain("AWS_ENDPOINT") || plain("AWS_ENDPOINT_URL_S3") {
                builder.with_allow_http(true)
            } else {
                builder
            };
            Arc::new(builder.build()?)
        }
        "gs" => Arc::new(GoogleCloudStorageBuilder::from_env().with_bucket_name(host).with_retry(retries()).build()?),
        "az" => Arc::new(MicrosoftAzureBuilder::from_env().with_container_name(host).with_retry(retries()).build()?),
        _ => Arc::new(
            HttpBuilder::new()
                .with_url(&url[..url::Position::BeforePath])
                .with_client_options(ClientOptions::new().with_allow_http(url.scheme() == "http"))
                .with_retry(retries())
                .build()?,
        ),
    })
}

/// Few and short: whoever waits for a store knows better than this layer how long it may wait.
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() }
}

fn is_loopback_http(endpoint: &str) -> bool {
    Url::parse(endpoint).is_ok_and(|url| {
        url.scheme() == "http"
            && match url.host() {
                Some(url::Host::Domain(name)) => name == "localhost",
                Some(url::Host::Ipv4(address)) => address.is_loopback(),
                Some(url::Host::Ipv6(address)) => address.is_loopback(),
                None => false,
            }
    })
}

/// The URL for messages.
fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that can't have credentials.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn bad(url: &str, reason: String) -> StorageError {
    let shown = match Url::parse(url) {
        Ok(parsed) if url.contains("://") => redacted(&parsed),
        _ => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    StorageError::BadUrl { url: shown, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_leaves_its_folder_or_holds_secrets_is_refused() {
        for (url, why) in [
            ("s3://bucket/a/../b", "`..` is not allowed"),
            ("/data/../etc/passwd", "`..` is not allowed"),
            ("s3://bucket/%2E%2e/b", "`..` is not allowed"),
            ("s3://bucket/a%2F..%2Fb", "`s3://bucket/"),
            ("data/train", "the path is relative"),
            ("ftp://host/x", "`ftp` is not supported; use one of file, s3, gs, az, http, https"),
            ("s3:///x", "bucket or host is missing"),
            ("file://data/x", "write three slashes"),
            ("https://user:SECRET@host/x", "holds credentials"),
            ("https://host/x?sig=SECRET", "queries and fragments"),
        ] {
            let message = open(url).expect_err(url).to_string();
            assert!(message.contains(why), "{url}: {message}");
            assert!(!message.contains("SECRET"), "{message}");
        }
    }

    #[test]
    fn a_path_and_its_file_url_are_the_same_place() {
        let (path, url) = (open("/data/my set").unwrap(), open("file:///data/my%20set").unwrap());
        assert_eq!(path.prefix, url.prefix);
        assert_eq!(path.to_string(), "file:///data/my%20set");
    }

    #[test]
    fn relative_parts_are_resolved_before_a_path_is_used() {
        let at = |path| absolute(FilePath::new("/a/b"), FilePath::new(path));
        assert_eq!(at("../c/./d"), FilePath::new("/a/c/d"));
        assert_eq!(at("/x/../../y"), FilePath::new("/y"));
    }

    #[test]
    fn plain_http_is_for_loopback_endpoints_only() {
        assert!(is_loopback_http("http://127.0.0.1:9000"));
        assert!(is_loopback_http("http://[::1]:9000"));
        assert!(!is_loopback_http("http://10.0.0.1:9000"));
        assert!(!is_loopback_http("https://localhost"));
    }
}
