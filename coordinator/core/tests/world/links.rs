//! Streams: in order, late, and cut at any moment. What repeats after a reconnect comes twice.

use std::time::Duration;

use cappa_core::{Command, Link, Report, Work, WorkerReport};
use rand::Rng;

use super::World;
use super::worker::Process;

impl World {
    fn delay(&mut self) -> Duration {
        let is_slow = self.rng.random_bool(0.02);
        Duration::from_millis(self.rng.random_range(0..if is_slow { 1_500 } else { 150 }))
    }

    /// The worker says something, if it has a stream.
    pub(super) fn say(&mut self, place: usize, report: Report) {
        let at = self.now + self.delay();
        let worker = &mut self.workers[place];
        let Some(process) = &mut worker.process else { return };
        if matches!(report, Report::PartsWritten { .. } | Report::Completed { .. } | Report::Left { .. }) {
            process.unacknowledged.push(report.clone());
        }
        let Some(link) = process.link else { return };
        let said = WorkerReport { worker: worker.id.clone(), link, report };
        self.inbox.entry(link).or_default().push_back((at, said));
    }

    /// A worker without a stream opens one, says hello and repeats what was never acknowledged.
    pub(super) fn connect(&mut self, place: usize) {
        if self.now < self.coordinator_away_until || !self.rng.random_bool(0.2) {
            return;
        }
        self.next += 1;
        let link = Link(self.next);
        let worker = &mut self.workers[place];
        let Some(process) = &mut worker.process else { return };
        process.link = Some(link);
        let hello = process.hello(&worker.id);
        let repeated = std::mem::take(&mut process.unacknowledged);
        self.say(place, hello);
        for report in repeated {
            self.say(place, report);
        }
    }

    pub(super) fn deliver_to_coordinator(&mut self) {
        let links: Vec<Link> = self.inbox.keys().copied().collect();
        for link in links {
            while let Some((at, _)) = self.inbox.get(&link).and_then(|queue| queue.front())
                && *at <= self.now
            {
                let (_, said) = self.inbox.get_mut(&link).and_then(std::collections::VecDeque::pop_front).unwrap();
                let is_twice = self.rng.random_bool(0.02) && !matches!(said.report, Report::Hello { .. });
                self.take_in(said.clone());
                if is_twice {
                    self.take_in(said);
                }
            }
        }
        let now = self.now;
        let (over, rest) = std::mem::take(&mut self.ended).into_iter().partition(|(at, _, _)| *at <= now);
        self.ended = rest;
        let over: Vec<_> = over;
        for (_, worker, link) in over {
            // Refused when the worker has come back meanwhile.
            let _ = self.perform(&Command::Disconnected { worker, link });
        }
    }

    fn take_in(&mut self, said: WorkerReport) {
        if !matches!(said.report, Report::Heartbeat { .. }) {
            self.tell(|| format!("{} says {:?}", said.worker, said.report));
        }
        let is_hello = matches!(said.report, Report::Hello { .. });
        let (worker, link) = (said.worker.clone(), said.link);
        let refused = self.perform(&Command::Worker(said)).is_err();
        if is_hello && refused {
            // The process ends, as one does that is refused.
            for place in self.workers.iter_mut().filter(|place| place.id == worker) {
                if place.process.as_ref().is_some_and(|process| process.link == Some(link)) {
                    place.process = None;
                }
            }
        }
        self.review();
    }

    /// The reconciler: sends what is outstanding once a stream, does storage work at once or later.
    pub(super) fn reconcile(&mut self) {
        let outstanding: std::collections::HashSet<Work> = self.core.outstanding(self.now).collect();
        self.sent.retain(|work| outstanding.contains(work));
        let mut outstanding: Vec<Work> = outstanding.into_iter().filter(|work| !self.sent.contains(work)).collect();
        outstanding.sort_by_key(|work| format!("{work:?}"));
        for work in outstanding {
            match work.clone() {
                Work::CommitManifest { job, step, generation } => {
                    if self.rng.random_bool(0.3) {
                        self.manifests.insert((step, generation));
                    }
                    if self.manifests.contains(&(step, generation)) && self.rng.random_bool(0.7) {
                        self.perform(&Command::ManifestCommitted { job, step, generation }).unwrap();
                    }
                }
                Work::DeleteCheckpoint { job, step, generation } => {
                    self.manifests.remove(&(step, generation));
                    self.perform(&Command::CheckpointDeleted { job, step, generation }).unwrap();
                }
                Work::Sweep { job } => self.perform(&Command::Swept { job }).unwrap(),
                Work::Form { link, .. }
                | Work::Abort { link, .. }
                | Work::Stop { link, .. }
                | Work::Release { link, .. }
                | Work::Acknowledge { link, .. } => {
                    self.send(link, work.clone());
                    self.perform(&Command::Told(work)).unwrap();
                }
            }
        }
    }

    fn send(&mut self, link: Link, work: Work) {
        let at = self.now + self.delay();
        self.sent.insert(work.clone());
        self.outbox.entry(link).or_default().push_back((at, work));
    }

    pub(super) fn deliver_to_workers(&mut self) {
        for place in 0..self.workers.len() {
            while let Some(work) = self.due(place) {
                self.obey(place, &work);
            }
        }
    }

    /// The next message that has arrived at a worker which listens.
    fn due(&mut self, place: usize) -> Option<Work> {
        let process = self.workers[place].process.as_ref().filter(|process| process.hangs_until <= self.now)?;
        let queue = self.outbox.get_mut(&process.link?)?;
        queue.pop_front_if(|(at, _)| *at <= self.now).map(|(_, work)| work)
    }

    fn obey(&mut self, place: usize, work: &Work) {
        self.tell(|| format!("worker-{place} is told {work:?}"));
        let Some(process) = &mut self.workers[place].process else { return };
        process.unacknowledged.retain(|report| !Process::settles(work, report));
        match work {
            Work::Form { job, generation, .. } => self.join(place, &job.clone(), *generation),
            Work::Abort { job, generation, .. } => {
                let is_it =
                    process.state.as_ref().is_some_and(|held| held.job == *job && held.generation <= *generation);
                if let Some(left) = is_it.then(|| process.leave(None)).flatten() {
                    self.say(place, left);
                }
            }
            Work::Stop { generation, .. } => {
                let held = process.state.as_mut().filter(|held| held.generation == *generation);
                if let Some(group) = held.and_then(|held| held.group.as_mut()) {
                    group.stops = true;
                }
            }
            Work::Release { job, .. } => {
                process.state.take_if(|held| held.job == *job);
                process.unacknowledged.clear();
            }
            _ => {}
        }
    }
}
