use cappa_shared::storage;

use super::*;

/// An attempt with one part.
async fn write(folder: &Location, step: u64, generation: u64) {
    let attempt = attempt_folder(Step(step), Generation(generation));
    folder.put(&format!("{attempt}/part-00000-of-00001.safetensors"), "state").await.unwrap();
}

async fn commit(folder: &Location, step: u64, generation: u64) {
    write(folder, step, generation).await;
    let part = checkpoint::Part { name: "part-00000-of-00001.safetensors".into(), bytes: 5, sha256: "ab".repeat(32) };
    let contents = Contents {
        job: "demo-k7f3q".parse().unwrap(),
        step: ids::Step(step),
        generation: ids::Generation(generation),
        world_size: 1,
        spec_digest: "0".repeat(64),
        data_digest: "1".repeat(64),
        parts: vec![part],
        quarantined: Vec::new(),
        created: Timestamp::UNIX_EPOCH,
        account: None,
    };
    checkpoint::commit(folder, &CheckpointManifest::new(contents).unwrap()).await.unwrap();
}

/// The attempts of which there are files: a folder without any may stay.
async fn left(folder: &Location) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (step, of_step) in attempts(folder).await.unwrap() {
        for generation in of_step {
            if !folder.list(&attempt_folder(step, generation)).await.unwrap().is_empty() {
                left.push((step.0, generation.0));
            }
        }
    }
    left
}

#[tokio::test]
async fn a_sweep_spares_what_a_manifest_in_the_store_names_unless_it_was_given_up() {
    let at = tempfile::tempdir().unwrap();
    let folder = storage::create(at.path().to_str().unwrap()).unwrap();
    let litter =
        |given_up| Litter { kept: HashSet::from([(Step(400), Generation(2))]), active: Some(Generation(4)), given_up };
    for (step, generation) in [(400, 2), (500, 3), (600, 3)] {
        commit(&folder, step, generation).await;
    }
    for (step, generation) in [(400, 1), (600, 2), (700, 3), (700, 4)] {
        write(&folder, step, generation).await;
    }
    litter(None).sweep(&folder).await.unwrap();
    assert_eq!(left(&folder).await, [(400, 2), (500, 3), (600, 3), (700, 4)], "the log knows of step 400 only");

    folder.put(&manifest_path(Step(500)), "damaged").await.unwrap();
    litter(Some(Branch { after: Step(400), through: Generation(3) })).sweep(&folder).await.unwrap();
    assert_eq!(left(&folder).await, [(400, 2), (500, 3), (700, 4)], "which attempt the damaged one names is not known");
}
