//! The operations of S3 that `object_store` uses, over [`Buckets`].

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::buckets::{Buckets, Object as Kept};

/// Keys in one page of a listing; small, so that paging is met.
const PAGE: usize = 100;

/// The service.
pub(crate) struct Operations(pub(crate) Arc<Buckets>);

async fn content(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let whole: BytesMut =
        body.try_collect().await.map_err(|_| s3_error!(IncompleteBody, "the request's body ended early"))?;
    Ok(whole.freeze())
}

fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("contents fit memory")
}

fn is(condition: &ETagCondition, object: &Kept) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

#[async_trait::async_trait]
impl S3 for Operations {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let object = self.0.get(&input.bucket, &input.key)?;
        if input.if_match.as_ref().is_some_and(|condition| !is(condition, &object)) {
            return Err(s3_error!(PreconditionFailed));
        }
        let whole = object.content.len() as u64;
        let range = match &input.range {
            None => 0..whole,
            Some(range) => range.check(whole).map_err(|_| s3_error!(InvalidRange))?,
        };
        let part = input.range.map(|_| format!("bytes {}-{}/{whole}", range.start, range.end.saturating_sub(1)));
        let place = |at: u64| usize::try_from(at).expect("contents fit memory");
        let content = object.content.slice(place(range.start)..place(range.end));
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(length(content.len() as u64)),
            content_range: part,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            body: Some(StreamingBlob::from(s3s::Body::from(content))),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.0.get(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(length(object.content.len() as u64)),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let content = content(input.body).await?;
        let (none, some) = (input.if_none_match.as_ref(), input.if_match.as_ref());
        let etag = self.0.put(&input.bucket, &input.key, content, none, some)?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(etag), ..Default::default() }))
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented, "copies are made from buckets only"));
        };
        let object = self.0.get(bucket, key)?;
        let etag = self.0.put(&input.bucket, &input.key, object.content, None, None)?;
        let copied =
            CopyObjectResult { e_tag: Some(etag), last_modified: Some(object.modified.into()), ..Default::default() };
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(copied), ..Default::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.of(&request.input.bucket, |objects| {
            objects.remove(&request.input.key);
            Ok(())
        })?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let keys: Vec<String> = request.input.delete.objects.into_iter().map(|object| object.key).collect();
        self.0.of(&request.input.bucket, |objects| {
            keys.iter().for_each(|key| drop(objects.remove(key)));
            Ok(())
        })?;
        let deleted = keys.into_iter().map(|key| DeletedObject { key: Some(key), ..Default::default() }).collect();
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after.clone());
        let (mut contents, mut folders, mut next) = (Vec::new(), BTreeSet::new(), None);
        self.0.of(&input.bucket, |objects| {
            for (key, object) in objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                if after.as_ref().is_some_and(|after| key <= after) {
                    continue;
                }
                if contents.len() == PAGE {
                    next = contents.last().and_then(|last: &Object| last.key.clone());
                    break;
                }
                let rest = &key[prefix.len()..];
                let folder = input.delimiter.as_ref().and_then(|delimiter| rest.split_once(delimiter.as_str()));
                if let Some((folder, _)) = folder {
                    folders.insert(format!("{prefix}{folder}{}", input.delimiter.as_deref().unwrap_or_default()));
                    continue;
                }
                contents.push(Object {
                    key: Some(key.clone()),
                    size: Some(length(object.content.len() as u64)),
                    e_tag: Some(ETag::Strong(object.etag.clone())),
                    last_modified: Some(object.modified.into()),
                    ..Default::default()
                });
            }
            Ok(())
        })?;
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            key_count: i32::try_from(contents.len()).ok(),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents: Some(contents),
            common_prefixes: Some(folders.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect()),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.0.of(&input.bucket, |_| Ok(()))?;
        let upload_id = Some(self.0.uploads.begin(&input.bucket, &input.key));
        let (bucket, key) = (Some(input.bucket), Some(input.key));
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id, bucket, key, ..Default::default() }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let content = content(input.body).await?;
        let e_tag = Some(self.0.uploads.put(&input.upload_id, input.part_number, content)?);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let listed = input.multipart_upload.and_then(|listed| listed.parts).unwrap_or_default();
        let content = self.0.uploads.complete(&input.upload_id, &listed)?;
        let (none, some) = (input.if_none_match.as_ref(), input.if_match.as_ref());
        let e_tag = Some(self.0.put(&input.bucket, &input.key, content, none, some)?);
        let (bucket, key) = (Some(input.bucket), Some(input.key));
        Ok(S3Response::new(CompleteMultipartUploadOutput { bucket, key, e_tag, ..Default::default() }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.uploads.abort(&request.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
