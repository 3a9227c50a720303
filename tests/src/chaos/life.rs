//! A job's life: kinds of its events, and what brings each about.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cappa_proto as wire;
use wire::JobState;

use super::soak::{PATIENCE, Stage};

/// The kinds of events at each of which the coordinator is killed: those of a job that ends well, on its own workers.
pub(super) const EVENTS: [&str; 17] = [
    "submitted",
    "group_formed",
    "group_running",
    "worker_lost",
    "worker_leaves",
    "priority_changed",
    "pause_requested",
    "paused",
    "resumed",
    "checkpoint_committed",
    "checkpoint_pinned",
    "checkpoint_unpinned",
    "checkpoint_retired",
    "rolled_back",
    "group_goes_back",
    "branch_abandoned",
    "succeeded",
];

impl Stage {
    /// Waits for an event of the job; what does not come by itself is brought about once `at` updates are made, or the first
    /// checkpoint.
    pub(super) async fn bring_about(&mut self, event: &str, job: &str, at: u64, victim: usize) -> Result<()> {
        let change = || wire::ChangeRequest { job_id: job.into(), reason: "chaos".into() };
        match event {
            "worker_lost" => {
                self.cluster.wait_step(job, at).await?;
                self.cluster.kill_worker(victim);
            }
            "worker_leaves" => {
                self.cluster.wait_step(job, at).await?;
                self.cluster.signal_worker(victim, libc::SIGTERM)?;
            }
            "priority_changed" => {
                self.cluster.wait_step(job, at).await?;
                let request = wire::SetPriorityRequest { job_id: job.into(), priority: "7".into() };
                self.cluster.jobs().await?.set_priority(request).await?;
            }
            "pause_requested" | "paused" | "resumed" => {
                self.cluster.wait_step(job, at).await?;
                self.cluster.jobs().await?.pause(change()).await?;
                if event == "resumed" {
                    self.wait_event(job, "paused").await?;
                    self.cluster.jobs().await?.resume(change()).await?;
                }
            }
            "checkpoint_pinned" | "checkpoint_unpinned" => {
                let request = self.first_checkpoint(job).await?;
                self.cluster.jobs().await?.pin_checkpoint(request.clone()).await?;
                if event == "checkpoint_unpinned" {
                    self.cluster.jobs().await?.unpin_checkpoint(request).await?;
                }
            }
            "rolled_back" | "group_goes_back" | "branch_abandoned" => {
                let request = self.first_checkpoint(job).await?;
                let begun = Instant::now();
                // Refused as long as a checkpoint is being committed.
                while let Err(refused) = self.cluster.jobs().await?.rollback(request.clone()).await {
                    ensure!(begun.elapsed() < PATIENCE, "no way back: {refused}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            _ => {}
        }
        self.wait_event(job, event).await
    }

    /// Lets the job go on if it waits for people after an event.
    pub(super) async fn let_go_on(&self, job: &str, after: &str) -> Result<()> {
        if matches!(after, "pause_requested" | "paused") {
            self.cluster.wait_state(job, JobState::Paused).await?;
            let request = wire::ChangeRequest { job_id: job.into(), reason: "chaos".into() };
            self.cluster.jobs().await?.resume(request).await?;
        }
        Ok(())
    }

    async fn first_checkpoint(&self, job: &str) -> Result<wire::CheckpointRequest> {
        self.wait_event(job, "checkpoint_committed").await?;
        let step = self.cluster.job(job).await?.last_checkpoint_step;
        Ok(wire::CheckpointRequest { job_id: job.into(), step, reason: "chaos".into() })
    }

    /// Waits until the job's history has an event of a kind.
    async fn wait_event(&self, job: &str, kind: &str) -> Result<()> {
        let request = wire::WatchRequest { job_id: job.into(), after_event: 0 };
        let mut updates = self.cluster.jobs().await?.watch(request).await?.into_inner();
        let found = async {
            while let Some(update) = updates.message().await? {
                if matches!(update.update, Some(wire::job_update::Update::Event(event)) if event.kind == kind) {
                    return Ok(());
                }
            }
            bail!("the job's history ended without {kind}")
        };
        tokio::time::timeout(PATIENCE, found).await.with_context(|| format!("no event {kind}"))?
    }
}
