use std::sync::Arc;

use super::*;
use crate::storage::faults::{Faulty, Full};
use crate::storage::{Location, PIECE, StorageError, create};

fn folder() -> (tempfile::TempDir, Location) {
    let folder = tempfile::tempdir().unwrap();
    let location = create(folder.path().to_str().unwrap()).unwrap();
    (folder, location)
}

fn contents(step: u64) -> Contents {
    use sha2::{Digest as _, Sha256};
    Contents {
        job: "demo-k7f3q".parse().unwrap(),
        step: Step(step),
        generation: Generation(3),
        world_size: 1,
        spec_digest: "0".repeat(64),
        data_digest: "1".repeat(64),
        parts: vec![Part { name: part_name(Rank(0), 1), bytes: 5, sha256: hex::encode(Sha256::digest("state")) }],
        quarantined: vec![Quarantined {
            shard: "train-0.tar".into(),
            index: 7,
            key: "000007".into(),
            reason: "undecodable".into(),
        }],
        created: jiff::Timestamp::UNIX_EPOCH,
        account: None,
    }
}

fn manifest(step: u64) -> CheckpointManifest {
    CheckpointManifest::new(contents(step)).unwrap()
}

async fn written(folder: &Location, step: u64) -> CheckpointManifest {
    let manifest = manifest(step);
    folder.put(&manifest.part_path(&manifest.contents().parts[0]), "state").await.unwrap();
    commit(folder, &manifest).await.unwrap();
    manifest
}

#[test]
fn names_sort_as_steps_do_and_stay_what_they_are() {
    assert_eq!(manifest_path(Step(100)), "checkpoints/000000000100/MANIFEST.json");
    let part = manifest(100).part_path(&contents(100).parts[0]);
    assert_eq!(part, "checkpoints/000000000100/3/part-00000-of-00001.safetensors");
    assert!(step_folder(Step(99)) < step_folder(Step(100)));
    assert_eq!(step_of_manifest("000000000100/MANIFEST.json"), Some(Step(100)));
    assert_eq!(step_of_manifest("000000000100/3/MANIFEST.json"), None);
    assert_eq!(step_of_manifest("+00000000100/MANIFEST.json"), None);
    let abandoned = abandoned_path(Step(100), Generation(7));
    assert_eq!(abandoned_at(abandoned.strip_prefix("checkpoints/").unwrap()), Some((Step(100), Generation(7))));
    assert_eq!(abandoned_at("000000000100/3/ABANDONED-7.json"), None);
}

#[test]
fn a_changed_manifest_is_refused() {
    let document = String::from_utf8(manifest(100).to_json()).unwrap();
    assert_eq!(CheckpointManifest::from_json(document.as_bytes()), Ok(manifest(100)));
    for (from, to, why) in [
        ("\"bytes\": 5", "\"bytes\": 6", "does not match its own digest"),
        ("\"version\": 1", "\"version\": 2", "its version is 2"),
        ("\"world_size\": 1", "\"world_size\": 0", "world_size is 0"),
        ("part-00000", "../part", "is not the name of a .safetensors file"),
        ("\"bytes\"", "\"size\"", "unknown field `size`"),
    ] {
        let changed = document.replace(from, to);
        assert_ne!(changed, document, "{from}");
        let error = CheckpointManifest::from_json(changed.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn the_newest_committed_checkpoint_is_found_and_uncommitted_ones_are_not() {
    let (_temp, folder) = folder();
    assert_eq!(newest(&folder).await.unwrap(), None);
    let hundred = written(&folder, 100).await;
    written(&folder, 20).await;
    folder.put(&manifest(300).part_path(&contents(300).parts[0]), "state").await.unwrap();
    assert_eq!(committed(&folder).await.unwrap(), [Step(100), Step(20)]);
    let found = newest(&folder).await.unwrap().unwrap();
    assert_eq!(found, hundred);
    assert!(examine(&folder, &found).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_checkpoint_is_noticed_and_an_older_one_is_used() {
    let (_temp, folder) = folder();
    let old = written(&folder, 10).await;
    let new = written(&folder, 20).await;
    let path = new.part_path(&new.contents().parts[0]);
    folder.put(&path, "stale").await.unwrap();
    let damage = examine(&folder, &new).await.unwrap();
    assert!(damage.len() == 1 && damage[0].to_string().contains("its SHA-256 is"), "{damage:?}");
    folder.delete(&path).await.unwrap();
    let damage = examine(&folder, &new).await.unwrap();
    assert!(damage.len() == 1 && damage[0].to_string().contains("it is absent"), "{damage:?}");
    folder.put(&manifest_path(Step(20)), "{").await.unwrap();
    assert_eq!(newest(&folder).await.unwrap(), Some(old));
}

#[tokio::test]
async fn a_part_larger_than_a_piece_is_restored_bit_for_bit_and_its_damage_noticed() {
    use sha2::{Digest as _, Sha256};
    let bucket = Location::new(Arc::new(object_store::memory::InMemory::new()), "".into(), "s3://bucket");
    let mut state: Vec<u8> = (0..2 * PIECE + 7).map(|at| (at / 251 + at) as u8).collect();
    let part =
        Part { name: part_name(Rank(0), 1), bytes: state.len() as u64, sha256: hex::encode(Sha256::digest(&state)) };
    let manifest = CheckpointManifest::new(Contents { parts: vec![part.clone()], ..contents(100) }).unwrap();
    let path = manifest.part_path(&part);
    bucket.put_large(&path, state.clone()).await.unwrap();
    assert!(read_part(&bucket, &manifest, &part).await.unwrap() == state);
    state[PIECE] ^= 1;
    bucket.put_large(&path, state.clone()).await.unwrap();
    let error = read_part(&bucket, &manifest, &part).await.unwrap_err().to_string();
    assert!(error.contains("its SHA-256 is"), "{error}");
    bucket.put_large(&path, state.split_off(PIECE)).await.unwrap();
    let error = read_part(&bucket, &manifest, &part).await.unwrap_err().to_string();
    assert!(error.contains("bytes, not"), "{error}");
}

#[tokio::test]
async fn a_commit_may_be_repeated_and_never_replaced() {
    let (_temp, folder) = folder();
    let first = written(&folder, 100).await;
    commit(&folder, &first).await.unwrap();
    let other = CheckpointManifest::new(Contents { generation: Generation(4), ..contents(100) }).unwrap();
    assert!(matches!(commit(&folder, &other).await, Err(CheckpointError::Conflict { .. })));
    assert_eq!(load(&folder, Step(100)).await.unwrap(), first);
}

#[tokio::test]
async fn a_full_disk_fails_the_commit_and_says_so() {
    let (_temp, folder) = folder();
    let full = Arc::new(Full::default());
    full.set(true);
    let folder = folder.with_store(Faulty::new(folder.store.clone(), full));
    let error = commit(&folder, &manifest(1)).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Storage(StorageError::Full { .. })), "{error:?}");
    assert_eq!(error.code(), crate::code::Code::StoreFull);
}

#[tokio::test]
async fn what_retention_takes_stays_in_the_history() {
    let (_temp, folder) = folder();
    let old = written(&folder, 10).await;
    let new = written(&folder, 20).await;
    for _ in 0..2 {
        retire(&folder, Step(10)).await.unwrap();
        assert_eq!(committed(&folder).await.unwrap(), [Step(20)]);
        assert_eq!(history(&folder).await.unwrap(), (vec![old.clone(), new.clone()], Vec::new()));
    }
    folder.put(&manifest_path(Step(20)), "{").await.unwrap();
    let (intact, problems) = history(&folder).await.unwrap();
    assert_eq!(intact, [old]);
    assert!(problems.len() == 1 && problems[0].contains("20/MANIFEST.json"), "{problems:?}");
}

#[tokio::test]
async fn what_a_rollback_gives_up_leaves_the_history_and_its_place() {
    let (_temp, folder) = folder();
    let kept = written(&folder, 10).await;
    for step in [20, 30] {
        written(&folder, step).await;
    }
    retire(&folder, Step(20)).await.unwrap();
    for _ in 0..2 {
        abandon(&folder, Step(10), Generation(3)).await.unwrap();
        assert_eq!(committed(&folder).await.unwrap(), [Step(10)]);
        assert_eq!(history(&folder).await.unwrap(), (vec![kept.clone()], Vec::new()));
    }
    for step in [20, 30] {
        let aside = folder.get(&abandoned_path(Step(step), Generation(3))).await.unwrap();
        assert_eq!(CheckpointManifest::from_json(&aside).unwrap(), manifest(step), "it can still be read");
    }
    let next = CheckpointManifest::new(Contents { generation: Generation(4), ..contents(20) }).unwrap();
    commit(&folder, &next).await.unwrap();
    abandon(&folder, Step(10), Generation(3)).await.unwrap();
    assert_eq!(load(&folder, Step(20)).await.unwrap(), next, "a late repetition takes nothing of the next branch");
}

#[tokio::test]
async fn a_manifest_that_comes_late_of_a_branch_that_was_given_up_is_void() {
    let (_temp, folder) = folder();
    let kept = written(&folder, 10).await;
    let given_up = written(&folder, 20).await;
    abandon(&folder, Step(10), Generation(3)).await.unwrap();
    // A coordinator that does not know yet that another one leads.
    commit(&folder, &given_up).await.unwrap();
    assert_eq!(committed(&folder).await.unwrap(), [Step(10)]);
    assert_eq!(newest(&folder).await.unwrap(), Some(kept.clone()));
    assert_eq!(history(&folder).await.unwrap(), (vec![kept.clone()], Vec::new()));
    let error = load(&folder, Step(20)).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Void { through: Generation(3), .. }), "{error:?}");

    let next = CheckpointManifest::new(Contents { generation: Generation(4), ..contents(20) }).unwrap();
    for _ in 0..2 {
        commit(&folder, &next).await.unwrap();
        assert_eq!(history(&folder).await.unwrap(), (vec![kept.clone(), next.clone()], Vec::new()));
    }
    let late = commit(&folder, &given_up).await;
    assert!(matches!(late, Err(CheckpointError::Conflict { .. })), "what is committed stays: {late:?}");
    retire(&folder, Step(20)).await.unwrap();
    commit(&folder, &given_up).await.unwrap();
    assert_eq!(history(&folder).await.unwrap(), (vec![kept, next], Vec::new()), "nor does it hide what was retired");
}

#[test]
fn manifests_without_an_account_keep_their_digest() {
    let document = String::from_utf8(manifest(100).to_json()).unwrap();
    assert!(!document.contains("account"), "{document}");
    let contents = format!(
        r#"{{"job":"demo-k7f3q","step":100,"generation":3,"world_size":1,"spec_digest":"{}","data_digest":"{}","parts":[{{"name":"part-00000-of-00001.safetensors","bytes":5,"sha256":"{}"}}],"quarantined":[{{"shard":"train-0.tar","index":7,"key":"000007","reason":"undecodable"}}],"created":"1970-01-01T00:00:00Z"}}"#,
        "0".repeat(64),
        "1".repeat(64),
        manifest(100).contents().parts[0].sha256,
    );
    use sha2::{Digest as _, Sha256};
    assert_eq!(manifest(100).digest(), hex::encode(Sha256::digest(contents)));
}
