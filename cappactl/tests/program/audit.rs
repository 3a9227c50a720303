//! `cappactl audit` on a job's folder, without a coordinator.

use std::path::Path;

use cappa_shared::checkpoint::{
    Account, CheckpointManifest, Contents, GroupSteps, OrderRecord, Part, Previous, SourceRecord, commit,
    manifest_path, retire,
};
use cappa_shared::ids::{Generation, Step};
use cappa_shared::manifest::{DataManifest, Shard};
use cappa_shared::storage;

use crate::support::cappactl;

fn contents(data: &Path, digest: &str, step: u64, previous: Option<&CheckpointManifest>) -> Contents {
    let first = previous.map_or(Step(0), |manifest| manifest.contents().step);
    Contents {
        job: "demo-k7f3q".parse().unwrap(),
        step: Step(step),
        generation: Generation(1),
        world_size: 2,
        spec_digest: "0".repeat(64),
        data_digest: digest.to_owned(),
        parts: vec![Part { name: "part.safetensors".into(), bytes: 1, sha256: "2".repeat(64) }],
        quarantined: Vec::new(),
        created: jiff::Timestamp::UNIX_EPOCH,
        account: Some(Account {
            order: OrderRecord {
                sources: vec![SourceRecord { manifest: data.display().to_string(), turns: 1 }],
                seed: 1,
                lanes: 4,
                shuffle_window: 2,
                batch_size: 8,
                every_caption: false,
            },
            previous: previous.map(|manifest| Previous {
                step: manifest.contents().step,
                generation: Generation(1),
                sha256: Some(manifest.digest().to_owned()),
            }),
            rewinds: Vec::new(),
            groups: vec![GroupSteps { generation: Generation(1), world_size: 2, first, end: Step(step) }],
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_proven_from_its_folder_and_a_changed_manifest_refutes_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("train.json");
    let shards = ["a.tar", "b.tar"].map(|path| Shard::tar(path, 1024, "ab".repeat(32), 20));
    let corpus = DataManifest::new(shards.to_vec()).unwrap();
    std::fs::write(&data, corpus.to_json()).unwrap();
    let job = dir.path().join("jobs/demo-k7f3q");
    let folder = storage::create(job.to_str().unwrap()).unwrap();
    let first = CheckpointManifest::new(contents(&data, corpus.digest(), 5, None)).unwrap();
    let second = CheckpointManifest::new(contents(&data, corpus.digest(), 9, Some(&first))).unwrap();
    for manifest in [&first, &second] {
        commit(&folder, manifest).await.unwrap();
    }
    retire(&folder, Step(5)).await.unwrap();

    let store = dir.path().to_str().unwrap();
    let audit = || cappactl(&["audit", "demo-k7f3q", "--store", store, "-o", "json"]);
    let ended = audit();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&found["proven"], &found["step"]), (&true.into(), &9.into()));
    assert_eq!(found["epochs"][0]["used"], 40);

    let table = cappactl(&["audit", "--store", job.to_str().unwrap()]);
    assert!(table.stdout.starts_with("proven up to step 9: every sample"), "{table:?}");

    let path = job.join(manifest_path(Step(9)));
    let document = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, document.replace("\"end\": 9", "\"end\": 8")).unwrap();
    let ended = audit();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("does not match its own digest"), "{ended:?}");
}
