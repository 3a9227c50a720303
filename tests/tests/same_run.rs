//! The same run on any number of workers, whatever happens to them.

use std::time::{Duration, Instant};

use cappa_proto::{ChangeRequest, JobState};
use cappa_tests::corpus::cappactl;
use cappa_tests::jobs::{Curve, JobSpec};
use cappa_tests::{Cluster, Corpus, Options};

const STEPS: u64 = 50;
/// Of runs that something happens to, so that it does before they are over.
const LONGER: u64 = 100;
/// fp32 sums in another order.
const TOLERANCE: f64 = 1e-4;

async fn undisturbed(corpus: &Corpus, workers: usize, steps: u64) -> anyhow::Result<Curve> {
    let cluster = Cluster::start(Options { workers, ..Options::default() })?;
    cluster.wait_idle(workers).await?;
    let spec = JobSpec { steps, workers: (workers as u32, workers as u32), ..JobSpec::default() };
    let job = cluster.submit(&spec, corpus).await?;
    cluster.finish(&job).await
}

/// A job that runs and is about to be disturbed.
struct Disturbed {
    /// Lies on disk as long as this lives.
    corpus: Corpus,
    expected: Curve,
    cluster: Cluster,
    job: String,
}

/// The curve that nothing disturbed, and the same job begun on a cluster where something will: so many workers, of which it
/// takes between so many and so many.
async fn to_disturb(workers: usize, takes: (u32, u32)) -> anyhow::Result<Disturbed> {
    let corpus = Corpus::new(400)?;
    let expected = undisturbed(&corpus, 1, LONGER).await?;
    let cluster = Cluster::start(Options { workers, standby: true, ..Options::default() })?;
    cluster.wait_idle(workers).await?;
    let job = cluster.submit(&JobSpec { steps: LONGER, workers: takes, ..JobSpec::default() }, &corpus).await?;
    Ok(Disturbed { corpus, expected, cluster, job })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_two_and_three_workers_give_the_same_loss_curve() -> anyhow::Result<()> {
    let corpus = Corpus::new(400)?;
    let one = undisturbed(&corpus, 1, STEPS).await?;
    assert!(one.0[&STEPS] < 0.8 * one.0[&1], "it learns: {} to {}", one.0[&1], one.0[&STEPS]);
    for workers in [2, 3] {
        undisturbed(&corpus, workers, STEPS).await?.assert_same(&one, STEPS, TOLERANCE);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_no_step() -> anyhow::Result<()> {
    let Disturbed { corpus: _corpus, expected, mut cluster, job } = to_disturb(3, (3, 3)).await?;
    cluster.wait_step(&job, 10).await?;
    cluster.kill_worker(1);
    let curve = cluster.finish(&job).await?;
    curve.assert_same(&expected, LONGER, TOLERANCE);
    assert!(cluster.job(&job).await?.recoveries >= 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_costs_no_step() -> anyhow::Result<()> {
    let Disturbed { corpus: _corpus, expected, mut cluster, job } = to_disturb(2, (2, 2)).await?;
    let before = cluster.wait_step(&job, 5).await?;
    cluster.kill_coordinator();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.start_coordinator()?;
    let after = cluster.wait_state(&job, JobState::Succeeded).await?;
    assert_eq!(after.generation, before.generation, "training went on in the same group");
    cluster.curve(&job).await?.assert_same(&expected, LONGER, TOLERANCE);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_leader_and_costs_no_step() -> anyhow::Result<()> {
    let Disturbed { corpus, expected, mut cluster, job } = to_disturb(2, (2, 2)).await?;
    cluster.start_standby()?;
    // It waits for as long as this test lasts.
    let waits = cluster.submit(&JobSpec { workers: (9, 9), ..JobSpec::default() }, &corpus).await?;
    let before = cluster.wait_step(&job, 5).await?;
    let took = cluster.kill_leader().await?;
    println!("SIGKILL of the leader to the successor's first answer as leader: {:.2} s", took.as_secs_f64());
    // Three times what it may take: machines are shared.
    assert!(took < Duration::from_secs(15), "{took:?}\n{}", cluster.logs());
    // Whoever asks finds the new one, though the old one comes first on the list.
    let list = cluster.coordinators();
    let dead_first: Vec<_> = list.rsplit(',').collect();
    cappactl(&["--coordinator", &dead_first.join(","), "priority", &waits, "5"])?;
    assert_eq!(cluster.job(&waits).await?.priority, 5);
    let after = cluster.wait_state(&job, JobState::Succeeded).await?;
    assert_eq!(after.generation, before.generation, "training went on in the same group");
    cluster.curve(&job).await?.assert_same(&expected, LONGER, TOLERANCE);

    // A follower answers what the log tells, and a change that it is asked for is made by who leads.
    cluster.start_standby()?;
    let list = cluster.coordinators();
    let follower = list.rsplit(',').next().expect("two");
    let deadline = Instant::now() + Duration::from_secs(20);
    while cappactl(&["--coordinator", follower, "describe", &job]).is_err() {
        assert!(Instant::now() < deadline, "the follower does not hear of the job");
    }
    cappactl(&["--coordinator", follower, "requeue", &job]).expect_err("a job that succeeded: so says the leader");
    let workers = cappactl(&["--coordinator", follower, "workers", "ls", "-o", "name"])?;
    assert_eq!(workers.lines().count(), 2, "{workers}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_paused_continues_its_curve_on_other_workers() -> anyhow::Result<()> {
    let Disturbed { corpus: _corpus, expected, mut cluster, job } = to_disturb(2, (1, 2)).await?;
    cluster.wait_step(&job, 10).await?;
    let change = ChangeRequest { job_id: job.clone(), reason: "test".into() };
    cluster.jobs().await?.pause(change.clone()).await?;
    let paused = cluster.wait_state(&job, JobState::Paused).await?;
    assert_eq!(paused.last_checkpoint_step, paused.step, "all that was trained is in the checkpoint");
    assert!(paused.step < LONGER);
    // Nobody who held the state in memory is left.
    for index in 0..2 {
        cluster.kill_worker(index);
    }
    cluster.start_worker(2)?;
    cluster.wait_idle(1).await?;
    cluster.jobs().await?.resume(change).await?;
    cluster.finish(&job).await?.assert_same(&expected, LONGER, TOLERANCE);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_end_checkpoints_first_and_costs_no_step() -> anyhow::Result<()> {
    let Disturbed { corpus: _corpus, expected, mut cluster, job } = to_disturb(2, (1, 2)).await?;
    cluster.wait_step(&job, 10).await?;
    let before = cluster.job(&job).await?.generation;
    let asked = Instant::now();
    cluster.signal_worker(0, 15)?;
    let code = cluster.wait_worker(0, Duration::from_secs(30))?;
    assert_eq!(code, Some(0), "{}", cluster.logs());
    assert!(cluster.job(&job).await?.last_checkpoint_step >= 10);
    cluster.finish(&job).await?.assert_same(&expected, LONGER, TOLERANCE);
    // Whoever ends is in no group any more, and whoever stays is never held up by it: the time-out of forming
    // and of collectives is 60 s here.
    assert_eq!(cluster.job(&job).await?.generation, before + 1, "{}", cluster.logs());
    assert!(asked.elapsed() < Duration::from_secs(55), "{:?}\n{}", asked.elapsed(), cluster.logs());
    Ok(())
}
