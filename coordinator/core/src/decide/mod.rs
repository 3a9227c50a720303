//! Commands become events.

mod checkpoint;
mod fallback;
mod gang;
mod group;
mod index;
mod last_save;
mod limits;
mod people;
mod review;
mod rollback;
mod session;
mod workers;

use crate::command::{Command, Report};
use crate::core::{Core, Refusal};
use crate::ids::{JobId, Time, WorkerId};
use crate::presence::{Observation, Seen};
use crate::record::{Change, Event, Record};
use crate::work::Work;

pub(crate) use checkpoint::sweep_is_due;
pub(crate) use gang::holds_useful_state;
pub(crate) use index::index_is_due;
pub(crate) use review::review;

pub(crate) fn decide(core: &Core, now: Time, command: &Command) -> Result<Vec<Event>, Refusal> {
    let at = At(now);
    match command {
        Command::Submit { job, submission } => people::submit(core, at, job, submission),
        Command::Cancel { job, reason } => people::cancel(core, at, job, reason),
        Command::Pause { job, reason } => people::pause(core, at, job, reason),
        Command::Resume { job } => people::resume(core, at, job),
        Command::Requeue { job, reason } => people::requeue(core, at, job, reason),
        Command::SetPriority { job, priority } => people::set_priority(core, at, job, *priority),
        Command::ReleaseWorker { worker, reason } => workers::release(core, at, worker, reason),
        Command::CordonWorker { worker, reason } => workers::cordon(core, at, worker, reason),
        Command::DrainWorker { worker, reason } => workers::drain(core, at, worker, reason),
        Command::LeaderChanged { leader, reason } => {
            let jobs = core.state().active_jobs();
            let changed = || Change::LeaderChanged { leader: leader.clone(), reason: reason.clone() };
            Ok(jobs.map(|job| at.record(&job.id, changed())).collect())
        }
        Command::Worker(said) => match &said.report {
            Report::Hello { .. } => session::hello(core, at, said),
            _ => session::report(core, at, said),
        },
        Command::Disconnected { worker, link } => {
            session::expect_link(core, worker, *link)?;
            let worker = worker.clone();
            Ok(vec![at.seen(Seen::Disconnected { worker })])
        }
        Command::Indexed { job, indexed } => index::done(core, at, job, indexed),
        Command::IndexFailed { job, code, message } => index::failed(core, at, job, code, message),
        Command::ManifestCommitted { job, step, generation } => {
            checkpoint::committed(core, at, job, *step, *generation)
        }
        Command::ManifestFailed { job, step, generation, error } => {
            checkpoint::manifest_failed(core, at, job, *step, *generation, error)
        }
        Command::PinCheckpoint { job, step, reason } => rollback::pin(core, at, job, *step, reason),
        Command::UnpinCheckpoint { job, step, reason } => rollback::unpin(core, at, job, *step, reason),
        Command::RollBack { job, step, reason } => rollback::roll_back(core, at, job, *step, reason),
        Command::BranchAbandoned { job, through } => rollback::abandoned(core, at, job, *through),
        Command::CheckpointDeleted { job, step, generation } => checkpoint::deleted(core, at, job, *step, *generation),
        Command::Swept { job } => checkpoint::swept(core, at, job),
        Command::Told(work) => Ok(told(work).map(|seen| at.seen(seen)).into_iter().collect()),
        Command::Review => Ok(review::review(core, at, None).events),
    }
}

/// What it changes that a worker was told something: it is not told again on the same stream.
/// Who is to end is told until it says goodbye.
fn told(work: &Work) -> Option<Seen> {
    Some(match work.clone() {
        Work::Form { worker, job, generation, .. } => Seen::Summoned { worker, job, generation },
        Work::Abort { worker, job, generation, .. } => Seen::Dismissed { worker, job, generation },
        Work::Stop { worker, job, generation, .. } => Seen::Stopped { worker, job, generation },
        Work::Release { worker, job, .. } => Seen::Released { worker, job },
        Work::Acknowledge { worker, job, step, generation, .. } => Seen::Acknowledged { worker, job, step, generation },
        _ => return None,
    })
}

/// Stamps events with the time of the decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At(pub(crate) Time);

impl At {
    fn record(self, job: &JobId, change: Change) -> Event {
        self.record_of(Some(job), change)
    }

    /// A change that may be no job's.
    fn record_of(self, job: Option<&JobId>, change: Change) -> Event {
        Event::Record(Record { at: self.0, job: job.cloned(), change })
    }

    fn seen(self, seen: Seen) -> Event {
        Event::Observation(Observation { at: self.0, seen })
    }

    fn heard(self, worker: &WorkerId) -> Event {
        let worker = worker.clone();
        self.seen(Seen::Heard { worker })
    }
}
