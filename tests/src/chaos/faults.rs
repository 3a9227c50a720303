//! What goes wrong.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cappa_proto as wire;
use cappa_test_stores::{Fault as StoreFault, Rule};
use wire::workers_client::WorkersClient;

use super::life::EVENTS;
use super::network::Cut;
use super::soak::{Stage, WORKERS};
use super::{limits, report};

/// Something that goes wrong once, at a random moment of a job, with a random worker where it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL for a worker.
    WorkerKilled,
    /// SIGSTOP for a worker until the others go on; then SIGCONT.
    WorkerHangs,
    /// SIGSTOP for a worker, for less than the time of detection.
    WorkerPauses,
    /// SIGKILL for two of three workers at once.
    TwoWorkersKilled,
    /// The kernel kills a trainer that wants memory.
    OutOfMemory,
    /// A second process with a worker's id.
    DuplicateId,
    /// A worker of an older version says hello.
    OldWorker,
    /// SIGKILL for the coordinator, which is started again a moment later.
    CoordinatorKilled,
    /// The same at the moment of an event of the job, one of [`EVENTS`].
    CoordinatorKilledAt(&'static str),
    /// SIGKILL for the coordinator while another stands by, which takes over; none is started in its place.
    LeaderKilled,
    /// SIGSTOP for the coordinator, for longer than the time of detection.
    CoordinatorHangs,
    /// SIGKILL for the coordinator and a worker at once.
    BothKilled,
    /// The store answers nothing for some seconds.
    StoreGone,
    /// Every third request to the store fails, to the end of the job.
    StoreFails,
    /// The store answers late, to the end of the job.
    StoreSlow,
    /// The disk of a worker's cache is full.
    DiskFull,
    /// The coordinator's wall clock jumps by so many seconds.
    ClockJumps(i64),
    /// The same while the coordinator is being started again after a SIGKILL.
    ClockJumpsAtRestart(i64),
    /// A worker's host loses packets.
    Cut(Cut),
}

impl Fault {
    /// All that there is.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::WorkerKilled,
            Self::WorkerHangs,
            Self::WorkerPauses,
            Self::TwoWorkersKilled,
            Self::OutOfMemory,
            Self::DuplicateId,
            Self::OldWorker,
            Self::CoordinatorKilled,
            Self::LeaderKilled,
            Self::CoordinatorHangs,
            Self::BothKilled,
            Self::StoreGone,
            Self::StoreFails,
            Self::StoreSlow,
            Self::DiskFull,
            Self::ClockJumps(600),
            Self::ClockJumps(-600),
            Self::ClockJumpsAtRestart(600),
            Self::ClockJumpsAtRestart(-600),
            Self::Cut(Cut::Both),
            Self::Cut(Cut::In),
            Self::Cut(Cut::Out),
            Self::Cut(Cut::Coordinator),
            Self::Cut(Cut::Some(10)),
        ];
        all.extend(Self::at_every_event());
        all
    }

    /// The coordinator is killed at each kind of event that a job's life has mostly, and at those that people bring about.
    pub fn at_every_event() -> impl Iterator<Item = Self> {
        EVENTS.into_iter().map(Self::CoordinatorKilledAt)
    }

    /// Whether it needs root and hosts of their own.
    pub fn needs_hosts(self) -> bool {
        matches!(self, Self::OutOfMemory | Self::DiskFull | Self::Cut(_))
    }

    /// Whether the group has to form again before the next step.
    pub(super) fn breaks_the_group(self) -> bool {
        match self {
            Self::WorkerKilled | Self::WorkerHangs | Self::TwoWorkersKilled | Self::OutOfMemory | Self::BothKilled => {
                true
            }
            Self::Cut(cut) => matches!(cut, Cut::Both | Cut::In | Cut::Out),
            _ => false,
        }
    }

    /// Until when the next step must be there, given the detection time and what a recovery may take from then on; nothing for faults
    /// that take as long as they are told to, or are none of a worker's.
    pub(super) fn budget(self, detection: Duration, recovery: Duration) -> Option<Duration> {
        match self {
            Self::WorkerKilled | Self::TwoWorkersKilled => Some(recovery),
            Self::WorkerHangs => Some(detection + recovery),
            _ => None,
        }
    }

    /// Its line of the table.
    pub fn name(self) -> String {
        match self {
            Self::CoordinatorKilledAt(event) => format!("coordinator killed at {event}"),
            Self::ClockJumps(seconds) => format!("clock jumps by {seconds} s"),
            Self::ClockJumpsAtRestart(seconds) => format!("clock jumps by {seconds} s at a restart"),
            Self::Cut(Cut::Both) => "partition".into(),
            Self::Cut(Cut::In) => "partition, deaf".into(),
            Self::Cut(Cut::Out) => "partition, mute".into(),
            Self::Cut(Cut::Coordinator) => "partition from the coordinator alone".into(),
            Self::Cut(Cut::Some(percent)) => format!("{percent} % packet loss"),
            Self::LeaderKilled => "leader killed, another stands by".into(),
            other => report::words(&format!("{other:?}")),
        }
    }

    /// Lets it happen to a job, and worker `victim`. What ends by itself has ended when this returns.
    pub(super) async fn begin(self, stage: &mut Stage, job: &str, victim: usize) -> Result<()> {
        match self {
            Self::WorkerKilled => stage.cluster.kill_worker(victim),
            Self::TwoWorkersKilled => {
                stage.cluster.kill_worker(victim);
                stage.cluster.kill_worker((victim + 1) % WORKERS);
            }
            Self::WorkerHangs => stage.cluster.signal_worker(victim, libc::SIGSTOP)?,
            Self::WorkerPauses => {
                stage.cluster.signal_worker(victim, libc::SIGSTOP)?;
                tokio::time::sleep(stage.detection() / 2).await;
                stage.cluster.signal_worker(victim, libc::SIGCONT)?;
            }
            Self::OutOfMemory => stage.starve(victim)?,
            Self::DuplicateId => {
                let _twin = stage.cluster.start_twin(victim)?;
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            Self::OldWorker => old_worker_is_refused(&stage.cluster.url()).await?,
            Self::CoordinatorKilled => stage.restart_coordinator(0).await?,
            Self::CoordinatorKilledAt(event) => {
                stage.restart_coordinator(0).await?;
                stage.let_go_on(job, event).await?;
            }
            Self::LeaderKilled => stage.kill_leader().await?,
            Self::CoordinatorHangs => {
                stage.cluster.signal_coordinator(libc::SIGSTOP)?;
                tokio::time::sleep(stage.detection() * 2).await;
                stage.cluster.signal_coordinator(libc::SIGCONT)?;
            }
            Self::BothKilled => {
                stage.cluster.kill_worker(victim);
                stage.restart_coordinator(0).await?;
            }
            Self::StoreGone => {
                stage.server.faults().add(Rule::new(StoreFault::Refuse));
                tokio::time::sleep(Duration::from_secs(8)).await;
                stage.server.faults().clear();
            }
            Self::StoreFails => stage.server.faults().add(Rule::new(StoreFault::INTERNAL).every(3)),
            Self::StoreSlow => stage.server.faults().add(Rule::new(StoreFault::Delay(Duration::from_millis(300)))),
            Self::DiskFull => stage.filler = Some(limits::fill_disk(&stage.cluster.cache_folder(victim))?),
            Self::ClockJumps(seconds) => stage.clock.set(seconds)?,
            Self::ClockJumpsAtRestart(seconds) => stage.restart_coordinator(seconds).await?,
            Self::Cut(cut) => stage.network()?.cut(victim, cut)?,
        }
        Ok(())
    }

    /// Ends it, once training has gone on.
    pub(super) fn end(self, stage: &mut Stage, victim: usize) -> Result<()> {
        match self {
            Self::WorkerHangs => stage.cluster.signal_worker(victim, libc::SIGCONT)?,
            Self::ClockJumps(_) | Self::ClockJumpsAtRestart(_) => stage.clock.set(0)?,
            Self::Cut(_) => stage.network()?.heal(victim)?,
            Self::DiskFull => std::fs::remove_file(stage.filler.take().context("a filled disk")?)?,
            _ => {}
        }
        Ok(())
    }
}

/// Says hello as a worker of the first version.
async fn old_worker_is_refused(url: &str) -> Result<()> {
    let hello = wire::Hello {
        worker_id: "old".into(),
        incarnation: "old".into(),
        version: "0.0.1".into(),
        ..Default::default()
    };
    let hello = wire::WorkerMessage { message: Some(wire::worker_message::Message::Hello(hello)) };
    let mut client = WorkersClient::connect(url.to_owned()).await?;
    let mut answers = client.session(tokio_stream::once(hello)).await?.into_inner();
    let answer = answers.message().await?.and_then(|answer| answer.message);
    ensure!(matches!(answer, Some(wire::coordinator_message::Message::Refused(_))), "an old worker got {answer:?}");
    Ok(())
}
