//! Stores that fail on purpose, for tests: a wrapper asks a [`Fault`] before every operation of the store it wraps.
//! Production code has no switches for faults; it is given a wrapped store instead.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What is about to be done to the wrapped store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading an object or its metadata.
    Get,
    /// Writing an object; of one that goes in pieces the beginning, every piece, and the end.
    Put,
    /// Listing a folder.
    List,
    /// Removing objects, or what is there of one that went in pieces.
    Delete,
}

/// Decides what happens before an operation; an error is what the caller gets instead of it.
#[async_trait]
pub trait Fault: fmt::Debug + Send + Sync + 'static {
    /// Called before `operation` on `path`.
    async fn before(&self, operation: Operation, path: &Path) -> Result<()>;
}

/// Fails operations whose path contains a text.
#[derive(Debug, Default)]
pub struct Failing {
    operation: Option<Operation>,
    contains: String,
    left: AtomicU64,
}

impl Failing {
    /// Fails the next `times` operations of one kind on paths that contain `contains` (empty: all paths).
    pub fn next(operation: Operation, contains: &str, times: u64) -> Self {
        Self { operation: Some(operation), contains: contains.to_owned(), left: times.into() }
    }

    /// Fails everything, for ever: a store that can't be reached.
    pub fn always() -> Self {
        Self { operation: None, contains: String::new(), left: u64::MAX.into() }
    }
}

#[async_trait]
impl Fault for Failing {
    async fn before(&self, operation: Operation, path: &Path) -> Result<()> {
        let hit = self.operation.is_none_or(|kind| kind == operation) && path.as_ref().contains(&self.contains);
        let take = |left: u64| left.checked_sub(1);
        if hit && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Err(io_error(ErrorKind::ConnectionRefused));
        }
        Ok(())
    }
}

/// Delays every operation.
#[derive(Debug, Clone, Copy)]
pub struct Slow(pub Duration);

#[async_trait]
impl Fault for Slow {
    async fn before(&self, _: Operation, _: &Path) -> Result<()> {
        tokio::time::sleep(self.0).await;
        Ok(())
    }
}

/// A disk without space, while filled: reads work, writes don't.
#[derive(Debug, Default)]
pub struct Full(AtomicBool);

impl Full {
    /// Fills (`true`) or frees (`false`) the disk.
    pub fn set(&self, full: bool) {
        self.0.store(full, Ordering::Relaxed);
    }
}

#[async_trait]
impl Fault for Full {
    async fn before(&self, operation: Operation, _: &Path) -> Result<()> {
        if operation == Operation::Put && self.0.load(Ordering::Relaxed) {
            return Err(io_error(ErrorKind::StorageFull));
        }
        Ok(())
    }
}

fn io_error(kind: ErrorKind) -> object_store::Error {
    object_store::Error::Generic { store: "faulty store", source: Box::new(std::io::Error::from(kind)) }
}

/// A store with a fault before each of its operations.
#[derive(Debug, Clone)]
pub struct Faulty<F> {
    store: Arc<dyn ObjectStore>,
    fault: Arc<F>,
}

impl<F: Fault> Faulty<F> {
    /// Wraps `store`; keep a clone of `fault` to steer it.
    pub fn new(store: Arc<dyn ObjectStore>, fault: Arc<F>) -> Arc<Self> {
        Arc::new(Self { store, fault })
    }
}

impl<F: Fault> fmt::Display for Faulty<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?}", self.store, self.fault)
    }
}

#[async_trait]
impl<F: Fault> ObjectStore for Faulty<F> {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.fault.before(Operation::Put, path).await?;
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.fault.before(Operation::Put, path).await?;
        let upload = self.store.put_multipart_opts(path, options).await?;
        Ok(Box::new(FaultyUpload { upload, fault: self.fault.clone(), path: path.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.fault.before(Operation::Get, path).await?;
        self.store.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let fault = self.fault.clone();
        let checked = paths.then(move |path| {
            let fault = fault.clone();
            async move {
                let path = path?;
                fault.before(Operation::Delete, &path).await?;
                Ok(path)
            }
        });
        self.store.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (fault, store) = (self.fault.clone(), self.store.clone());
        let prefix = prefix.cloned();
        futures::stream::once(async move {
            let at = prefix.clone().unwrap_or_default();
            match fault.before(Operation::List, &at).await {
                Ok(()) => store.list(prefix.as_ref()),
                Err(error) => futures::stream::once(async { Err(error) }).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.fault.before(Operation::List, prefix.unwrap_or(&Path::default())).await?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.fault.before(Operation::Put, to).await?;
        self.store.copy_opts(from, to, options).await
    }
}

/// An object that goes in pieces, with a fault before each.
#[derive(Debug)]
struct FaultyUpload<F> {
    upload: Box<dyn MultipartUpload>,
    fault: Arc<F>,
    path: Path,
}

#[async_trait]
impl<F: Fault> MultipartUpload for FaultyUpload<F> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // Asked at once, because the order of the pieces is that of the calls.
        let sent = self.upload.put_part(data);
        let (fault, path) = (self.fault.clone(), self.path.clone());
        Box::pin(async move {
            fault.before(Operation::Put, &path).await?;
            sent.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.fault.before(Operation::Put, &self.path).await?;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.fault.before(Operation::Delete, &self.path).await?;
        self.upload.abort().await
    }
}
