//! A small form of `make bench-scale`: what must hold at any size.

use std::time::Duration;

use cappa_tests::load::{Load, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_workers_lose_members_and_nobody_else_is_taken_for_lost() {
    let load = Load {
        workers: 100,
        jobs: 4,
        spares: 12,
        duration: Duration::from_secs(10),
        losses_per_second: 1.0,
        detection: Duration::from_secs(5),
        // The machine is shared, and runs the workers too.
        tolerance: Duration::from_secs(4),
        step: Duration::from_millis(500),
        checkpoint_every: 5,
        streams_per_connection: 10,
        submissions: 50,
    };
    let report = Box::pin(run(&load)).await.unwrap();
    let table = report.table();
    for zero in
        ["missed detections", "false detections", "groups that never formed again", "streams that ended by themselves"]
    {
        assert_eq!(report.line(zero), Some(0.0), "{zero}\n{table}");
    }
    let taken = report.line("workers taken away").unwrap();
    assert!(taken >= 10.0, "so few were taken away that nothing is shown\n{table}");
}
