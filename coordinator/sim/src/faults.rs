//! What goes wrong, and what people ask for meanwhile.

use cappa_core::{Command, Phase, Step, WorkerId};

use crate::world::{Event, World};

impl World<'_> {
    /// One fault, and the time of the next.
    pub(crate) fn go_wrong(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let next = self.random(200..4_000);
        self.at(next, Event::Fault);
        self.summary.faults += 1;
        let place = usize::try_from(self.random(0..self.places.len() as u64)).unwrap();
        let until = self.millis() + self.random(200..8_000);
        let kind = self.random(0..100);
        match kind {
            0..9 => self.kill(place, false, "killed"),
            9..12 => self.break_device(place),
            12..18 => self.kill(place, true, "power"),
            18..30 => {
                self.tell(|| format!("worker-{place} hangs until {until}"));
                if let Some(process) = &mut self.places[place].process {
                    process.hangs_until = process.hangs_until.max(until);
                    process.calm_since = process.calm_since.max(process.hangs_until);
                }
            }
            30..40 => {
                let stream = self.places[place].process.as_ref().and_then(|process| process.stream.as_ref());
                if let Some(stream) = stream.map(|(stream, _)| *stream) {
                    self.cut(stream);
                }
            }
            40..62 => self.partition(place, kind, until),
            62..70 => self.drain(place),
            70..78 => {
                if let Some(leader) = self.leader() {
                    self.kill_coordinator(leader, "killed");
                }
            }
            78..83 => {
                if let Some(leader) = self.leader() {
                    self.tell(|| format!("coordinator-{leader} hangs until {until}"));
                    self.coordinators[leader].hangs_until = until;
                }
            }
            // A second one starts while the first goes on.
            83..90 => self.start_coordinator(),
            90..93 => {
                self.tell(|| format!("the store fails until {until}"));
                self.store.fails_until = until;
            }
            93..95 => {
                self.tell(|| format!("no checkpoint can be read until {until}"));
                self.store.unread_until = until;
            }
            _ => {
                self.tell(|| format!("the store is slow until {until}"));
                self.store.slow_until = until;
            }
        }
    }

    fn partition(&mut self, place: usize, kind: u64, until: u64) {
        let ways = match kind % 3 {
            0 => "both ways",
            1 => "towards the coordinator",
            _ => "from the coordinator",
        };
        self.tell(|| format!("worker-{place} is cut off {ways} until {until}"));
        if kind % 3 != 2 {
            self.places[place].up_blocked_until = until;
        }
        if kind % 3 != 1 {
            self.places[place].down_blocked_until = until;
        }
        if let Some(process) = &mut self.places[place].process {
            process.calm_since = process.calm_since.max(until);
        }
    }

    /// People have workers end, cordon them, and release those that are kept out of groups.
    fn attend_to_workers(&mut self) {
        let worker = WorkerId::from(format!("worker-{}", self.random(0..self.places.len() as u64)));
        let reason = "test".to_owned();
        match self.random(0..20) {
            0..2 => self.ask(Command::DrainWorker { worker, reason }),
            2..4 => self.ask(Command::ReleaseWorker { worker, reason }),
            4..6 => self.ask(Command::CordonWorker { worker, reason }),
            _ => {}
        }
    }

    /// In the end nobody is kept out of groups for good.
    fn uncordon(&mut self, leader: usize) {
        let quarantined = self.coordinators[leader].core.state().flaps().quarantined();
        let cordoned = quarantined.filter(|(_, quarantine)| quarantine.until.is_none());
        for worker in cordoned.map(|(worker, _)| worker.clone()).collect::<Vec<_>>() {
            self.ask(Command::ReleaseWorker { worker, reason: "test".to_owned() });
        }
    }

    /// People pause and resume, pin checkpoints and go back to one, now and then they cancel; in the end everything is
    /// resumed.
    pub(crate) fn person(&mut self) {
        let next = self.random(1_000..10_000);
        self.at(next, Event::Person);
        let Some(leader) = self.leader() else { return };
        match self.is_faulty() {
            true => self.attend_to_workers(),
            false => self.uncordon(leader),
        }
        let jobs = self.jobs.clone();
        for job in jobs {
            let known = self.coordinators[leader].core.state().job(&job);
            let phase = known.map(|job| job.phase.clone());
            let kept: Vec<Step> =
                known.into_iter().flat_map(|job| job.checkpoints.iter().map(|kept| kept.step)).collect();
            let reason = "test".to_owned();
            if let Some(step) = self.rng_below(kept.len()).map(|place| kept[usize::try_from(place).unwrap()])
                && self.is_faulty()
            {
                let (job, reason) = (job.clone(), reason.clone());
                match self.random(0..20) {
                    0..2 => self.ask(Command::RollBack { job, step, reason }),
                    2..4 => self.ask(Command::PinCheckpoint { job, step, reason }),
                    4..6 => self.ask(Command::UnpinCheckpoint { job, step, reason }),
                    _ => {}
                }
            }
            match phase {
                // The append of the submission failed.
                None => {}
                Some(Phase::Paused { .. }) => self.ask(Command::Resume { job }),
                Some(Phase::Indexing | Phase::Queued | Phase::Active(_)) if self.is_faulty() => {
                    match self.random(0..40) {
                        0..3 => self.ask(Command::Pause { job, reason }),
                        3 => self.ask(Command::Cancel { job, reason }),
                        4..6 => {
                            let priority = i32::try_from(self.random(0..3)).unwrap();
                            self.ask(Command::SetPriority { job, priority });
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }
}
