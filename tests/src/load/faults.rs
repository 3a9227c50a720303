//! Workers are killed or stopped in the middle of their groups, each worker once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cappa_shared::ids::JobId;
use rand::Rng;
use rand::seq::SliceRandom;

use super::fleet::Fleet;
use super::worker::Worker;

/// How a worker was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL: its connection closes.
    Killed,
    /// SIGSTOP: it is silent.
    Hangs,
}

/// A worker that was taken away from a group that stepped.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    pub(crate) job: String,
    pub(crate) worker: String,
    pub(crate) fault: Fault,
    pub(crate) unix_ms: i64,
}

/// Takes workers away.
pub(crate) struct Saboteur {
    fleet: Arc<Fleet>,
    jobs: Vec<JobId>,
    next: usize,
    /// A hanging process is killed after so long, as somebody would.
    patience: Duration,
    hit: HashSet<String>,
    pub(crate) losses: Vec<Loss>,
}

impl Saboteur {
    pub(crate) fn new(fleet: Arc<Fleet>, jobs: &[String], detection: Duration) -> Self {
        let mut jobs: Vec<JobId> = jobs.iter().filter_map(|job| job.parse().ok()).collect();
        jobs.shuffle(&mut rand::rng());
        Self { fleet, jobs, next: 0, patience: detection * 2, hit: HashSet::new(), losses: Vec::new() }
    }

    /// For a while, so many a second, of which every fourth hangs; the jobs take turns.
    pub(crate) async fn harass(&mut self, duration: Duration, per_second: f64) {
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
        let end = tokio::time::Instant::now() + duration;
        while tick.tick().await < end {
            let fault = if self.losses.len() % 4 == 3 { Fault::Hangs } else { Fault::Killed };
            // A job that forms anew just now is passed over.
            for _ in 0..self.jobs.len() {
                let job = self.jobs[self.next % self.jobs.len()].clone();
                self.next += 1;
                if self.strike(&job, fault) {
                    break;
                }
            }
        }
    }

    /// Kills a worker of every job at the same moment; how many jobs that hit.
    pub(crate) fn strike_all(&mut self) -> usize {
        let jobs = self.jobs.clone();
        jobs.iter().filter(|job| self.strike(job, Fault::Killed)).count()
    }

    fn strike(&mut self, job: &JobId, fault: Fault) -> bool {
        let Some(members) = self.fleet.around().gangs.whole(job) else { return false };
        let fresh: Vec<&Arc<Worker>> = members.iter().filter(|worker| !self.hit.contains(worker.id())).collect();
        if fresh.is_empty() {
            return false;
        }
        let worker = fresh[rand::rng().random_range(0..fresh.len())];
        self.hit.insert(worker.id().to_owned());
        let loss = Loss { job: job.to_string(), worker: worker.id().to_owned(), fault, unix_ms: unix_ms() };
        self.losses.push(loss);
        let after = match fault {
            Fault::Killed => {
                worker.kill();
                Duration::ZERO
            }
            Fault::Hangs => {
                worker.stop();
                self.patience
            }
        };
        self.fleet.replace(worker, after);
        true
    }
}

/// The clock that the coordinator on this machine has as well.
pub(crate) fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
