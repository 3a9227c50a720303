//! Whatever breaks, a job ends as if nothing had.

use std::time::Duration;

use anyhow::Result;
use cappa_tests::chaos::{self, Fault, Report, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_through_faults_of_every_part_loses_no_step_no_sample_and_no_checkpoint() -> Result<()> {
    let report = loses_nothing(vec![
        Fault::WorkerKilled,
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
    .await?;
    assert_eq!(report.phases().collect::<Vec<_>>(), ["detect", "first_step", "form", "state"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_at_any_event_of_a_jobs_life_loses_no_step_no_sample_and_no_checkpoint() -> Result<()> {
    loses_nothing(Fault::at_every_event().collect()).await?;
    Ok(())
}

/// One round of each, with three times the budgets: machines are shared.
async fn loses_nothing(faults: Vec<Fault>) -> Result<Report> {
    let rounds = faults.len();
    let [time, take_over, recovery] = [600, 15, 9].map(Duration::from_secs);
    let settings = Settings { seed: 1, faults, time, rounds, steps: 80, take_over, recovery, hosts: None };
    let report = chaos::run(&settings).await?;
    println!("{report}");
    assert_eq!(report.failures(), Vec::<String>::new());
    assert!(report.losses().is_none(), "{}", report.losses());
    assert_eq!(report.rounds(), rounds, "the time was over");
    Ok(report)
}
