//! The server behaves as S3 does, and its faults arrive on the wire.

use std::time::{Duration, Instant};

use cappa_shared::storage::{Location, PIECE, StorageError, probe_atomic_create};
use cappa_test_stores::{Fault, Rule, S3Server};
use futures::future::join_all;
use object_store::multipart::MultipartStore;
use object_store::{Error, ObjectStoreExt};

fn bucket(server: &S3Server) -> Location {
    Location::new(server.store("data"), "".into(), "s3://data")
}

#[tokio::test]
async fn what_is_put_is_listed_read_and_deleted() {
    let server = S3Server::start(&["data"]);
    let data = bucket(&server);
    for n in 0..250 {
        server.put("data", &format!("many/{n:03}"), vec![7; n]);
    }
    data.put("a/b c+d/two", "22").await.unwrap();
    assert_eq!(data.get("a/b c+d/two").await.unwrap(), "22");
    assert_eq!(data.get_range("many/249", 10..20).await.unwrap().len(), 10);
    assert_eq!(data.size("many/007").await.unwrap(), 7);
    assert_eq!(data.list("many").await.unwrap().len(), 250, "over several pages");
    assert_eq!(data.folders("").await.unwrap(), ["a", "many"]);
    data.delete("many/007").await.unwrap();
    assert!(matches!(data.get("many/007").await, Err(StorageError::NotFound { .. })));
    server.store("data").copy(&"many/008".into(), &"copied".into()).await.unwrap();
    assert_eq!(server.get("data", "copied").unwrap().len(), 8);
}

#[tokio::test]
async fn of_many_conditional_creates_one_succeeds() {
    let server = S3Server::start(&["data"]);
    let data = bucket(&server);
    for round in 0..10 {
        let key = format!("commit-{round}");
        let results = join_all((0..16).map(|n| data.put_if_absent(&key, format!("{n}")))).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "round {round}");
    }
}

/// Of two pieces and a bit.
fn large() -> Vec<u8> {
    (0..2 * PIECE + 7).map(|at| (at / 251 + at) as u8).collect()
}

#[tokio::test]
async fn a_large_object_goes_up_and_comes_back_in_pieces_bit_for_bit() {
    let server = S3Server::start(&["data"]);
    let data = bucket(&server);
    data.put_large("part", large()).await.unwrap();
    assert!(server.get("data", "part").unwrap() == large());
    assert!(data.get_large("part").await.unwrap() == large());
    assert!(server.uploads("data").is_empty());
    let seen = server.faults().seen();
    let sent = seen.iter().filter(|seen| seen.target.contains("partNumber=")).count();
    let read = seen.iter().filter(|seen| seen.range.is_some()).count();
    assert_eq!((sent, read), (3, 3));
}

#[tokio::test]
async fn a_piece_that_fails_is_sent_again() {
    let server = S3Server::start(&["data"]);
    for (fault, piece) in [(Fault::INTERNAL, 2), (Fault::Refuse, 2), (Fault::SLOW_DOWN, 3)] {
        server.faults().add(Rule::new(fault).on(&format!("partNumber={piece}&")).times(1));
    }
    bucket(&server).put_large("part", large()).await.unwrap();
    assert!(server.get("data", "part").unwrap() == large());
    assert_eq!(server.faults().injected(), 3);
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing() {
    let server = S3Server::start(&["data"]);
    let data = bucket(&server);
    let denied = Fault::Status(403, "AccessDenied");
    for (nth, failing) in ["?uploads", "partNumber=3&", "?uploadId="].into_iter().enumerate() {
        server.faults().add(Rule::new(denied.clone()).on(failing).times(1));
        let error = data.put_large("part", large()).await.unwrap_err();
        assert!(matches!(error, StorageError::Denied { .. }), "{failing}: {error:?}");
        assert!(server.keys("data").is_empty() && server.uploads("data").is_empty(), "{failing}");
        assert_eq!(server.faults().injected(), nth + 1, "it is not tried again: {failing}");
        server.faults().clear();
    }
}

#[tokio::test]
async fn an_unfinished_upload_is_not_seen_and_a_wrong_one_not_completed() {
    let server = S3Server::start(&["data"]);
    let (store, key) = (server.store("data"), "part".into());
    let upload = store.create_multipart(&key).await.unwrap();
    let mut pieces = Vec::new();
    for number in 0..2 {
        pieces.push(store.put_part(&key, &upload, number, vec![7; 100].into()).await.unwrap());
    }
    assert!(bucket(&server).list("").await.unwrap().is_empty());
    assert_eq!(server.uploads("data"), ["part"]);
    let small = store.complete_multipart(&key, &upload, pieces.clone()).await.unwrap_err();
    assert!(format!("{small:?}").contains("EntityTooSmall"), "{small:?}");
    pieces.reverse();
    let exchanged = store.complete_multipart(&key, &upload, pieces).await.unwrap_err();
    assert!(format!("{exchanged:?}").contains("InvalidPart"), "{exchanged:?}");
    store.abort_multipart(&key, &upload).await.unwrap();
    assert!(server.uploads("data").is_empty());
    let gone = store.put_part(&key, &upload, 2, vec![7; 100].into()).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_does_not_pass_the_probe() {
    let server = S3Server::start(&["data"]);
    let data = bucket(&server);
    probe_atomic_create(&data).await.unwrap();
    server.ignore_conditions(true);
    let error = probe_atomic_create(&data).await.unwrap_err();
    assert!(matches!(error, StorageError::NotAtomic { .. }), "{error:?}");
    assert!(server.keys("data").is_empty(), "the probe cleans up: {:?}", server.keys("data"));
}

#[tokio::test]
async fn faults_arrive_on_the_wire_and_end_when_told() {
    let server = S3Server::start(&["data"]);
    let data = bucket(&server);
    server.put("data", "x", vec![1; 100_000]);
    for fault in [Fault::INTERNAL, Fault::SLOW_DOWN, Fault::Refuse] {
        server.faults().add(Rule::new(fault.clone()).times(1));
        assert!(data.get("x").await.is_err(), "{fault:?}");
        assert_eq!(data.get("x").await.unwrap().len(), 100_000);
    }
    for fault in [Fault::Truncate { after: 50_000 }, Fault::Reset { after: 50_000 }] {
        server.faults().add(Rule::new(fault.clone()).gets().on("/x"));
        assert!(data.get("x").await.is_err(), "{fault:?}");
        server.faults().clear();
    }
    server.faults().add(Rule::new(Fault::Corrupt { at: 3 }).every(2));
    assert_eq!(data.get("x").await.unwrap()[3], 1, "the first of two");
    assert_eq!(data.get("x").await.unwrap()[3], 1 ^ 0x55, "the second");
    server.faults().clear();

    server.faults().add(Rule::new(Fault::NO_BUCKET));
    let error = data.get("x").await.unwrap_err();
    assert!(matches!(error, StorageError::NoBucket { .. }) && error.is_transient(), "{error:?}");
    server.faults().clear();

    let pause = Duration::from_millis(20);
    server.faults().add(Rule::new(Fault::Trickle { piece: 20_000, pause }));
    let begin = Instant::now();
    assert_eq!(data.get("x").await.unwrap().len(), 100_000);
    assert!(begin.elapsed() >= 5 * pause);
    let seen = server.faults().seen();
    assert_eq!(seen.last().unwrap().fault, Some(Fault::Trickle { piece: 20_000, pause }));
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let server = S3Server::start(&["data"]);
    server.put("data", "x", "1");
    let other = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_access_key_id("test-key")
        .with_secret_access_key("guessed")
        .with_region("us-east-1")
        .with_bucket_name("data")
        .with_allow_http(true)
        .build()
        .unwrap();
    let refused = Location::new(std::sync::Arc::new(other), "".into(), "s3://data").get("x").await;
    assert!(matches!(refused, Err(StorageError::Denied { .. })), "{refused:?}");
}
