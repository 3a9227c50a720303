use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, Result};

use super::faults::{Failing, Fault, Faulty, Full, Operation, Slow};
use super::*;

fn folder() -> (tempfile::TempDir, Location) {
    let folder = tempfile::tempdir().unwrap();
    let location = create(folder.path().join("bucket").to_str().unwrap()).unwrap();
    (folder, location)
}

#[tokio::test]
async fn what_is_put_is_listed_read_and_deleted() {
    let (_folder, root) = folder();
    root.put("a/one", "1").await.unwrap();
    root.put("a/b/two", "22").await.unwrap();
    let found: Vec<_> = root.list("a").await.unwrap().into_iter().map(|entry| (entry.path, entry.bytes)).collect();
    assert_eq!(found, [("b/two".to_owned(), 2), ("one".to_owned(), 1)]);
    assert_eq!(root.folders("a").await.unwrap(), ["b"]);
    assert_eq!(root.get("a/b/two").await.unwrap(), "22");
    assert_eq!(root.get_range("a/b/two", 1..2).await.unwrap(), "2");
    assert_eq!(root.size("a/one").await.unwrap(), 1);
    root.delete("a/one").await.unwrap();
    root.delete("a/one").await.unwrap();
    let error = root.get("a/one").await.unwrap_err();
    assert!(matches!(error, StorageError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("bucket/a/one"), "{error}");
    assert!(root.list("absent").await.unwrap().is_empty());
}

#[tokio::test]
async fn of_many_conditional_creates_one_succeeds() {
    let (_folder, root) = folder();
    let creates = (0..16).map(|n| {
        let root = root.clone();
        async move { root.put_if_absent("commit", format!("{n}")).await }
    });
    let results = futures::future::join_all(creates).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = |error: &StorageError| matches!(error, StorageError::AlreadyExists { .. });
    assert!(results.iter().filter_map(|result| result.as_ref().err()).all(refused));
}

#[tokio::test]
async fn a_location_can_not_be_left() {
    let (_folder, root) = folder();
    for path in ["../x", "a/../../x", "/etc/passwd"] {
        assert!(matches!(root.get(path).await, Err(StorageError::BadUrl { .. })), "{path}");
    }
    let document = root.join("data/manifest.json").unwrap();
    assert_eq!(document.sibling("train-0.tar").unwrap().url(), format!("{root}/data/train-0.tar"));
    assert_eq!(document.sibling("s3://other/train-0.tar").unwrap().url(), "s3://other/train-0.tar");
    assert!(document.sibling("../x").is_err());
}

#[tokio::test]
async fn a_folder_passes_the_probe_and_keeps_nothing_of_it() {
    let (_folder, root) = folder();
    probe_atomic_create(&root).await.unwrap();
    assert!(root.list("").await.unwrap().is_empty());
}

/// Behaves as the servers that ignore `If-None-Match` do: removes what is there before a write.
#[derive(Debug)]
struct Overwriting(Arc<dyn object_store::ObjectStore>);

#[async_trait]
impl Fault for Overwriting {
    async fn before(&self, operation: Operation, path: &Path) -> Result<()> {
        if operation == Operation::Put {
            let _ = self.0.delete(path).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_store_that_overwrites_commits_is_refused() {
    let (_folder, root) = folder();
    let overwriting = root.with_store(Faulty::new(root.store.clone(), Arc::new(Overwriting(root.store.clone()))));
    let error = probe_atomic_create(&overwriting).await.unwrap_err();
    assert!(matches!(error, StorageError::NotAtomic { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_still_reads() {
    let (_folder, root) = folder();
    let full = Arc::new(Full::default());
    let store = root.with_store(Faulty::new(root.store.clone(), full.clone()));
    store.put("x", "1").await.unwrap();
    full.set(true);
    assert!(matches!(store.put("y", "1").await, Err(StorageError::Full { .. })));
    assert_eq!(store.get("x").await.unwrap(), "1");
    full.set(false);
    store.put("y", "1").await.unwrap();
}

#[tokio::test]
async fn a_failing_store_fails_as_often_as_told() {
    let (_folder, root) = folder();
    let fault = Arc::new(Failing::next(Operation::Put, "part", 2));
    let store = root.with_store(Faulty::new(root.store.clone(), fault));
    store.put("other", "1").await.unwrap();
    for _ in 0..2 {
        assert!(matches!(store.put("part", "1").await, Err(StorageError::Unreachable { .. })));
    }
    store.put("part", "1").await.unwrap();
    let gone = root.with_store(Faulty::new(root.store.clone(), Arc::new(Failing::always())));
    assert!(gone.get("part").await.is_err() && gone.list("").await.is_err() && gone.delete("part").await.is_err());
}

#[tokio::test]
async fn a_slow_store_takes_its_time() {
    let (_folder, root) = folder();
    let slow = Slow(Duration::from_millis(30));
    let store = root.with_store(Faulty::new(root.store.clone(), Arc::new(slow)));
    let start = Instant::now();
    store.put("x", "1").await.unwrap();
    assert!(start.elapsed() >= slow.0);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unreachable() {
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = open(&format!("http://127.0.0.1:{port}/data")).unwrap().get("x").await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable { .. }), "{error:?}");
}
