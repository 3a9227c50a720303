//! Ending a group from another thread, also while it is still forming.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::group::RawGroup;

/// Ends one group, from any thread and at any time: before it forms, while its store or its peers are
/// connected to, in the middle of an operation. The thread that is blocked in it returns [`Error::Aborted`] at
/// once. Clones act on the same group; a group of another generation takes another handle.
///
/// What cannot be interrupted is left behind: connecting to a store or a peer that vanished ends by itself,
/// on a thread of its own, at its time limit.
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
        if let State::Formed(group) = before
            && let Some(group) = group.upgrade()
        {
            group.abort();
        }
    }

    /// Whether [`AbortHandle::abort`] was called.
    pub fn is_aborted(&self) -> bool {
        matches!(*self.lock(), State::Aborted)
    }

    /// Forms the group on a thread of its own, until the order to abort.
    pub(crate) fn form(&self, form: impl FnOnce() -> Result<RawGroup> + Send + 'static) -> Result<Arc<RawGroup>> {
        // Nobody waits for a group that comes too late; its peers must not either.
        let group = self.run("form-group", || form().map(Arc::new), |group| group.abort())?;
        let mut state = self.lock();
        if matches!(*state, State::Aborted) {
            drop(state);
            group.abort();
            return Err(Error::Aborted);
        }
        *state = State::Formed(Arc::downgrade(&group));
        Ok(group)
    }

    /// Runs what may block for long on a thread of its own, and waits for its outcome or for the order to
    /// abort, whichever is first. What comes after the order goes to `discard`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
        discard: fn(T),
    ) -> Result<T> {
        if self.is_aborted() {
            return Err(Error::Aborted);
        }
        let outcome = Arc::new(Mutex::new(None));
        let (handle, delivered) = (self.clone(), outcome.clone());
        let deliver = move || {
            let done = work();
            let state = handle.lock();
            if !matches!(*state, State::Aborted) {
                *hold(&delivered) = Some(done);
                handle.0.changed.notify_all();
                return;
            }
            drop(state);
            if let Ok(late) = done {
                discard(late);
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(deliver)
            .map_err(|e| Error::Collective(format!("no thread for {name}: {e}")))?;
        let mut state = self.lock();
        loop {
            let done = hold(&outcome).take();
            match (done, &*state) {
                (Some(Ok(late)), State::Aborted) => {
                    drop(state);
                    discard(late);
                    return Err(Error::Aborted);
                }
                (_, State::Aborted) => return Err(Error::Aborted),
                (Some(done), _) => return done,
                (None, _) => state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        hold(&self.0.state)
    }
}

/// Every change under these locks is one assignment, so a panic elsewhere leaves nothing half done.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
