//! What a loop does that lags behind what it is told.

use std::time::Duration;

use cappa_core::{
    Command, Generation, Incarnation, JobId, Link, Policy, Report, Stage, Timings, WorkerId, WorkerReport,
};
use cappa_shared::storage::AllowList;
use cappa_wire::Limits;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mailbox::{BATCH, Batch};
use super::restart::submission;
use super::{Driver, Handle, Mailbox, Reconciler, Rules, mailbox, recover};
use crate::clock::Clock;
use crate::curves::Curves;
use crate::facts::Facts;
use crate::indexing::Indexing;
use crate::log::EventLog;
use crate::metrics::{Durations, Metrics};
use crate::sessions::Sessions;

const TIMINGS: Timings = Timings {
    detection: Duration::from_secs(8),
    grace: Duration::from_secs(16),
    settle: Duration::ZERO,
    forming: Duration::from_secs(60),
    sweep: Duration::from_secs(120),
};

/// A loop and one worker, which is in a group.
async fn driver(
    folder: &tempfile::TempDir,
    handle: &Handle,
    mailbox: Mailbox,
    is_sure: watch::Receiver<bool>,
) -> Driver {
    let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    let (log, recalled) = EventLog::open_knowing(&store, 0).await.unwrap();
    let indexing = Indexing::new(AllowList::everything());
    let rules = Rules { timings: TIMINGS, policy: Policy::default(), indexing, facts: Facts::default() };
    let limits = Limits { forming: TIMINGS.forming, operation: TIMINGS.forming };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (sessions, curves) = (Sessions::default(), Curves::default());
    let reconciler = Reconciler::new(sessions, curves, limits, handle.clone(), tasks, stop);
    let (recovered, durations) = (recover(log, recalled, None, rules), Durations::new(Metrics::new()));
    let mut driver = Driver::new(recovered, mailbox, reconciler, durations, is_sure);
    let (host, store_address) = ("host".to_owned(), "host:1".to_owned());
    let hello = Report::Hello { incarnation: Incarnation::from("a"), host, store_address, holding: None };
    for command in [said_by("worker", hello), Command::Submit { job: job(), submission: submission() }] {
        let records = driver.perform(&command).unwrap();
        driver.append(records).await.unwrap();
    }
    look(&mut driver, &mut Batch::default()).await;
    assert_eq!(group(&driver), Some(Generation(1)));
    driver
}

/// A quarter of the detection time passes.
fn pass(driver: &mut Driver) {
    driver.view.clock = Clock::starting_after(driver.view.now() + TIMINGS.detection / 4);
}

async fn look(driver: &mut Driver, batch: &mut Batch) {
    driver.looks.hasten();
    tokio::time::sleep(Duration::from_millis(60)).await;
    driver.turn(batch).await.unwrap();
}

fn said_by(worker: &str, report: Report) -> Command {
    Command::Worker(WorkerReport { worker: WorkerId::from(worker), link: Link(1), report })
}

fn heartbeat_of(worker: &str) -> Command {
    said_by(worker, Report::Heartbeat { at: None, pace: None })
}

fn job() -> JobId {
    JobId::from("job")
}

/// The job's group, unless a loss has broken it.
fn group(driver: &Driver) -> Option<Generation> {
    let group = driver.view.core.state().job(&job())?.group()?;
    (!matches!(group.stage, Stage::Breaking { .. })).then_some(group.generation)
}

#[tokio::test]
async fn nobody_is_lost_whose_heartbeat_waits_in_line_and_who_says_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, mailbox) = mailbox();
    let mut driver = Box::pin(driver(&folder, &handle, mailbox, watch::channel(true).1)).await;
    let mut batch = Batch::default();

    // The worker is silent for three quarters of the detection time, while the loop looks on.
    driver.perform(&heartbeat_of("worker")).unwrap();
    for _ in 0..3 {
        pass(&mut driver);
        look(&mut driver, &mut batch).await;
    }
    assert_eq!(group(&driver), Some(Generation(1)));

    // What it says then comes behind much else, which has waited for more than a quarter.
    for _ in 0..2 * BATCH {
        handle.tell(heartbeat_of("another")).await.unwrap();
    }
    handle.tell(heartbeat_of("worker")).await.unwrap();
    tokio::time::sleep(TIMINGS.detection * 3 / 10).await;
    for _ in 0..3 {
        assert!(driver.mailbox.receive(&mut batch).await);
        driver.turn(&mut batch).await.unwrap();
        assert_eq!(group(&driver), Some(Generation(1)), "it was judged by what was heard so far");
    }

    for _ in 0..5 {
        pass(&mut driver);
        look(&mut driver, &mut batch).await;
    }
    assert_eq!(group(&driver), None);
}

#[tokio::test]
async fn workers_that_were_sent_away_during_one_turn_are_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, mailbox) = mailbox();
    let (sure, is_sure) = watch::channel(true);
    let mut driver = Box::pin(driver(&folder, &handle, mailbox, is_sure)).await;
    let mut batch = Batch::default();
    // An append took as long as the store was away.
    sure.send_replace(false);
    sure.send_replace(true);
    driver.turn(&mut batch).await.unwrap();
    let (worker, link) = (WorkerId::from("worker"), Link(1));
    driver.perform(&Command::Disconnected { worker, link }).unwrap();
    look(&mut driver, &mut batch).await;
    assert_eq!(group(&driver), Some(Generation(1)));

    for _ in 0..9 {
        pass(&mut driver);
        look(&mut driver, &mut batch).await;
    }
    assert_eq!(group(&driver), None, "but not for ever");
}
