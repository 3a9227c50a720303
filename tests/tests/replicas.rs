//! A bit of a worker's memory flips, as in a failing machine, and its rank holds other parameters than the others from then on. The
//! test flips it from outside the process: workers have no switch for that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use safetensors::SafeTensors;

const STEPS: u64 = 200;
/// The only checkpoint before the end is that of this step.
const EVERY: u64 = 100;

/// The largest of the frozen parameters, as the checkpoint of a step has it: its name and its bytes.
fn largest_frozen(job: &Path, step: u64) -> Result<(String, Vec<u8>)> {
    let attempts = std::fs::read_dir(job.join(format!("checkpoints/{step:012}")))?;
    let mut largest = None::<(String, Vec<u8>)>;
    for attempt in attempts.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()) {
        for part in std::fs::read_dir(attempt)? {
            let bytes = std::fs::read(part?.path())?;
            for (name, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
                let is_larger = largest.as_ref().is_none_or(|(_, bytes)| tensor.data().len() > bytes.len());
                if name.starts_with("params/encoder/") && is_larger {
                    largest = Some((name, tensor.data().to_vec()));
                }
            }
        }
    }
    largest.context("no part has a parameter of the encoder")
}

/// Flips a bit wherever the process has these bytes where a tensor may begin. Tells in how many places.
fn flip(process: u32, bytes: &[u8]) -> Result<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
    let memory = File::options().read(true).write(true).open(format!("/proc/{process}/mem"))?;
    let mut places = 0;
    for map in maps.lines() {
        let mut fields = map.split_whitespace();
        let (range, permissions) = fields.next().zip(fields.next()).context("a range and its permissions")?;
        if permissions != "rw-p" {
            continue;
        }
        let (start, end) = range.split_once('-').context("two addresses")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        let mut region = vec![0; usize::try_from(end - start)?];
        if memory.read_exact_at(&mut region, start).is_err() {
            continue; // it is gone meanwhile, or a device's
        }
        for place in (0..region.len()).step_by(16).filter(|&place| region[place..].starts_with(bytes)) {
            memory.write_all_at(&[bytes[0] ^ 1], start + place as u64)?;
            places += 1;
        }
    }
    Ok(places)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_whose_memory_flips_a_bit_is_named_and_goes_on_with_the_parameters_of_the_others() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 3, ..Options::default() })?;
    cluster.wait_idle(3).await?;
    // Frozen parameters are the same at every step, so their bytes are known.
    let more = "freeze: [encoder]\nverify_replicas: 5".to_owned();
    let spec = JobSpec { steps: STEPS, checkpoint_every: EVERY, workers: (3, 3), more, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    let folder = cluster.store_folder().join("jobs").join(&job);
    cluster.wait_step(&job, EVERY).await?;
    while !folder.join(format!("checkpoints/{EVERY:012}/MANIFEST.json")).exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (name, before) = largest_frozen(&folder, EVERY)?;
    ensure!(flip(cluster.worker_pid(1)?, &before)? > 0, "the worker has {name} in no place");

    let curve = cluster.finish(&job).await?;
    assert!(curve.0.keys().copied().eq(1..=STEPS), "every step once");
    let events = cluster.events(&job).await?;
    let failed: Vec<&str> =
        events.iter().filter(|event| event.kind == "group_failed").map(|event| &*event.message).collect();
    assert!(
        matches!(failed[..], [told] if told.contains("(worker-1) failed: REPLICA_DIVERGED")),
        "{failed:?}\n{}",
        cluster.logs()
    );
    assert_eq!(largest_frozen(&folder, STEPS)?, (name, before), "what diverged is in no checkpoint");
    Ok(())
}
