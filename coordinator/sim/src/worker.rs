//! A worker's process: the production session logic, and a training thread whose collectives are the engine's.

use std::collections::VecDeque;
use std::time::Duration;

use cappa_proto as wire;
use cappa_proto::coordinator_message::Message as Told;
use cappa_session::{
    Assignment, Backoff, Bars, Book, Conversation, Duty, Held, Identity, Order, Turns, Unwanted, obey,
};
use cappa_shared::ids::{Generation, JobId, Step};

use crate::world::{Event, Own, World};

/// A worker's place, and the process in it if one lives.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) process: Option<Process>,
    /// Messages that way wait until then.
    pub(crate) up_blocked_until: u64,
    pub(crate) down_blocked_until: u64,
    incarnations: u64,
}

/// A living process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) incarnation: u64,
    identity: Identity,
    pub(crate) book: Book,
    pub(crate) bars: Bars<()>,
    pub(crate) turns: Turns,
    orders: VecDeque<Order>,
    backoff: Backoff,
    pub(crate) stream: Option<(usize, Conversation)>,
    opened_at: u64,
    /// Since when nothing kept it from talking to its coordinator.
    pub(crate) calm_since: u64,
    pub(crate) hangs_until: u64,
    pub(crate) state: Option<State>,
    pub(crate) turn: Turn,
    /// Counts turns, so that what was meant for an old one is void.
    pub(crate) token: u64,
}

/// The state of a run: in place of parameters, a chain of hashes over every update that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) job: JobId,
    pub(crate) step: u64,
    pub(crate) hash: u64,
    /// How often the job had gone back before this state was restored.
    pub(crate) branch: usize,
}

impl State {
    pub(crate) fn held(&self) -> Held<'_> {
        Held { job: &self.job, step: Step(self.step) }
    }
}

/// What the training thread is at.
#[derive(Debug)]
pub(crate) enum Turn {
    Idle,
    /// It waits at the lead's store.
    Forming(Box<Assignment>),
    /// All members have met, and wait for the checkpoints' store.
    Restoring(Box<Assignment>),
    Training {
        assignment: Box<Assignment>,
        has_entered: bool,
    },
    /// It waits until its parts are written.
    Flushing {
        assignment: Box<Assignment>,
        outcome: Option<wire::Outcome>,
    },
}

impl Turn {
    pub(crate) fn assignment(&self) -> Option<&Assignment> {
        match self {
            Self::Idle => None,
            Self::Forming(assignment)
            | Self::Restoring(assignment)
            | Self::Training { assignment, .. }
            | Self::Flushing { assignment, .. } => Some(assignment),
        }
    }
}

impl World<'_> {
    pub(crate) fn start_process(&mut self, place: usize) {
        if self.places[place].process.is_some() {
            return;
        }
        self.places[place].incarnations += 1;
        let incarnation = self.places[place].incarnations;
        self.tell(|| format!("worker-{place} starts as {incarnation}"));
        let identity = Identity {
            worker: format!("worker-{place}").parse().unwrap(),
            incarnation: incarnation.to_string(),
            version: String::new(),
            host: format!("host-{}", place / 2),
            store_address: format!("{place}-{incarnation}:1"),
            metrics_address: String::new(),
            device: "cpu".into(),
        };
        self.places[place].process = Some(Process {
            incarnation,
            identity,
            book: Book::default(),
            bars: Bars::default(),
            turns: Turns::default(),
            orders: VecDeque::new(),
            backoff: Backoff::default(),
            stream: None,
            opened_at: 0,
            calm_since: 0,
            hangs_until: 0,
            state: None,
            turn: Turn::Idle,
            token: 0,
        });
        self.inside(place, 1, Own::Connect);
    }

    /// The process is gone. A kernel closes its connections, a host that vanishes closes none.
    pub(crate) fn kill(&mut self, place: usize, vanishes: bool, why: &str) {
        let Some(process) = self.places[place].process.take() else { return };
        self.tell(|| format!("worker-{place} ends{}: {why}", if vanishes { " with its host" } else { "" }));
        if let Some((stream, _)) = &process.stream {
            match vanishes {
                true => self.streams[*stream].worker_has_it = false,
                false => self.close_from_below(*stream),
            }
        }
        if let Some(assignment) = process.turn.assignment().filter(|_| !vanishes) {
            self.shake(assignment.job.clone(), assignment.generation.0);
        }
        let after = self.random(100..8_000);
        self.at(after, Event::Start(place));
    }

    /// Something will happen inside the process that is in the place now.
    pub(crate) fn inside(&mut self, place: usize, after: u64, own: Own) {
        let incarnation = self.process(place).incarnation;
        self.at(after, Event::Worker(place, incarnation, own));
    }

    pub(crate) fn process(&mut self, place: usize) -> &mut Process {
        self.places[place].process.as_mut().expect("a process is there")
    }

    pub(crate) fn own(&mut self, place: usize, incarnation: u64, own: Own) {
        let now = self.millis();
        let Some(process) = self.places[place].process.as_mut().filter(|p| p.incarnation == incarnation) else {
            return;
        };
        if process.hangs_until > now {
            let wait = process.hangs_until - now;
            return self.at(wait, Event::Worker(place, incarnation, own));
        }
        match own {
            Own::Connect => self.connect(place),
            Own::Beat(stream) => self.beat(place, stream),
            Own::Progress(stream) => self.progress(place, stream),
            Own::Aborted(token) if process.token == token => self.leave(place, None),
            Own::PeerGone(token) if process.token == token => {
                self.leave(place, Some(("COLLECTIVE_FAILED", "connection closed by peer")));
            }
            Own::FormingOver(token) if process.token == token && matches!(process.turn, Turn::Forming(_)) => {
                self.leave(place, Some(("COLLECTIVE_FAILED", "not all members came")));
            }
            Own::Aborted(_) | Own::PeerGone(_) | Own::FormingOver(_) => {}
            Own::Written(snapshot) => self.written(place, snapshot),
            Own::Ended => self.drained(place),
        }
    }

    fn connect(&mut self, place: usize) {
        let (now, incarnation) = (self.millis(), self.process(place).incarnation);
        if self.process(place).stream.is_some() {
            return;
        }
        let Some(id) = self.open_stream(place, incarnation) else {
            let pause = self.process(place).backoff.pause(Duration::ZERO);
            return self.inside(place, u64::try_from(pause.as_millis()).unwrap(), Own::Connect);
        };
        let process = self.process(place);
        let (conversation, hello) = Conversation::open(&process.identity, &mut process.book);
        process.stream = Some((id, conversation));
        (process.opened_at, process.calm_since) = (now, now);
        self.tell(|| format!("worker-{place} opens stream {}: {hello:?}", id + 1));
        self.send_up(id, hello);
        self.inside(place, 10, Own::Beat(id));
        self.inside(place, 20, Own::Progress(id));
    }

    pub(crate) fn lose_stream(&mut self, place: usize, incarnation: u64, id: usize) {
        let now = self.millis();
        let Some(process) = self.places[place].process.as_mut().filter(|p| p.incarnation == incarnation) else {
            return;
        };
        if process.stream.take_if(|(stream, _)| *stream == id).is_some() {
            let lasted = Duration::from_millis(now - process.opened_at);
            let pause = process.backoff.pause(lasted);
            self.inside(place, u64::try_from(pause.as_millis()).unwrap(), Own::Connect);
        }
    }

    fn beat(&mut self, place: usize, id: usize) {
        let process = self.places[place].process.as_ref().unwrap();
        let Some((_, conversation)) = process.stream.as_ref().filter(|(stream, _)| *stream == id) else { return };
        let beat = conversation.heartbeat(&process.book);
        self.send_up(id, beat);
        let period = u64::try_from(self.timings.heartbeat.as_millis()).unwrap();
        self.inside(place, period, Own::Beat(id));
    }

    fn progress(&mut self, place: usize, id: usize) {
        let process = self.process(place);
        let Some((_, conversation)) = process.stream.as_mut().filter(|(stream, _)| *stream == id) else { return };
        let news = conversation.news(&mut process.book, process.bars.ending());
        news.into_iter().for_each(|tell| self.send_up(id, tell));
        self.inside(place, 200, Own::Progress(id));
    }

    /// What is urgent goes out at once.
    pub(crate) fn urgent(&mut self, place: usize) {
        let process = self.process(place);
        let Some((id, conversation)) = process.stream.as_mut() else { return };
        let (id, news) = (*id, conversation.news(&mut process.book, process.bars.ending()));
        news.into_iter().for_each(|tell| self.send_up(id, tell));
    }

    /// The coordinator's message has arrived.
    pub(crate) fn told(&mut self, place: usize, incarnation: u64, id: usize, told: Told) {
        let Some(process) = self.places[place].process.as_mut().filter(|p| p.incarnation == incarnation) else {
            return;
        };
        if process.stream.as_ref().is_none_or(|(stream, _)| *stream != id) {
            return;
        }
        let was_draining = process.bars.draining();
        match obey(told, &mut process.book, &mut process.bars) {
            Ok(reaction) => {
                let token = process.token;
                if process.bars.draining() && !was_draining {
                    self.inside(place, 20, Own::Ended);
                }
                let process = self.process(place);
                process.orders.extend(reaction.order);
                if reaction.abort.is_some() {
                    let after = self.random(1..50);
                    self.inside(place, after, Own::Aborted(token));
                }
                self.take_orders(place);
                self.check_book(place);
                self.urgent(place);
            }
            Err(Unwanted::Refused { reason, .. }) => self.kill(place, false, &reason),
            Err(Unwanted::BadForm(error)) => self.breaks("FormsAreMeant", || error.to_string()),
        }
    }

    /// The training thread takes orders as long as it is in no group.
    pub(crate) fn take_orders(&mut self, place: usize) {
        loop {
            let process = self.process(place);
            if !matches!(process.turn, Turn::Idle) {
                return;
            }
            let Some(order) = process.orders.pop_front() else { return };
            let held = process.state.as_ref().map(State::held);
            match process.turns.take(order, held, process.bars.draining(), &mut process.book) {
                Duty::Serve { assignment, keep } => {
                    process.state.take_if(|state| !keep || state.job != assignment.job);
                    self.begin(place, assignment);
                }
                Duty::Drop => process.state = None,
                Duty::Rest | Duty::Exit => {}
            }
        }
    }

    /// The thread is out of its group, with its state; an error has a code and a message.
    pub(crate) fn leave(&mut self, place: usize, error: Option<(&str, &str)>) {
        let process = self.process(place);
        let Some(assignment) = process.turn.assignment() else { return };
        let (job, generation) = (assignment.job.clone(), assignment.generation);
        let failure =
            error.map(|(code, message)| wire::Failure { code: code.into(), message: message.into(), permanent: false });
        process.turn = Turn::Idle;
        process.token += 1;
        process.bars.leave();
        let held = process.state.as_ref().map(State::held);
        process.turns.left(&job, generation, held, failure, &mut process.book);
        let why = error.map_or("told to", |(_, message)| message);
        self.tell(|| format!("worker-{place} leaves {job}/{generation}: {why}"));
        self.check_book(place);
        self.shake(job, generation.0);
        self.urgent(place);
        self.take_orders(place);
    }

    /// Peers that are at work in the group see their connections to a member close.
    fn shake(&mut self, job: JobId, generation: u64) {
        for place in 0..self.places.len() {
            let Some(process) = &self.places[place].process else { continue };
            let (Turn::Training { assignment, .. } | Turn::Restoring(assignment)) = &process.turn else { continue };
            if assignment.job == job && assignment.generation == Generation(generation) {
                let token = process.token;
                let after = self.random(5..400);
                self.inside(place, after, Own::PeerGone(token));
            }
        }
    }

    /// The device fails in the middle of a group's work: the process gives up its state, says so and ends.
    pub(crate) fn break_device(&mut self, place: usize) {
        let now = self.millis();
        let Some(process) = self.places[place].process.as_mut().filter(|process| process.hangs_until <= now) else {
            return;
        };
        if process.turn.assignment().is_none() {
            return;
        }
        process.bars.drain("the device failed");
        process.state = None;
        self.summary.devices += 1;
        self.leave(place, Some(("DEVICE_FAILED", "the device failed")));
        self.inside(place, 20, Own::Ended);
    }

    /// A notice: the group checkpoints and goes on without this worker.
    pub(crate) fn drain(&mut self, place: usize) {
        let Some(process) = &mut self.places[place].process else { return };
        process.bars.drain("test");
        self.tell(|| format!("worker-{place} is asked to end"));
        self.inside(place, 20, Own::Ended);
    }

    fn drained(&mut self, place: usize) {
        let process = self.process(place);
        let is_busy = process.book.holding().is_some_and(|held| held.stepping) || process.book.unsettled();
        match is_busy && self.is_faulty() {
            true => self.inside(place, 100, Own::Ended),
            false => self.kill(place, false, "drained"),
        }
    }
}
