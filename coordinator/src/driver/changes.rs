//! Who follows a job is woken by what happens to it, and not by what happens to any: with a hundred jobs on their way at once,
//! each of them followed, the latter is ten thousand looks for a hundred changes.

use std::collections::HashMap;
use std::sync::Arc;

use cappa_core::JobId;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The jobs that somebody follows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes(Arc<Mutex<HashMap<JobId, watch::Sender<()>>>>);

impl Changes {
    /// What happens to the job from now on.
    pub(crate) fn of(&self, job: &JobId) -> Following {
        let mut followed = self.0.lock();
        let news = followed.entry(job.clone()).or_default().subscribe();
        Following { job: job.clone(), news, changes: self.clone() }
    }

    /// Something has happened to the job, and who looks sees it.
    pub(super) fn tell(&self, job: &JobId) {
        if let Some(followers) = self.0.lock().get(job) {
            followers.send_replace(());
        }
    }

    /// Something may have happened to any job.
    pub(super) fn tell_all(&self) {
        self.0.lock().values().for_each(|followers| followers.send_replace(()));
    }
}

/// Somebody who follows a job.
#[derive(Debug)]
pub(crate) struct Following {
    job: JobId,
    news: watch::Receiver<()>,
    changes: Changes,
}

impl Following {
    /// Forgets what has happened so far: who is about to look sees it.
    pub(crate) fn looks(&mut self) {
        self.news.mark_unchanged();
    }

    /// Returns once something has happened since the last look, or the last return. Nothing is lost when it is cancelled.
    pub(crate) async fn changed(&mut self) {
        // The other end is there for as long as anybody follows the job.
        let _ = self.news.changed().await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followed = self.changes.0.lock();
        if followed.get(&self.job).is_some_and(|followers| followers.receiver_count() <= 1) {
            followed.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn who_follows_a_job_hears_of_it_alone_and_is_forgotten_when_gone() {
        let changes = Changes::default();
        let [ours, other] = ["ours-1", "other-1"].map(JobId::from);
        let (mut following, beside) = (changes.of(&ours), changes.of(&ours));
        changes.tell(&other);
        assert!(following.changed().now_or_never().is_none());
        changes.tell(&ours);
        following.looks();
        assert!(following.changed().now_or_never().is_none(), "a look has seen it");
        changes.tell(&ours);
        assert!(following.changed().now_or_never().is_some());
        changes.tell_all();
        assert!(following.changed().now_or_never().is_some());

        drop(beside);
        changes.tell(&ours);
        assert!(following.changed().now_or_never().is_some(), "one is left");
        drop(following);
        assert!(changes.0.lock().is_empty());
    }
}
