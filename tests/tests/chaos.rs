//! Whatever breaks, a job ends as if nothing had.

use std::time::Duration;

use anyhow::Result;
use cappa_tests::chaos::{self, Fault, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_through_faults_of_every_part_loses_no_step_no_sample_and_no_checkpoint() -> Result<()> {
    loses_nothing(vec![
        Fault::TwoWorkersKilled,
        Fault::WorkerHangs,
        Fault::DuplicateId,
        Fault::OldWorker,
        Fault::LeaderKilled,
        Fault::BothKilled,
        Fault::StoreGone,
        Fault::ClockJumps(600),
        Fault::ClockJumpsAtRestart(-600),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_at_any_event_of_a_jobs_life_loses_no_step_no_sample_and_no_checkpoint() -> Result<()> {
    loses_nothing(Fault::at_every_event().collect()).await
}

/// One round of each.
async fn loses_nothing(faults: Vec<Fault>) -> Result<()> {
    let rounds = faults.len();
    let (time, take_over) = (Duration::from_secs(600), Duration::from_secs(15));
    let settings = Settings { seed: 1, faults, time, rounds, steps: 60, take_over, hosts: None };
    let report = chaos::run(&settings).await?;
    println!("{report}");
    assert_eq!(report.failures(), Vec::<String>::new());
    assert!(report.losses().is_none(), "{}", report.losses());
    Ok(())
}
