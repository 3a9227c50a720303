//! Buckets in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Result, s3_error};
use sha2::{Digest, Sha256};

use crate::uploads::Uploads;

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) content: Bytes,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
}

/// The objects of a bucket in the order of their keys.
pub(crate) type Bucket = BTreeMap<String, Object>;

/// All buckets of a server.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    objects: Mutex<HashMap<String, Bucket>>,
    /// Objects that are on their way in pieces.
    pub(crate) uploads: Uploads,
    counter: AtomicU64,
    /// Behaves as servers do that don't know `If-None-Match` and `If-Match` on writes.
    pub(crate) ignores_conditions: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buckets {
    pub(crate) fn create(&self, bucket: &str) {
        lock(&self.objects).entry(bucket.to_owned()).or_default();
    }

    /// Runs `with` on a bucket.
    pub(crate) fn of<T>(&self, bucket: &str, with: impl FnOnce(&mut Bucket) -> S3Result<T>) -> S3Result<T> {
        match lock(&self.objects).get_mut(bucket) {
            Some(bucket) => with(bucket),
            None => Err(s3_error!(NoSuchBucket, "there is no bucket {bucket}")),
        }
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> S3Result<Object> {
        self.of(bucket, |objects| objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey)))
    }

    /// Writes an object if the conditions hold; checking and writing are one step.
    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        content: Bytes,
        if_none_match: Option<&ETagCondition>,
        if_match: Option<&ETagCondition>,
    ) -> S3Result<ETag> {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        // Unlike S3's, never equal for two writes: a reader that mixes versions is found out.
        let etag = format!("{}-{count}", &hex::encode(Sha256::digest(&content))[..32]);
        let checked = !self.ignores_conditions.load(Ordering::Relaxed);
        self.of(bucket, |objects| {
            let present = objects.get(key).map(|object| object.etag.as_str());
            if checked && (if_none_match.is_some() && present.is_some()) {
                return Err(s3_error!(PreconditionFailed));
            }
            if checked && if_match.is_some_and(|condition| !matches(condition, present)) {
                return Err(s3_error!(PreconditionFailed));
            }
            let object = Object { content, etag: etag.clone(), modified: SystemTime::now() };
            objects.insert(key.to_owned(), object);
            Ok(ETag::Strong(etag))
        })
    }
}

fn matches(condition: &ETagCondition, present: Option<&str>) -> bool {
    match (condition, present) {
        (_, None) => false,
        (ETagCondition::Any, Some(_)) => true,
        (ETagCondition::ETag(etag), Some(present)) => etag.value() == present,
    }
}
