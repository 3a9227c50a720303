//! A place in a store, and what can be done there.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

use super::{StorageError, open};

/// A place in a store: a folder or an object. Cheap to clone. Displays as its URL, without secrets.
#[derive(Debug, Clone)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The place in it.
    pub prefix: Path,
    url: String,
}

/// An object that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path relative to the listed location, with `/` between the parts.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written, in milliseconds since 1970.
    pub modified_unix_ms: i64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Location {
    /// The place `prefix` of a store; `url` is how messages call it. [`open`](super::open()) is the usual way to get one.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path, url: impl Into<String>) -> Self {
        let url = url.into().trim_end_matches('/').to_owned();
        Self { store, prefix, url }
    }

    /// The place as a URL that [`open`](super::open()) takes.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same place of another store, e.g. of one that wraps this one's.
    #[must_use]
    pub fn with_store(&self, store: Arc<dyn ObjectStore>) -> Self {
        Self { store, ..self.clone() }
    }

    /// The place below this one.
    ///
    /// # Errors
    /// [`StorageError::BadUrl`] when `relative` would leave this location.
    pub fn join(&self, relative: &str) -> Result<Self, StorageError> {
        if relative.starts_with('/') {
            let reason = "the path is absolute where one below the folder is needed".into();
            return Err(StorageError::BadUrl { url: relative.into(), reason });
        }
        let mut below = self.clone();
        for part in relative.split('/').filter(|part| !part.is_empty()) {
            let part = PathPart::parse(part).map_err(|error| StorageError::BadUrl {
                url: format!("{self}/{relative}"),
                reason: error.to_string(),
            })?;
            below.url = format!("{}/{}", below.url, part.as_ref());
            below.prefix = below.prefix.join(part);
        }
        Ok(below)
    }

    /// What a document at this location means by `reference`: a URL, or a path relative to the document's folder.
    ///
    /// # Errors
    /// [`StorageError::BadUrl`] when it is neither.
    pub fn sibling(&self, reference: &str) -> Result<Self, StorageError> {
        if reference.contains("://") {
            return open(reference);
        }
        self.parent().join(reference)
    }

    /// The folder that this location is in; the store's root is its own parent.
    #[must_use]
    pub fn parent(&self) -> Self {
        let mut parts: Vec<_> = self.prefix.parts().collect();
        let url = match parts.pop() {
            Some(_) => self.url.rsplit_once('/').map_or("", |(folder, _)| folder),
            None => &self.url,
        };
        Self { store: self.store.clone(), prefix: parts.into_iter().collect(), url: url.to_owned() }
    }

    /// The object at `relative`, in one request; of what may be large, [`get_large`](Self::get_large).
    ///
    /// # Errors
    /// [`StorageError::NotFound`] and the other kinds.
    pub async fn get(&self, relative: &str) -> Result<Bytes, StorageError> {
        let at = self.join(relative)?;
        let read = async { at.store.get(&at.prefix).await?.bytes().await };
        read.await.map_err(|error| at.failed(&error))
    }

    /// A range of the bytes of the object at `relative`.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] and the other kinds.
    pub async fn get_range(&self, relative: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let at = self.join(relative)?;
        let read = at.store.get_range(&at.prefix, range).await;
        read.map_err(|error| at.failed(&error))
    }

    /// Size in bytes of the object at `relative`.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] and the other kinds.
    pub async fn size(&self, relative: &str) -> Result<u64, StorageError> {
        let at = self.join(relative)?;
        let meta = at.store.head(&at.prefix).await;
        meta.map(|meta| meta.size).map_err(|error| at.failed(&error))
    }

    /// Writes an object in one request, whole or not at all; one that is there is replaced. What may be large goes by
    /// [`put_large`](Self::put_large).
    ///
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::Denied`] and the other kinds.
    pub async fn put(&self, relative: &str, content: impl Into<Bytes>) -> Result<(), StorageError> {
        self.put_as(relative, content.into(), PutMode::Overwrite).await
    }

    /// Writes an object unless one is there. Of several writers at once, one succeeds.
    ///
    /// # Errors
    /// [`StorageError::AlreadyExists`] and the other kinds.
    pub async fn put_if_absent(&self, relative: &str, content: impl Into<Bytes>) -> Result<(), StorageError> {
        self.put_as(relative, content.into(), PutMode::Create).await
    }

    async fn put_as(&self, relative: &str, content: Bytes, mode: PutMode) -> Result<(), StorageError> {
        let at = self.join(relative)?;
        let put = at.store.put_opts(&at.prefix, content.into(), mode.into()).await;
        put.map(drop).map_err(|error| at.failed(&error))
    }

    /// Removes an object; that it is gone already is no error.
    ///
    /// # Errors
    /// [`StorageError::Denied`] and the other kinds.
    pub async fn delete(&self, relative: &str) -> Result<(), StorageError> {
        let at = self.join(relative)?;
        match at.store.delete(&at.prefix).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(at.failed(&error)),
        }
    }

    /// All objects below `relative`, at any depth, in the order of their paths; none when there is no such folder.
    ///
    /// # Errors
    /// [`StorageError::Denied`] and the other kinds.
    pub async fn list(&self, relative: &str) -> Result<Vec<Entry>, StorageError> {
        let at = self.join(relative)?;
        let found: Vec<_> = at.store.list(Some(&at.prefix)).try_collect().await.map_err(|error| at.failed(&error))?;
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|meta| {
                Some(Entry {
                    path: below(&at.prefix, &meta.location)?,
                    bytes: meta.size,
                    modified_unix_ms: meta.last_modified.timestamp_millis(),
                })
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Names of the folders directly below `relative`, in order.
    ///
    /// # Errors
    /// [`StorageError::Denied`] and the other kinds.
    pub async fn folders(&self, relative: &str) -> Result<Vec<String>, StorageError> {
        let at = self.join(relative)?;
        let found = at.store.list_with_delimiter(Some(&at.prefix)).await.map_err(|error| at.failed(&error))?;
        let mut names: Vec<String> =
            found.common_prefixes.iter().filter_map(|folder| below(&at.prefix, folder)).collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn failed(&self, error: &object_store::Error) -> StorageError {
        StorageError::at(&self.url, error)
    }
}

/// `path` relative to `folder`.
fn below(folder: &Path, path: &Path) -> Option<String> {
    let parts: Vec<String> = path.prefix_match(folder)?.map(|part| part.as_ref().to_owned()).collect();
    (!parts.is_empty()).then(|| parts.join("/"))
}
