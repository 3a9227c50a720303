//! Streams: in order each way, late, cut at any moment, and blocked one way or both.

use cappa_core::{Link, WorkerId};
use cappa_proto::coordinator_message::Message as Told;
use cappa_proto::worker_message::Message as Tell;

use crate::world::{Event, World};

/// One stream between a worker's process and a coordinator's.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) place: usize,
    pub(crate) incarnation: u64,
    pub(crate) coordinator: usize,
    pub(crate) worker: WorkerId,
    link: Link,
    /// When the last message sent so far arrives, each way.
    pub(crate) up_at: u64,
    down_at: u64,
    pub(crate) worker_has_it: bool,
    pub(crate) coordinator_has_it: bool,
}

impl World<'_> {
    /// A worker's process opens a stream to some coordinator that listens.
    pub(crate) fn open_stream(&mut self, place: usize, incarnation: u64) -> Option<usize> {
        let now = self.millis();
        let alive: Vec<usize> = (0..self.coordinators.len()).filter(|id| self.coordinators[*id].alive).collect();
        let coordinator = *alive.get(usize::try_from(self.rng_below(alive.len())?).ok()?)?;
        if self.places[place].up_blocked_until > now || self.places[place].down_blocked_until > now {
            return None;
        }
        let id = self.streams.len();
        self.streams.push(Stream {
            place,
            incarnation,
            coordinator,
            worker: WorkerId::from(format!("worker-{place}")),
            link: Link(id as u64 + 1),
            up_at: now,
            down_at: now,
            worker_has_it: true,
            coordinator_has_it: true,
        });
        Some(id)
    }

    pub(crate) fn rng_below(&mut self, bound: usize) -> Option<u64> {
        (bound > 0).then(|| self.random(0..bound as u64))
    }

    fn delay(&mut self) -> u64 {
        let most = if self.is_faulty() && self.chance(0.02) { 1_500 } else { 60 };
        self.random(1..most)
    }

    /// The worker says something.
    pub(crate) fn send_up(&mut self, id: usize, tell: Tell) {
        let now = self.millis();
        let blocked = self.places[self.streams[id].place].up_blocked_until;
        let at = (now.max(blocked) + self.delay()).max(self.streams[id].up_at);
        self.streams[id].up_at = at;
        self.at(at - now, Event::Up(id, tell));
    }

    pub(crate) fn arrive_up(&mut self, id: usize, tell: Tell) {
        let (now, stream) = (self.millis(), &mut self.streams[id]);
        let blocked = self.places[stream.place].up_blocked_until;
        if blocked > now {
            stream.up_at = stream.up_at.max(blocked);
            return self.at(blocked - now, Event::Up(id, tell));
        }
        let (coordinator, worker, link) = (stream.coordinator, stream.worker.clone(), stream.link);
        if stream.coordinator_has_it && self.coordinators[coordinator].alive {
            self.hear(coordinator, id, worker, link, tell);
        }
    }

    /// The coordinator says something.
    pub(crate) fn send_down(&mut self, id: usize, told: Told) {
        let now = self.millis();
        let blocked = self.places[self.streams[id].place].down_blocked_until;
        let at = (now.max(blocked) + self.delay()).max(self.streams[id].down_at);
        self.streams[id].down_at = at;
        self.at(at - now, Event::Down(id, told));
    }

    pub(crate) fn arrive_down(&mut self, id: usize, told: Told) {
        let (now, stream) = (self.millis(), &mut self.streams[id]);
        let place = &self.places[stream.place];
        let hangs = place.process.as_ref().map_or(0, |process| process.hangs_until);
        let blocked = place.down_blocked_until.max(hangs);
        if blocked > now {
            stream.down_at = stream.down_at.max(blocked);
            return self.at(blocked - now, Event::Down(id, told));
        }
        if stream.worker_has_it {
            let (place, incarnation) = (stream.place, stream.incarnation);
            self.told(place, incarnation, id, told);
        }
    }

    /// The connection breaks; each side notices by itself, after what had arrived before.
    pub(crate) fn cut(&mut self, id: usize) {
        self.tell(|| format!("stream {} breaks", id + 1));
        let (up, down) = (self.random(0..3_000), self.random(0..1_500));
        self.at(up, Event::UpEnd(id));
        self.at(down, Event::DownEnd(id));
    }

    /// The worker's process is gone; the kernel says so, after what was sent before.
    pub(crate) fn close_from_below(&mut self, id: usize) {
        self.streams[id].worker_has_it = false;
        let after = self.streams[id].up_at.saturating_sub(self.millis()) + self.delay();
        self.at(after, Event::UpEnd(id));
    }

    /// The coordinator closes it, after what it has sent.
    pub(crate) fn close_from_above(&mut self, id: usize) {
        self.streams[id].coordinator_has_it = false;
        let after = self.streams[id].down_at.saturating_sub(self.millis()) + self.delay();
        self.at(after, Event::DownEnd(id));
    }

    pub(crate) fn end_up(&mut self, id: usize) {
        let (now, stream) = (self.millis(), &mut self.streams[id]);
        let blocked = self.places[stream.place].up_blocked_until;
        if blocked > now {
            return self.at(blocked - now + 1, Event::UpEnd(id));
        }
        if std::mem::replace(&mut stream.coordinator_has_it, false) {
            let (coordinator, worker, link) = (stream.coordinator, stream.worker.clone(), stream.link);
            if self.coordinators[coordinator].alive {
                self.hear_end(coordinator, worker, link);
            }
        }
    }

    pub(crate) fn end_down(&mut self, id: usize) {
        let (now, stream) = (self.millis(), &mut self.streams[id]);
        let hangs = self.places[stream.place].process.as_ref().map_or(0, |process| process.hangs_until);
        let blocked = self.places[stream.place].down_blocked_until.max(hangs);
        if blocked > now {
            return self.at(blocked - now + 1, Event::DownEnd(id));
        }
        if std::mem::replace(&mut stream.worker_has_it, false) {
            let (place, incarnation) = (stream.place, stream.incarnation);
            self.lose_stream(place, incarnation, id);
        }
    }
}
