//! What is seen of the workers: volatile, gathered anew by every process of the coordinator.

mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::ids::{Generation, Incarnation, JobId, Link, Pace, Rank, Step, Time, WorkerId};
use crate::job::{Group, RankParts};

pub use worker::{Holding, WorkerPresence};

/// Looked up for every member of every group at a look. Its hashes are the same in every process, and so is its order.
type Workers = FxHashMap<WorkerId, WorkerPresence>;

/// Who is connected, when each was last heard and what each holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Presence {
    /// Since when this process can judge silence: its start, or when it woke from a standstill.
    pub(crate) watching_since: Time,
    /// When the state was last looked at, whether or not the look came to its end.
    pub(crate) last_look: Time,
    /// When a look last found nothing more to do.
    pub(crate) reviewed_at: Time,
    /// When a worker last connected.
    pub(crate) arrival_at: Time,
    workers: Workers,
    /// Workers with reports of checkpoints that they repeat until they are told otherwise.
    reporting: BTreeSet<WorkerId>,
    gatherings: BTreeMap<(JobId, Step, Generation), Gathering>,
}

/// The parts of one attempt that were reported so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gathering {
    pub(crate) world_size: u32,
    pub(crate) ranks: BTreeMap<Rank, RankParts>,
    pub(crate) last_at: Time,
}

/// One thing that was seen, at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// When.
    pub at: Time,
    /// What.
    pub seen: Seen,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A worker has connected.
    Connected {
        /// Who.
        worker: WorkerId,
        /// Its stream.
        link: Link,
        /// Its process.
        incarnation: Incarnation,
        /// Its machine.
        host: String,
        /// `host:port` of its c10d store.
        store_address: String,
        /// The state it holds.
        holding: Option<Holding>,
    },
    /// Its stream has ended.
    Disconnected {
        /// Whose.
        worker: WorkerId,
    },
    /// It said something.
    Heard {
        /// Who.
        worker: WorkerId,
    },
    /// It is at a step of a group, or holds nothing.
    At {
        /// Who.
        worker: WorkerId,
        /// Where.
        place: Option<(JobId, Generation, Step)>,
        /// How fast it is beside the others of its group, if it says so.
        pace: Option<Pace>,
    },
    /// It has finished its first step in a group.
    Entered {
        /// Who.
        worker: WorkerId,
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
        /// Completed updates.
        step: Step,
    },
    /// It is in no group any more.
    Left {
        /// Who.
        worker: WorkerId,
        /// The state it holds.
        holding: Holding,
    },
    /// Someone has it end.
    AskedToEnd {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// It ends on purpose.
    Leaving {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A rank's parts of a checkpoint are written.
    PartsWritten {
        /// Who reports it.
        worker: WorkerId,
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
        /// Whose parts, of how many, and which; absent when nobody waits for them any more.
        parts: Option<(Rank, u32, RankParts)>,
    },
    /// Nobody waits for the parts of an attempt any more.
    GatheringEnded {
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// A worker was told that its report has arrived.
    Acknowledged {
        /// Who.
        worker: WorkerId,
        /// The job.
        job: JobId,
        /// The checkpoint's step.
        step: Step,
        /// The attempt.
        generation: Generation,
    },
    /// A worker was told to form a group.
    Summoned {
        /// Who.
        worker: WorkerId,
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
    },
    /// A worker was told to leave a group.
    Dismissed {
        /// Who.
        worker: WorkerId,
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
    },
    /// A worker was told to checkpoint and stop.
    Stopped {
        /// Who.
        worker: WorkerId,
        /// The job.
        job: JobId,
        /// The group.
        generation: Generation,
    },
    /// A worker was told to drop a job's state.
    Released {
        /// Who.
        worker: WorkerId,
        /// The job.
        job: JobId,
    },
    /// This process stood still for so long that silence since then means nothing.
    Woke,
    /// There was nothing to decide.
    Reviewed,
}

impl Seen {
    /// The worker of which something was seen.
    pub(crate) fn worker(&self) -> Option<&WorkerId> {
        match self {
            Self::Connected { worker, .. }
            | Self::Disconnected { worker }
            | Self::Heard { worker }
            | Self::At { worker, .. }
            | Self::Entered { worker, .. }
            | Self::Left { worker, .. }
            | Self::AskedToEnd { worker, .. }
            | Self::Leaving { worker, .. }
            | Self::PartsWritten { worker, .. }
            | Self::Acknowledged { worker, .. }
            | Self::Summoned { worker, .. }
            | Self::Dismissed { worker, .. }
            | Self::Stopped { worker, .. }
            | Self::Released { worker, .. } => Some(worker),
            Self::GatheringEnded { .. } | Self::Woke | Self::Reviewed => None,
        }
    }
}

impl Presence {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            watching_since: now,
            last_look: now,
            reviewed_at: now,
            arrival_at: now,
            workers: Workers::default(),
            reporting: BTreeSet::new(),
            gatherings: BTreeMap::new(),
        }
    }

    /// All workers that this process has seen, in no order.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &WorkerPresence)> {
        self.workers.iter()
    }

    /// One worker.
    pub fn worker(&self, id: &WorkerId) -> Option<&WorkerPresence> {
        self.workers.get(id)
    }

    /// The workers that have reported parts of checkpoints and were not told that this has arrived, by id.
    pub(crate) fn reporting(&self) -> impl Iterator<Item = (&WorkerId, &WorkerPresence)> {
        self.reporting.iter().filter_map(|id| self.workers.get_key_value(id))
    }

    /// Whether members of a group that are not heard may still be about to come back: they were in it before this process began
    /// to watch. Who has been in session with it and ended its stream is not waited for.
    pub(crate) fn in_grace(&self, now: Time, grace: Duration, group: &Group) -> bool {
        now < self.watching_since + grace && group.formed_at <= self.watching_since
    }

    pub(crate) fn gathering(&self, key: &(JobId, Step, Generation)) -> Option<&Gathering> {
        self.gatherings.get(key)
    }

    pub(crate) fn gatherings(&self) -> impl Iterator<Item = (&(JobId, Step, Generation), &Gathering)> {
        self.gatherings.iter()
    }

    /// Folds an observation in. False when all that is new is when a worker was heard, and how far it is in the group that
    /// it was known to step in.
    pub(crate) fn apply(&mut self, observation: &Observation) -> bool {
        let at = observation.at;
        let is_news = match &observation.seen {
            Seen::At { worker, place, .. } => {
                let known = self.workers.get(worker);
                !known.is_some_and(|known| known.is_known_at(place.as_ref()))
            }
            Seen::Heard { .. } | Seen::PartsWritten { .. } | Seen::Acknowledged { .. } => false,
            _ => true,
        };
        match &observation.seen {
            Seen::Connected { .. } => self.connect(at, &observation.seen),
            Seen::Woke => self.wake(at),
            Seen::Reviewed => (self.last_look, self.reviewed_at) = (at, at),
            Seen::GatheringEnded { job, step, generation } => {
                self.gatherings.remove(&(job.clone(), *step, *generation));
            }
            Seen::PartsWritten { .. } => self.gather(at, &observation.seen),
            seen => self.update(at, seen),
        }
        is_news
    }

    fn connect(&mut self, at: Time, seen: &Seen) {
        let Seen::Connected { worker, link, incarnation, host, store_address, holding } = seen else {
            return;
        };
        let place = holding.as_ref().map(|h| (h.job.clone(), h.generation));
        let before = self.workers.get(worker);
        let same = before.filter(|before| before.incarnation == *incarnation);
        let presence = WorkerPresence {
            incarnation: incarnation.clone(),
            link: Some(*link),
            newest_link: *link,
            host: host.clone(),
            store_address: store_address.clone(),
            last_heard: at,
            predecessor: match same {
                Some(same) => same.predecessor.clone(),
                None => before.map(|before| (before.incarnation.clone(), before.last_heard)),
            },
            holding: holding.clone(),
            leaving: same.and_then(|before| before.leaving.clone()),
            asked_to_end: same.and_then(|before| before.asked_to_end.clone()),
            pace: same.and_then(|before| before.pace),
            joined: place,
            entered: same.and_then(|before| before.entered.clone()),
            summoned: None,
            dismissed: None,
            stopped: None,
            released: None,
            reported: same.map_or_else(BTreeSet::new, |before| before.reported.clone()),
        };
        if presence.reported.is_empty() {
            self.reporting.remove(worker);
        }
        self.workers.insert(worker.clone(), presence);
        self.arrival_at = at;
    }

    fn wake(&mut self, at: Time) {
        self.watching_since = at;
        self.last_look = at;
        self.reviewed_at = at;
        for worker in self.workers.values_mut().filter(|w| w.link.is_some()) {
            worker.last_heard = at;
        }
    }

    fn gather(&mut self, at: Time, seen: &Seen) {
        let Seen::PartsWritten { worker, job, step, generation, parts } = seen else {
            return;
        };
        let key = (job.clone(), *step, *generation);
        if let Some(presence) = self.workers.get_mut(worker) {
            presence.last_heard = at;
            presence.reported.insert(key.clone());
            self.reporting.insert(worker.clone());
        }
        if let Some((rank, world_size, parts)) = parts {
            let gathering = self.gatherings.entry(key).or_insert_with(|| Gathering {
                world_size: *world_size,
                ranks: BTreeMap::new(),
                last_at: at,
            });
            gathering.ranks.insert(*rank, parts.clone());
            gathering.last_at = at;
        }
    }

    fn update(&mut self, at: Time, seen: &Seen) {
        let Some(presence) = seen.worker().and_then(|worker| self.workers.get_mut(worker)) else {
            return;
        };
        match seen {
            Seen::Disconnected { .. } => {
                presence.link = None;
                return;
            }
            Seen::AskedToEnd { reason, .. } => {
                presence.asked_to_end = Some(reason.clone());
                return;
            }
            Seen::Summoned { job, generation, .. } => {
                presence.summoned = Some((job.clone(), *generation));
                return;
            }
            Seen::Dismissed { job, generation, .. } => {
                presence.dismissed = Some((job.clone(), *generation));
                return;
            }
            Seen::Stopped { job, generation, .. } => {
                presence.stopped = Some((job.clone(), *generation));
                return;
            }
            Seen::Released { job, .. } => {
                presence.release(job);
                return;
            }
            Seen::Acknowledged { worker, job, step, generation } => {
                let key = (job.clone(), *step, *generation);
                presence.reported.remove(&key);
                if presence.reported.is_empty() {
                    self.reporting.remove(worker);
                }
                return;
            }
            Seen::At { place, pace, .. } => {
                presence.is_at(place.as_ref());
                presence.keeps(place.as_ref(), *pace);
            }
            Seen::Entered { job, generation, step, .. } => presence.enter(job, *generation, *step),
            Seen::Left { holding, .. } => presence.leave(holding),
            Seen::Leaving { reason, .. } => presence.leaving = Some(reason.clone()),
            _ => {}
        }
        presence.last_heard = at;
    }
}
