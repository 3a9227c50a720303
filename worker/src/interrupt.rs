//! How the session stops a training thread that is blocked inside a collective.
//!
//! The training thread takes an abort handle for the group it is about to form; the session bars
//! generations ([`Bars`]). A barred group is aborted from the session's thread, what is in flight fails, and the
//! training thread leaves with its state.

use cappa_collective::AbortHandle;
use cappa_session::{Barred, Bars};
use cappa_shared::ids::{Generation, JobId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Shared by the session (which bars and stops) and the training thread (which enters and asks).
#[derive(Default)]
pub(crate) struct Interrupt {
    bars: Mutex<Bars<AbortHandle>>,
    asked_to_end: Notify,
}

impl Interrupt {
    /// The bars. No other lock is taken and no group aborted while they are held.
    pub(crate) fn bars(&self) -> MutexGuard<'_, Bars<AbortHandle>> {
        self.bars.lock()
    }

    /// The training thread is about to form the group of a generation, with the handle that comes back.
    pub(crate) fn enter(&self, job: &JobId, generation: Generation) -> Result<AbortHandle, Barred> {
        let abort = AbortHandle::new();
        self.bars().enter(job, generation, abort.clone())?;
        Ok(abort)
    }

    /// Whether work on the generation is in vain.
    pub(crate) fn check(&self, job: &JobId, generation: Generation) -> Result<(), Barred> {
        self.bars().check(job, generation)
    }

    /// Whether the generation was asked to checkpoint and stop.
    pub(crate) fn stop_asked(&self, job: &JobId, generation: Generation) -> bool {
        self.bars().stop_asked(job, generation)
    }

    /// Whether the process is to end.
    pub(crate) fn draining(&self) -> bool {
        self.bars().draining()
    }

    /// Why the process is to end, if it is.
    pub(crate) fn ending(&self) -> Option<String> {
        self.bars().ending().map(str::to_owned)
    }

    /// Wakes who waits for the process to be asked to end by the coordinator.
    pub(crate) fn wake(&self) {
        self.asked_to_end.notify_one();
    }

    /// Resolves once the coordinator has asked the process to end, with the reason.
    pub(crate) async fn asked_to_end(&self) -> String {
        loop {
            if let Some(reason) = self.ending() {
                return reason;
            }
            self.asked_to_end.notified().await;
        }
    }
}
