//! How the session stops a training thread that is blocked inside a collective.
//!
//! The training thread takes an abort handle for the group it is about to form; the session bars
//! generations. A barred group is aborted from the session's thread, what is in flight fails, and the
//! training thread leaves with its state. Generations only grow, so barring one bars all before it.

use std::sync::atomic::{AtomicBool, Ordering};

use cappa_collective::AbortHandle;
use cappa_shared::ids::{Generation, JobId};
use parking_lot::Mutex;
use thiserror::Error;

/// The generation was given up, by the coordinator or for a newer one.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("generation {0} was given up")]
pub(crate) struct Barred(pub Generation);

#[derive(Default)]
struct State {
    group: Option<(JobId, Generation, AbortHandle)>,
    barred: Option<(JobId, Generation)>,
    stop: Option<(JobId, Generation)>,
}

/// Shared by the session (which bars and stops) and the training thread (which enters and asks).
#[derive(Default)]
pub(crate) struct Interrupt {
    state: Mutex<State>,
    draining: AtomicBool,
}

impl Interrupt {
    /// The training thread is about to form the group of a generation, with the handle that comes back.
    pub(crate) fn enter(&self, job: &JobId, generation: Generation) -> Result<AbortHandle, Barred> {
        let mut state = self.state.lock();
        if covers(state.barred.as_ref(), job, generation) {
            return Err(Barred(generation));
        }
        let abort = AbortHandle::new();
        state.group = Some((job.clone(), generation, abort.clone()));
        Ok(abort)
    }

    /// The training thread is out of its group.
    pub(crate) fn leave(&self) {
        self.state.lock().group = None;
    }

    /// Whether work on the generation is in vain.
    pub(crate) fn check(&self, job: &JobId, generation: Generation) -> Result<(), Barred> {
        match covers(self.state.lock().barred.as_ref(), job, generation) {
            true => Err(Barred(generation)),
            false => Ok(()),
        }
    }

    /// Gives up a generation and all before it; fails what is in flight there.
    pub(crate) fn bar(&self, job: &JobId, generation: Generation) {
        let mut state = self.state.lock();
        if covers(state.barred.as_ref(), job, generation) {
            return;
        }
        state.barred = Some((job.clone(), generation));
        let hit = state.group.take_if(|(at, current, _)| at != job || *current <= generation);
        // Outside the lock: an abort may wait for the engine's own threads.
        drop(state);
        if let Some((_, _, abort)) = hit {
            abort.abort();
        }
    }

    /// Asks the group of the generation to checkpoint and stop at the end of a step.
    pub(crate) fn stop(&self, job: &JobId, generation: Generation) {
        self.state.lock().stop = Some((job.clone(), generation));
    }

    /// Whether [`Interrupt::stop`] was asked of this generation.
    pub(crate) fn stop_asked(&self, job: &JobId, generation: Generation) -> bool {
        self.state.lock().stop.as_ref().is_some_and(|(j, g)| j == job && *g == generation)
    }

    /// The process is to end: its group checkpoints and re-forms without it.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`Interrupt::drain`] was asked.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

fn covers(barred: Option<&(JobId, Generation)>, job: &JobId, generation: Generation) -> bool {
    barred.is_some_and(|(j, g)| j == job && generation <= *g)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barring_a_generation_bars_all_before_it_and_none_after() {
        let interrupt = Interrupt::default();
        let job: JobId = "demo-1".parse().unwrap();
        interrupt.bar(&job, Generation(3));
        assert_eq!(interrupt.check(&job, Generation(2)), Err(Barred(Generation(2))));
        assert_eq!(interrupt.check(&job, Generation(3)), Err(Barred(Generation(3))));
        assert_eq!(interrupt.check(&job, Generation(4)), Ok(()));
        interrupt.bar(&job, Generation(1));
        assert!(interrupt.check(&job, Generation(3)).is_err(), "a late, older order takes nothing back");
        assert!(interrupt.enter(&job, Generation(3)).is_err());
        let other: JobId = "other-1".parse().unwrap();
        assert_eq!(interrupt.check(&other, Generation(1)), Ok(()));
    }

    #[test]
    fn a_group_is_aborted_by_its_own_generation_and_by_newer_ones() {
        let interrupt = Interrupt::default();
        let job: JobId = "demo-1".parse().unwrap();
        let abort = interrupt.enter(&job, Generation(4)).unwrap();
        interrupt.bar(&job, Generation(3));
        assert!(!abort.is_aborted());
        interrupt.bar(&job, Generation(4));
        assert!(abort.is_aborted());
    }

    #[test]
    fn a_stop_is_for_one_generation() {
        let interrupt = Interrupt::default();
        let job: JobId = "demo-1".parse().unwrap();
        interrupt.stop(&job, Generation(2));
        assert!(interrupt.stop_asked(&job, Generation(2)));
        assert!(!interrupt.stop_asked(&job, Generation(3)));
    }
}
