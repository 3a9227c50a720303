//! A step of a run made again, by one machine.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use serde_json::Value;

/// Runs `cappactl replay --run` on a job's folder.
fn replay(folder: &Path, spec: &Path, step: u64) -> Result<Output> {
    let program = cappa_tests::binary("cappactl")?;
    let mut command = Command::new(program);
    command.args(["replay", "--run", "-o", "json", "--step", &step.to_string()]);
    Ok(command.arg("--store").arg(folder).arg("--spec").arg(spec).output()?)
}

/// Waits until the job's curve reaches a step in its folder, where the coordinator writes it now and then.
async fn curve_is_kept(folder: &Path, step: u64) -> Result<()> {
    let needle = format!("\"step\":{step},");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let segments = std::fs::read_dir(folder.join("curve")).into_iter().flatten();
        let texts = segments.map(|segment| Ok(std::fs::read_to_string(segment?.path())?));
        if texts.collect::<Result<String>>()?.contains(&needle) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the curve ends before step {step}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Changes the loss of a step in the job's curve.
fn falsify(folder: &Path, step: u64) -> Result<()> {
    for segment in std::fs::read_dir(folder.join("curve"))? {
        let path = segment?.path();
        let mut lines = Vec::new();
        for line in std::fs::read_to_string(&path)?.lines() {
            let mut point: Value = serde_json::from_str(line)?;
            if point["step"] == step {
                point["loss"] = (point["loss"].as_f64().context("a loss")? * 1.001).into();
            }
            lines.push(point.to_string());
        }
        std::fs::write(&path, lines.join("\n") + "\n")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_runs_again_from_the_checkpoint_before_it_and_a_changed_loss_is_found_out() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options::default())?;
    cluster.wait_idle(2).await?;
    let spec = JobSpec { steps: 40, workers: (2, 2), checkpoint_every: 15, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    let curve = cluster.finish(&job).await?;
    let document = corpus.path("spec.json");
    std::fs::write(&document, cluster.job(&job).await?.spec_json)?;
    let folder = cluster.store_folder().join("jobs").join(&job);
    curve_is_kept(&folder, 40).await?;

    // The checkpoints of steps 30 and 40 are kept.
    let output = replay(&folder, &document, 37)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let run = &found["run"];
    assert_eq!((&run["from"], &run["agrees"]), (&30.into(), &true.into()), "{run}");
    let updates = run["updates"].as_array().context("updates")?;
    let steps: Vec<_> = updates.iter().map(|update| update["step"].as_u64()).collect();
    assert_eq!(steps, (31..=37).map(Some).collect::<Vec<_>>());
    for update in updates {
        let step = update["step"].as_u64().context("a step")?;
        assert_eq!(update["recorded_loss"].as_f64(), Some(curve.0[&step]), "{run}");
    }
    println!("differences of two workers' losses and one's: {updates:?}");

    // Before the first checkpoint that is left there is the seed.
    let output = replay(&folder, &document, 3)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&found["run"]["from"], &found["run"]["agrees"]), (&0.into(), &true.into()), "{found}");

    falsify(&folder, 37)?;
    let output = replay(&folder, &document, 37)?;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(found["run"]["agrees"], false, "{found}");
    Ok(())
}
