//! What goes wrong.

use std::time::Duration;

use cappa_core::{Command, Core};
use rand::Rng;

use super::worker::Process;
use super::{TIMINGS, World};

impl World {
    /// Maybe something, before a tick.
    pub(super) fn go_wrong(&mut self) {
        let place = self.rng.random_range(0..self.workers.len());
        match self.rng.random_range(0..400) {
            0..4 => self.kill(place),
            4..7 => self.cut(place),
            7..10 => {
                let until = self.now + Duration::from_millis(self.rng.random_range(500..6_000));
                self.tell(|| format!("worker-{place} hangs until {}", until.0 - 1_000_000));
                if let Some(process) = &mut self.workers[place].process {
                    process.hangs_until = until;
                }
            }
            10..12 => self.restart_coordinator(),
            12 => {
                let job = self.job.clone();
                let reason = "test".to_owned();
                // A job in another state refuses; that is part of the schedule.
                let _ = self.perform(&Command::Pause { job, reason });
            }
            _ => {}
        }
    }

    fn kill(&mut self, place: usize) {
        self.tell(|| format!("worker-{place} is killed"));
        self.cut(place);
        self.workers[place].process = None;
    }

    /// The stream breaks; what was on its way is lost.
    fn cut(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        let Some(link) = worker.process.as_mut().and_then(|process| process.link.take()) else {
            return;
        };
        let id = worker.id.clone();
        self.tell(|| format!("{id} loses {link}"));
        self.outbox.remove(&link);
        // What the worker sent before may still arrive, and then the end of the stream.
        self.ended.push((self.now + Duration::from_millis(self.rng.random_range(0..1_000)), id, link));
    }

    /// The process dies, and its successor knows only the log.
    fn restart_coordinator(&mut self) {
        self.tell(|| "the coordinator restarts".to_owned());
        let away = Duration::from_millis(self.rng.random_range(200..5_000));
        self.coordinator_away_until = self.now + away;
        self.core = Core::recover(TIMINGS, self.coordinator_away_until, &self.log);
        self.sent.clear();
        self.inbox.clear();
        self.outbox.clear();
        self.ended.clear();
        for worker in &mut self.workers {
            if let Some(process) = &mut worker.process {
                process.link = None;
            }
        }
    }

    /// Supervisors restart what died; paused jobs are resumed.
    pub(super) fn heal(&mut self) {
        for place in 0..self.workers.len() {
            if self.workers[place].process.is_none() && self.rng.random_bool(0.05) {
                self.next += 1;
                let incarnation = self.next;
                self.tell(|| format!("worker-{place} starts as {incarnation}"));
                self.workers[place].process = Some(Process::new(incarnation));
            }
        }
        if self.rng.random_bool(0.02) {
            let job = self.job.clone();
            // Refused unless the job is paused.
            let _ = self.perform(&Command::Resume { job });
        }
    }
}
