//! Ending a group from another thread, also while it is still forming.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::group::RawGroup;

/// Ends one group, from any thread and at any time: before it forms, while it forms, in the middle of an
/// operation. The thread that is blocked in it returns [`Error::Aborted`] at once. Clones act on the same
/// group; a group of another generation takes another handle.
///
/// What cannot be interrupted is left behind: connecting to a peer that vanished while the group formed ends
/// by itself on a thread of its own, within [`crate::Timeouts::form`].
#[derive(Debug, Clone, Default)]
pub struct AbortHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unformed,
    Done(Result<Arc<RawGroup>>),
    Formed(Weak<RawGroup>),
    Aborted,
}

impl AbortHandle {
    /// A handle for a group that is to be formed.
    pub fn new() -> AbortHandle {
        AbortHandle::default()
    }

    /// Ends the group. Peers see their connections to this rank end. Doing it twice is harmless.
    pub fn abort(&self) {
        let before = std::mem::replace(&mut *self.lock(), State::Aborted);
        self.0.changed.notify_all();
        match before {
            State::Formed(group) => {
                if let Some(group) = group.upgrade() {
                    group.abort();
                }
            }
            State::Done(Ok(group)) => group.abort(),
            State::Unformed | State::Done(Err(_)) | State::Aborted => {}
        }
    }

    /// Whether [`AbortHandle::abort`] was called.
    pub fn is_aborted(&self) -> bool {
        matches!(*self.lock(), State::Aborted)
    }

    /// Runs `form` on a thread of its own and waits for its group or for the order to abort.
    pub(crate) fn form(&self, form: impl FnOnce() -> Result<RawGroup> + Send + 'static) -> Result<Arc<RawGroup>> {
        if self.is_aborted() {
            return Err(Error::Aborted);
        }
        let handle = self.clone();
        std::thread::Builder::new()
            .name("form-group".to_owned())
            .spawn(move || handle.deliver(form().map(Arc::new)))
            .map_err(|e| Error::Collective(format!("no thread to form the group on: {e}")))?;
        let mut state = self.lock();
        while matches!(*state, State::Unformed) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::replace(&mut *state, State::Aborted) {
            State::Done(Ok(group)) => {
                *state = State::Formed(Arc::downgrade(&group));
                Ok(group)
            }
            State::Done(Err(error)) => Err(error),
            State::Unformed | State::Formed(_) | State::Aborted => Err(Error::Aborted),
        }
    }

    fn deliver(&self, formed: Result<Arc<RawGroup>>) {
        let mut state = self.lock();
        if matches!(*state, State::Unformed) {
            *state = State::Done(formed);
            self.0.changed.notify_all();
            return;
        }
        drop(state);
        if let Ok(group) = formed {
            group.abort(); // nobody waits for it any more; its peers must not either
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of state is one assignment, so a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
