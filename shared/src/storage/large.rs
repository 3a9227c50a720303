//! Objects of any size in pieces. S3 takes 5 GiB in one request at most, and every request has to end within the client's limit of
//! 30 s (`AWS_TIMEOUT` and its like say otherwise), whatever the link: so no request carries more than a piece.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{MultipartUpload, PutMultipartOptions};

use super::{Location, StorageError};

/// Bytes of a piece. With [`AT_ONCE`] of them under way, a link of 9 Mbit/s suffices for the limit of a request; S3 wants
/// 5 MiB at least.
pub const PIECE: usize = 8 << 20;

/// Pieces of an object that are under way at once.
const AT_ONCE: usize = 4;

/// The most pieces that S3 and GCS make an object of.
const MOST: usize = 10_000;

/// Schemes of the stores that take pieces.
const SCHEMES: [&str; 3] = ["s3:", "gs:", "az:"];

/// Pauses before a piece that the client has given up is sent again.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

impl Location {
    /// Writes an object of any size, whole or not at all; one that is there is replaced. What fails leaves nothing behind, unless
    /// the store can't be told so or this process ends: then the pieces are at the store, out of sight of any listing, until
    /// the bucket's rule for incomplete uploads takes them.
    ///
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::Denied`] and the other kinds.
    pub async fn put_large(&self, relative: &str, content: impl Into<Bytes>) -> Result<(), StorageError> {
        let content = content.into();
        if content.len() <= PIECE || !self.takes_pieces() {
            return self.put(relative, content).await;
        }
        let at = self.join(relative)?;
        at.upload(content).await.map_err(|error| at.failed(&error))
    }

    /// The object at `relative`, of any size.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] and the other kinds.
    pub async fn get_large(&self, relative: &str) -> Result<Bytes, StorageError> {
        if !self.takes_pieces() {
            return self.get(relative).await;
        }
        let bytes = self.size(relative).await?;
        if bytes <= PIECE as u64 {
            return self.get(relative).await;
        }
        let ranges = (0..bytes).step_by(PIECE).map(|start| start..bytes.min(start + PIECE as u64));
        let mut pieces = stream::iter(ranges).map(|range| self.get_range(relative, range)).buffered(AT_ONCE);
        let mut content = BytesMut::new();
        while let Some(piece) = pieces.try_next().await? {
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// Whether large objects go in pieces here. A folder has no limits to keep, and where it is full, a file that it was given in
    /// pieces may stay as a draft; a web server takes none.
    fn takes_pieces(&self) -> bool {
        SCHEMES.iter().any(|scheme| self.url().starts_with(scheme))
    }

    async fn upload(&self, content: Bytes) -> object_store::Result<()> {
        let options = PutMultipartOptions::default().with_retry_policy(Arc::new(Again));
        let mut upload = self.store.put_multipart_opts(&self.prefix, options).await?;
        let sent = send(upload.as_mut(), content).await;
        if sent.is_err()
            && let Err(error) = upload.abort().await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(at = %self, error, "an upload that failed could not be taken back; its pieces stay");
        }
        sent
    }
}

/// Sends all pieces and has the store make the object of them. On an error nothing is under way any more, so that what is
/// aborted then stays so.
async fn send(upload: &mut dyn MultipartUpload, content: Bytes) -> object_store::Result<()> {
    let piece = piece_of(content.len());
    let (mut left, mut sending, mut outcome) = (content, FuturesUnordered::new(), Ok(()));
    loop {
        while outcome.is_ok() && !left.is_empty() && sending.len() < AT_ONCE {
            sending.push(upload.put_part(left.split_to(piece.min(left.len())).into()));
        }
        match sending.next().await {
            Some(sent) => outcome = outcome.and(sent),
            None => break,
        }
    }
    outcome?;
    upload.complete().await.map(drop)
}

/// Bytes of each piece of so large an object but the last.
fn piece_of(bytes: usize) -> usize {
    PIECE.max(bytes.div_ceil(MOST))
}

/// Sends a piece again where that may help. The client has done so a few times by then, but not after a request that ran out of
/// time.
#[derive(Debug)]
struct Again;

#[async_trait]
impl RetryPolicy for Again {
    async fn retry(&self, failed: RetryContext) -> bool {
        let may_help = match failed.failure {
            RetryFailure::Status(status) => !status.is_client_error() || matches!(status.as_u16(), 408 | 429),
            _ => true,
        };
        match PAUSES.get(failed.attempt - 1) {
            Some(pause) if may_help => {
                tokio::time::sleep(*pause).await;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ClientConfigKey, ClientOptions};

    use super::super::faults::{Fault, Faulty, Operation};
    use super::*;

    /// Notes every operation; that of this number, from 0, fails.
    #[derive(Debug, Default)]
    struct Noted {
        seen: Mutex<Vec<Operation>>,
        fails: Option<usize>,
    }

    #[async_trait]
    impl Fault for Noted {
        async fn before(&self, operation: Operation, _: &Path) -> object_store::Result<()> {
            let mut seen = self.seen.lock().unwrap();
            seen.push(operation);
            if self.fails == Some(seen.len() - 1) {
                let source = Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
                return Err(object_store::Error::Generic { store: "test", source });
            }
            Ok(())
        }
    }

    impl Noted {
        fn seen(&self) -> Vec<Operation> {
            std::mem::take(&mut self.seen.lock().unwrap())
        }
    }

    fn bucket(fails: Option<usize>) -> (Arc<Noted>, Location) {
        let noted = Arc::new(Noted { fails, ..Noted::default() });
        let store = Faulty::new(Arc::new(InMemory::new()), noted.clone());
        (noted, Location::new(store, "".into(), "s3://bucket"))
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at / 251 + at) as u8).collect()
    }

    #[tokio::test]
    async fn what_goes_in_pieces_comes_back_bit_for_bit() {
        use Operation::{Get, Put};
        let (noted, bucket) = bucket(None);
        for (bytes, written, read) in [
            (0, [Put; 1].as_slice(), [Get; 2].as_slice()),
            (PIECE, &[Put; 1], &[Get; 2]),
            (PIECE + 1, &[Put; 4], &[Get; 3]),
            (5 * PIECE + 7, &[Put; 8], &[Get; 7]),
        ] {
            let content = content(bytes);
            bucket.put_large("part", content.clone()).await.unwrap();
            assert_eq!(noted.seen(), written, "{bytes}: beginning, pieces and end");
            assert!(bucket.get_large("part").await.unwrap() == content, "{bytes}");
            assert_eq!(noted.seen(), read, "{bytes}: size and pieces");
        }
    }

    #[tokio::test]
    async fn an_upload_that_fails_is_taken_back_whatever_failed_of_it() {
        let large = content(2 * PIECE + 7);
        for fails in 0..5 {
            let (noted, bucket) = bucket(Some(fails));
            let error = bucket.put_large("part", large.clone()).await.unwrap_err();
            assert!(matches!(error, StorageError::Full { .. }), "{error:?}");
            assert!(bucket.list("").await.unwrap().is_empty(), "operation {fails}");
            let was_begun = fails > 0;
            assert_eq!(noted.seen().contains(&Operation::Delete), was_begun, "operation {fails}");
        }
    }

    #[tokio::test]
    async fn a_folder_takes_a_large_file_in_one() {
        let temp = tempfile::tempdir().unwrap();
        let folder = super::super::create(temp.path().to_str().unwrap()).unwrap();
        let noted = Arc::new(Noted::default());
        let folder = folder.with_store(Faulty::new(folder.store.clone(), noted.clone()));
        let large = content(PIECE + 7);
        folder.put_large("part", large.clone()).await.unwrap();
        assert!(folder.get_large("part").await.unwrap() == large);
        assert_eq!(noted.seen(), [Operation::Put, Operation::Get]);
    }

    #[test]
    fn the_largest_object_has_no_more_pieces_than_a_store_takes() {
        assert_eq!(piece_of(MOST * PIECE), PIECE);
        for bytes in [MOST * PIECE + 1, 5 << 40] {
            let piece = piece_of(bytes);
            assert!(bytes.div_ceil(piece) <= MOST && piece <= 5 << 30, "{bytes}: {piece}");
        }
    }

    #[test]
    fn a_request_has_the_limit_that_a_piece_is_made_for() {
        let limit = ClientOptions::default().get_config_value(&ClientConfigKey::Timeout);
        assert_eq!(limit.as_deref(), Some("30s"));
    }
}
