//! A coordinator's process: the loop of the production driver in virtual time. Append durably, then reply and act.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use cappa_core::{Command, Core, Event as Decided, Indexed, Link, Record, Refusal, Report, State, Time, Timings, Work};
use cappa_core::{WorkerId, WorkerReport, violations};
use cappa_proto as wire;
use cappa_proto::coordinator_message::Message as Told;
use cappa_proto::worker_message::Message as Tell;
use cappa_wire::Limits;

use crate::world::{Event, Store, World};

/// How often time is looked at when nothing happens.
const TICK: u64 = 100;

/// How long it takes at most until a process that runs, and reaches the store, hears that the log was opened by
/// another: the log's own look at the store, once a second, and its way.
const LOOK: u64 = 1_200;

/// One process.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) core: Core,
    pub(crate) alive: bool,
    /// The log as this process opened it.
    pub(crate) epoch: u64,
    /// Ahead of the world's time: clocks differ and jump between processes.
    skew: u64,
    pub(crate) hangs_until: u64,
    mailbox: Vec<Item>,
    appending: Option<(Vec<Record>, Vec<Reply>)>,
    sent: HashSet<Work>,
    /// Work on the store by when it began, and whether what it came to is on its way to the loop.
    tried: HashMap<Work, (Time, bool)>,
    /// The stream of each link.
    pub(crate) links: BTreeMap<Link, usize>,
    is_due: bool,
}

#[derive(Debug)]
enum Item {
    Perform(Command),
    Hello(usize, Command),
}

type Reply = (usize, Result<(), Refusal>);

/// Work on the store that is under way.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    work: Work,
    attempt: Option<cappa_core::Attempt>,
    litter: (Vec<(u64, u64)>, Option<u64>),
}

impl Coordinator {
    pub(crate) fn is_idle(&self) -> bool {
        self.appending.is_none()
    }
}

impl World<'_> {
    /// The state as a coordinator finds it: the older part of the log lies in the store as a snapshot.
    fn recall(&mut self, timings: Timings, now: Time) -> Core {
        let place = self.random(0..self.store.log.len() as u64 + 1);
        let (covered, since) = self.store.log.split_at(usize::try_from(place).unwrap());
        let before = Core::recover(timings, now, covered);
        let jobs = before.state().jobs().map(|job| serde_json::from_slice(&serde_json::to_vec(job).unwrap()).unwrap());
        let common = serde_json::from_slice(&serde_json::to_vec(&before.state().common()).unwrap()).unwrap();
        let core = Core::resume(timings, now, State::of(jobs, common), since);
        let is_same = *core.state() == *Core::recover(timings, now, &self.store.log).state();
        if !is_same {
            self.breaks("SnapshotsTellWhatTheLogTells", || format!("after a snapshot of {place} records"));
        }
        core
    }

    fn now_of(&self, id: usize) -> Time {
        self.now + Duration::from_millis(self.coordinators[id].skew)
    }

    /// A process opens the log, which fences the one before it, and knows nothing else.
    pub(crate) fn start_coordinator(&mut self) {
        if self.store.fails_until > self.millis() {
            return self.at(200, Event::CoordinatorStarts);
        }
        self.store.epoch += 1;
        // Those before it go on until they append, or look at the store.
        for id in (0..self.coordinators.len()).filter(|id| self.coordinators[*id].alive).collect::<Vec<_>>() {
            let after = self.random(0..LOOK);
            self.at(after, Event::Fenced(id));
        }
        let latest = self.store.log.iter().map(|record| record.at).max().unwrap_or_default();
        // Its clock may have jumped either way; it never begins before what the log has seen.
        let jump = if self.chance(0.2) { self.random(0..3_600_000) } else { 0 };
        let skew = latest.0.saturating_sub(self.now.0).max(jump);
        let timings = Timings {
            detection: self.timings.lost_after,
            grace: self.timings.grace,
            settle: Duration::from_secs(1),
            forming: self.timings.forming,
            sweep: self.timings.forming * 2,
        };
        let id = self.coordinators.len();
        let core =
            self.recall(timings, self.now + Duration::from_millis(skew)).with_policy(self.tamper.policy(&self.policy));
        self.coordinators.push(Coordinator {
            core,
            alive: true,
            epoch: self.store.epoch,
            skew,
            hangs_until: 0,
            mailbox: Vec::new(),
            appending: None,
            sent: HashSet::new(),
            tried: HashMap::new(),
            links: BTreeMap::new(),
            is_due: false,
        });
        self.tell(|| format!("coordinator-{id} starts, its clock {skew} ms ahead"));
        let (leader, reason) = (format!("coordinator-{id}"), "it has started".to_owned());
        self.post(id, Item::Perform(Command::LeaderChanged { leader, reason }));
        self.at(0, Event::Tick(id));
    }

    /// The log of a process that was fenced looks at the store.
    pub(crate) fn fenced(&mut self, id: usize) {
        let blind = self.coordinators[id].hangs_until.max(self.store.fails_until);
        if blind > self.millis() {
            let after = blind - self.millis() + self.random(0..LOOK);
            return self.at(after, Event::Fenced(id));
        }
        self.kill_coordinator(id, "it is fenced");
    }

    pub(crate) fn kill_coordinator(&mut self, id: usize, why: &str) {
        if !std::mem::replace(&mut self.coordinators[id].alive, false) {
            return;
        }
        self.tell(|| format!("coordinator-{id} ends: {why}"));
        // Those as well on which nothing has arrived yet.
        for stream in 0..self.streams.len() {
            if self.streams[stream].coordinator == id && self.streams[stream].coordinator_has_it {
                self.close_from_above(stream);
            }
        }
        // A supervisor starts the next one, unless one lives already.
        let after = self.random(200..3_000);
        self.at(after, Event::CoordinatorStarts);
    }

    /// A supervisor starts a process where none leads.
    pub(crate) fn restart_coordinator(&mut self) {
        if self.leader().is_none() {
            self.start_coordinator();
        }
    }

    /// The living process that opened the log last.
    pub(crate) fn leader(&self) -> Option<usize> {
        self.coordinators.iter().rposition(|coordinator| coordinator.alive && coordinator.epoch == self.store.epoch)
    }

    /// People ask the leader, again until one hears.
    pub(crate) fn ask(&mut self, command: Command) {
        if let Some(leader) = self.leader() {
            self.post(leader, Item::Perform(command));
        }
    }

    /// A message has come up on a stream.
    pub(crate) fn hear(&mut self, id: usize, stream: usize, worker: WorkerId, link: Link, tell: Tell) {
        if let Tell::Hello(hello) = tell {
            self.coordinators[id].links.insert(link, stream);
            let welcome = wire::Welcome {
                detection_seconds: self.timings.lost_after.as_secs_f64(),
                heartbeat_seconds: self.timings.heartbeat.as_secs_f64(),
                ..Default::default()
            };
            self.send_down(stream, Told::Welcome(welcome));
            let report = cappa_wire::greeting(hello);
            let command = Command::Worker(WorkerReport { worker, link, report });
            return self.post(id, Item::Hello(stream, command));
        }
        if let Some(report) = cappa_wire::report_of(tell) {
            if !matches!(report, Report::Heartbeat { .. }) {
                self.tell(|| format!("coordinator-{id} hears of {worker}: {report:?}"));
            }
            self.post(id, Item::Perform(Command::Worker(WorkerReport { worker, link, report })));
        }
    }

    pub(crate) fn hear_end(&mut self, id: usize, worker: WorkerId, link: Link) {
        self.tell(|| format!("coordinator-{id} sees the stream {link} of {worker} end"));
        self.coordinators[id].links.remove(&link);
        self.post(id, Item::Perform(Command::Disconnected { worker, link }));
    }

    fn post(&mut self, id: usize, item: Item) {
        self.coordinators[id].mailbox.push(item);
        if !std::mem::replace(&mut self.coordinators[id].is_due, true) {
            self.at(1, Event::Turn(id));
        }
    }

    /// One turn of the loop.
    pub(crate) fn turn(&mut self, id: usize) {
        let coordinator = &mut self.coordinators[id];
        if !coordinator.alive || coordinator.appending.is_some() {
            return;
        }
        if coordinator.hangs_until > self.now.0 - crate::world::START.0 {
            let wait = coordinator.hangs_until - (self.now.0 - crate::world::START.0);
            return self.at(wait, Event::Turn(id));
        }
        coordinator.is_due = false;
        let (mut records, mut replies) = (Vec::new(), Vec::new());
        for item in std::mem::take(&mut coordinator.mailbox) {
            match item {
                Item::Perform(command) => {
                    if let Err(refusal) = self.perform(id, &command, &mut records) {
                        self.tell(|| format!("coordinator-{id} refuses: {refusal:?}"));
                    }
                }
                Item::Hello(stream, command) => replies.push((stream, self.perform(id, &command, &mut records))),
            }
        }
        for _ in 0..1_000 {
            let before = records.len();
            let decided = self.coordinators[id].core.decide(self.now_of(id), &Command::Review);
            let is_quiet = decided.as_ref().is_ok_and(Vec::is_empty);
            self.absorb(id, decided.unwrap_or_default(), &mut records);
            if is_quiet || self.broken.is_some() || (records.len() == before && self.tamper != Default::default()) {
                break;
            }
        }
        if records.is_empty() {
            return self.act(id, replies);
        }
        self.coordinators[id].appending = Some((records, replies));
        let slow = self.store.slow_until.saturating_sub(self.millis());
        let after = self.random(1..20) + slow;
        self.at(after, Event::Appended(id));
    }

    fn perform(&mut self, id: usize, command: &Command, records: &mut Vec<Record>) -> Result<(), Refusal> {
        let decided = self.coordinators[id].core.decide(self.now_of(id), command)?;
        self.absorb(id, decided, records);
        Ok(())
    }

    fn absorb(&mut self, id: usize, decided: Vec<Decided>, records: &mut Vec<Record>) {
        for event in decided {
            for event in self.tamper.corrupt(&self.coordinators[id].core, event) {
                self.coordinators[id].core.apply(&event);
                if let Decided::Record(record) = event {
                    self.check_no_step_lost(id, &record);
                    self.check_quota(id, &record);
                    records.push(record);
                }
            }
        }
        let found = violations(self.coordinators[id].core.state());
        if !found.is_empty() {
            self.breaks("CoreInvariant", || format!("{found:?}"));
        }
    }

    /// The append has ended: durable, fenced, or failed with nobody knowing whether it is in the log.
    pub(crate) fn appended(&mut self, id: usize) {
        let coordinator = &mut self.coordinators[id];
        let Some((records, replies)) = coordinator.appending.take().filter(|_| coordinator.alive) else { return };
        if coordinator.epoch != self.store.epoch {
            return self.kill_coordinator(id, "fenced");
        }
        let fails = self.store.fails_until > self.millis();
        if !fails || self.chance(0.5) {
            for record in records {
                self.tell(|| format!("log {:?} {:?}", record.job, brief(&record)));
                self.logged(&record);
                self.store.log.push(record);
            }
        }
        if fails {
            return self.kill_coordinator(id, "the log failed");
        }
        self.act(id, replies);
    }

    /// What may be known now: replies, then what is outstanding.
    fn act(&mut self, id: usize, replies: Vec<Reply>) {
        for (stream, reply) in replies {
            if reply == Err(Refusal::WorkerIdTaken) {
                let reason = "the worker id is taken".to_owned();
                self.send_down(stream, Told::Refused(wire::Refused { code: "ALREADY_EXISTS".into(), reason }));
            }
            if reply.is_err() {
                self.close_from_above(stream);
            }
        }
        let now = self.now_of(id);
        let outstanding: HashSet<Work> = self.coordinators[id].core.outstanding(now).collect();
        let coordinator = &mut self.coordinators[id];
        coordinator.sent.retain(|work| outstanding.contains(work));
        coordinator.tried.retain(|work, _| outstanding.contains(work));
        let mut outstanding: Vec<Work> = outstanding.into_iter().collect();
        outstanding.sort_by_cached_key(|work| format!("{work:?}"));
        for work in outstanding {
            if work.in_store().is_some() {
                self.store_work(id, work, now);
            } else if !self.coordinators[id].sent.contains(&work) {
                self.tell_work(id, work, now);
            }
        }
        if !self.coordinators[id].mailbox.is_empty() {
            self.coordinators[id].is_due = true;
            self.at(1, Event::Turn(id));
        }
    }

    /// Time is looked at.
    pub(crate) fn tick(&mut self, id: usize) {
        if self.coordinators[id].alive {
            self.turn(id);
            self.at(TICK, Event::Tick(id));
        }
    }

    fn tell_work(&mut self, id: usize, work: Work, now: Time) {
        let limits = Limits { forming: self.timings.forming, operation: self.timings.operation };
        let coordinator = &self.coordinators[id];
        let Some((link, message)) = cappa_wire::message(&coordinator.core, &work, limits, |_| 0) else { return };
        let Some(stream) = coordinator.links.get(&link).copied() else { return };
        self.tell(|| format!("coordinator-{id} sends {work:?}"));
        self.send_down(stream, message);
        let coordinator = &mut self.coordinators[id];
        coordinator.sent.insert(work.clone());
        for event in coordinator.core.decide(now, &Command::Told(work)).unwrap_or_default() {
            coordinator.core.apply(&event);
        }
    }

    fn store_work(&mut self, id: usize, work: Work, now: Time) {
        let coordinator = &mut self.coordinators[id];
        let is_tried = coordinator
            .tried
            .get(&work)
            .is_some_and(|(at, is_told)| *is_told || now.since(*at) < Duration::from_secs(5));
        let job = work.in_store().and_then(|job| coordinator.core.state().job(job));
        let Some(job) = job.filter(|_| !is_tried) else { return };
        let attempt = match &work {
            Work::CommitManifest { step, generation, .. } => job.committing.get(&(*step, *generation)).cloned(),
            _ => None,
        };
        let kept = job.checkpoints.iter().chain(&job.retired).map(|c| (c.step.0, c.generation.0));
        let kept = kept.chain(job.committing.keys().map(|(step, generation)| (step.0, generation.0))).collect();
        let litter = (kept, job.group().map(|group| group.generation.0));
        coordinator.tried.insert(work.clone(), (now, false));
        // Shards are read for longer than it takes to write a manifest. Who asked may want the index no more when it is made.
        let longest = if matches!(work, Work::Index { .. }) { 4_000 } else { 200 };
        let after = self.random(5..longest);
        self.at(after, Event::Stored(id, Stored { work, attempt, litter }));
    }

    fn can_give_up(&self, id: usize, work: &Work) -> bool {
        let Work::CommitManifest { job, step, .. } = work else { return false };
        self.coordinators[id].core.state().job(job).is_some_and(|job| !job.depends_on(*step))
    }

    /// Work on the store has happened, or failed; the process that asked for it may be gone.
    pub(crate) fn stored(&mut self, id: usize, stored: Stored) {
        let is_away = self.store.is_away_for_jobs(self.millis());
        // It is tried again, but for a manifest that the job can do without.
        let is_given_up = is_away && self.can_give_up(id, &stored.work) && self.chance(0.3);
        if is_away && !is_given_up {
            return;
        }
        if let Some((_, is_told)) = self.coordinators[id].tried.get_mut(&stored.work) {
            *is_told = true;
        }
        let done = match stored.work {
            Work::Index { job } => {
                let Some(submission) = self.coordinators[id].core.state().job(&job).map(|job| &job.submission) else {
                    return;
                };
                let indexed = Indexed {
                    spec_json: submission.spec_json.clone(),
                    spec_digest: submission.spec_digest.clone(),
                    data_digest: String::new(),
                    total_steps: submission.total_steps,
                    sources: Vec::new(),
                };
                Command::Indexed { job, indexed }
            }
            Work::CommitManifest { job, step, generation } if is_given_up => {
                let error = "the store is away".to_owned();
                Command::ManifestFailed { job, step, generation, error }
            }
            Work::CommitManifest { job, step, generation } => {
                let key = (job.to_string(), step.0);
                let there = *self.store.manifests.entry(key).or_insert(generation.0);
                let error = "another attempt is committed".to_owned();
                if there == generation.0 {
                    self.committed(id, &job, step.0, generation.0, stored.attempt.as_ref());
                    Command::ManifestCommitted { job, step, generation }
                } else {
                    Command::ManifestFailed { job, step, generation, error }
                }
            }
            Work::DeleteCheckpoint { job, step, generation } => {
                self.deleted(&job, step.0);
                self.store.deleted.insert((job.to_string(), step.0, generation.0));
                self.store.manifests.remove(&(job.to_string(), step.0));
                self.store.parts.retain(|(j, s, g, _)| (j.as_str(), *s, *g) != (job.as_str(), step.0, generation.0));
                Command::CheckpointDeleted { job, step, generation }
            }
            Work::Abandon { job, after, through } => {
                let is_given_up = |step, generation| step > after.0 && generation <= through.0;
                let is_left = |of: &str, step, generation| of != job.as_str() || !is_given_up(step, generation);
                let Store { manifests, deleted, .. } = &mut self.store;
                let gone = manifests.extract_if(.., |(of, step), generation| !is_left(of, *step, *generation));
                deleted.extend(gone.map(|((of, step), generation)| (of, step, generation)));
                self.store.parts.retain(|(of, step, generation, _)| is_left(of, *step, *generation));
                Command::BranchAbandoned { job, through }
            }
            Work::Sweep { job } => {
                let (kept, active) = stored.litter;
                let is_litter = |s, g| active.is_none_or(|active| g < active) && !kept.contains(&(s, g));
                self.store.parts.retain(|(j, s, g, _)| j != job.as_str() || !is_litter(*s, *g));
                Command::Swept { job }
            }
            _ => return,
        };
        if self.coordinators[id].alive {
            self.post(id, Item::Perform(done));
        }
    }
}

fn brief(record: &Record) -> String {
    let text = format!("{:?}", record.change);
    text.chars().take(400).collect()
}
