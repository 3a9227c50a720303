//! The server behaves as S3 does, and its faults arrive on the wire.

use std::time::{Duration, Instant};

use cappa_shared::storage::{Location, StorageError, probe_atomic_create};
use cappa_test_stores::{Fault, Rule, S3Server};
use futures::future::join_all;
use object_store::ObjectStoreExt;

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
