//! Uploads in pieces, as S3 checks them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use s3s::dto::{CompletedPart, ETag};
use s3s::{S3Result, s3_error};

/// Bytes that every piece has but the last.
const LEAST: usize = 5 << 20;

/// The highest number of a piece.
const MOST: i32 = 10_000;

#[derive(Debug)]
struct Piece {
    content: Bytes,
    etag: String,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    pieces: BTreeMap<i32, Piece>,
}

/// The uploads of a server, by their id. No listing shows them.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: Mutex<HashMap<String, Upload>>,
    counter: AtomicU64,
}

impl Uploads {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, bucket: &str, key: &str) -> String {
        let id = format!("upload-{}", self.counter.fetch_add(1, Ordering::Relaxed));
        let upload = Upload { bucket: bucket.to_owned(), key: key.to_owned(), pieces: BTreeMap::new() };
        self.open().insert(id.clone(), upload);
        id
    }

    /// Keeps a piece; one that is sent again takes the place of the first.
    pub(crate) fn put(&self, id: &str, number: i32, content: Bytes) -> S3Result<ETag> {
        if !(1..=MOST).contains(&number) {
            return Err(s3_error!(InvalidArgument, "a piece has a number from 1 to {MOST}"));
        }
        let etag = format!("piece-{number}-{}", self.counter.fetch_add(1, Ordering::Relaxed));
        let mut open = self.open();
        let upload = open.get_mut(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.pieces.insert(number, Piece { content, etag: etag.clone() });
        Ok(ETag::Strong(etag))
    }

    /// Ends an upload with the content of the pieces that are listed.
    pub(crate) fn complete(&self, id: &str, listed: &[CompletedPart]) -> S3Result<Bytes> {
        let mut open = self.open();
        let content = open.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?.content(listed)?;
        open.remove(id);
        Ok(content)
    }

    pub(crate) fn abort(&self, id: &str) -> S3Result<()> {
        self.open().remove(id).map(drop).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// Keys of the uploads to a bucket that are neither completed nor aborted.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let mut keys: Vec<String> =
            self.open().values().filter(|upload| upload.bucket == bucket).map(|upload| upload.key.clone()).collect();
        keys.sort();
        keys
    }
}

impl Upload {
    fn content(&self, listed: &[CompletedPart]) -> S3Result<Bytes> {
        if !listed.is_sorted_by(|a, b| a.part_number < b.part_number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let mut content = BytesMut::new();
        for (nth, part) in listed.iter().enumerate() {
            let piece = part.part_number.and_then(|number| self.pieces.get(&number));
            let piece = piece.filter(|piece| part.e_tag.as_ref().is_some_and(|etag| etag.value() == piece.etag));
            let piece = piece.ok_or_else(|| s3_error!(InvalidPart))?;
            if piece.content.len() < LEAST && nth + 1 < listed.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            content.extend_from_slice(&piece.content);
        }
        Ok(content.freeze())
    }
}
