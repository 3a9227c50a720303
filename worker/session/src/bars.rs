//! Which generations are given up, so that a training thread inside a group can be got out of it.
//!
//! The training thread enters the group it is about to form, with a handle by which it can be aborted; the session
//! bars generations, and gets the handle of the group that is hit. Generations only grow, so barring one bars all before it.

use cappa_shared::ids::{Generation, JobId};
use thiserror::Error;

/// The generation was given up, by the coordinator or for a newer one.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("generation {0} was given up")]
pub struct Barred(pub Generation);

/// What is given up, and what is to stop. `H` aborts a group.
#[derive(Debug)]
pub struct Bars<H> {
    group: Option<(JobId, Generation, H)>,
    barred: Option<(JobId, Generation)>,
    stop: Option<(JobId, Generation)>,
    ending: Option<String>,
}

impl<H> Default for Bars<H> {
    fn default() -> Self {
        Self { group: None, barred: None, stop: None, ending: None }
    }
}

impl<H> Bars<H> {
    /// The training thread is about to form the group of a generation, which `abort` aborts.
    ///
    /// # Errors
    /// [`Barred`] when the generation was given up already.
    pub fn enter(&mut self, job: &JobId, generation: Generation, abort: H) -> Result<(), Barred> {
        self.check(job, generation)?;
        self.group = Some((job.clone(), generation, abort));
        Ok(())
    }

    /// The training thread is out of its group.
    pub fn leave(&mut self) {
        self.group = None;
    }

    /// Whether work on the generation is in vain.
    ///
    /// # Errors
    /// [`Barred`] when it is.
    pub fn check(&self, job: &JobId, generation: Generation) -> Result<(), Barred> {
        match covers(self.barred.as_ref(), job, generation) {
            true => Err(Barred(generation)),
            false => Ok(()),
        }
    }

    /// Gives up a generation and all before it. Returns how to abort the group that is hit; who calls it
    /// holds no lock, as an abort may wait for the engine's own threads.
    #[must_use]
    pub fn bar(&mut self, job: &JobId, generation: Generation) -> Option<H> {
        if covers(self.barred.as_ref(), job, generation) {
            return None;
        }
        self.barred = Some((job.clone(), generation));
        let hit = self.group.take_if(|(at, current, _)| at != job || *current <= generation);
        hit.map(|(_, _, abort)| abort)
    }

    /// Asks the group of the generation to checkpoint and stop at the end of a step.
    pub fn stop(&mut self, job: &JobId, generation: Generation) {
        self.stop = Some((job.clone(), generation));
    }

    /// Whether [`Bars::stop`] was asked of this generation.
    pub fn stop_asked(&self, job: &JobId, generation: Generation) -> bool {
        self.stop.as_ref().is_some_and(|(j, g)| j == job && *g == generation)
    }

    /// The process is to end, for this reason: its group checkpoints and re-forms without it. The first reason stays.
    pub fn drain(&mut self, reason: &str) {
        self.ending.get_or_insert_with(|| reason.to_owned());
    }

    /// Whether [`Bars::drain`] was asked.
    pub fn draining(&self) -> bool {
        self.ending.is_some()
    }

    /// Why the process is to end, if it is.
    pub fn ending(&self) -> Option<&str> {
        self.ending.as_deref()
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
        let mut bars = Bars::<()>::default();
        let job: JobId = "demo-1".parse().unwrap();
        assert_eq!(bars.bar(&job, Generation(3)), None);
        assert_eq!(bars.check(&job, Generation(2)), Err(Barred(Generation(2))));
        assert_eq!(bars.check(&job, Generation(3)), Err(Barred(Generation(3))));
        assert_eq!(bars.check(&job, Generation(4)), Ok(()));
        assert_eq!(bars.bar(&job, Generation(1)), None);
        assert!(bars.check(&job, Generation(3)).is_err(), "a late, older order takes nothing back");
        assert!(bars.enter(&job, Generation(3), ()).is_err());
        let other: JobId = "other-1".parse().unwrap();
        assert_eq!(bars.check(&other, Generation(1)), Ok(()));
    }

    #[test]
    fn a_group_is_aborted_by_its_own_generation_and_by_newer_ones() {
        let mut bars = Bars::default();
        let job: JobId = "demo-1".parse().unwrap();
        bars.enter(&job, Generation(4), "group").unwrap();
        assert_eq!(bars.bar(&job, Generation(3)), None);
        assert_eq!(bars.bar(&job, Generation(4)), Some("group"));
    }

    #[test]
    fn a_stop_is_for_one_generation() {
        let mut bars = Bars::<()>::default();
        let job: JobId = "demo-1".parse().unwrap();
        bars.stop(&job, Generation(2));
        assert!(bars.stop_asked(&job, Generation(2)));
        assert!(!bars.stop_asked(&job, Generation(3)));
    }
}
