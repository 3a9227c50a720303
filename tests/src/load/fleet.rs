//! All simulated workers, and who takes the place of one that was killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::worker::{Surroundings, Worker};

/// A killed worker's place is empty for so long.
const RESTART: Duration = Duration::from_secs(2);

/// The processes by place.
pub(crate) struct Fleet {
    around: Arc<Surroundings>,
    places: Mutex<Vec<Arc<Worker>>>,
    started: AtomicU64,
}

impl Fleet {
    /// Starts so many workers.
    pub(crate) fn start(around: Surroundings, workers: usize) -> Arc<Self> {
        let fleet = Arc::new(Self {
            around: Arc::new(around),
            places: Mutex::new(Vec::with_capacity(workers)),
            started: AtomicU64::new(0),
        });
        for place in 0..workers {
            let worker = fleet.process(place);
            fleet.places.lock().push(worker);
        }
        fleet
    }

    fn process(&self, place: usize) -> Arc<Worker> {
        let incarnation = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let worker = Worker::new(place, incarnation);
        tokio::spawn(Arc::clone(&worker).live(Arc::clone(&self.around)));
        worker
    }

    /// What the workers share.
    pub(crate) fn around(&self) -> &Surroundings {
        &self.around
    }

    /// Another process comes in the place of this one, which is killed if it hangs, `after` a while.
    pub(crate) fn replace(self: &Arc<Self>, worker: &Worker, after: Duration) {
        let (fleet, id) = (Arc::clone(self), worker.id().to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let Some(place) = fleet.places.lock().iter().position(|worker| worker.id() == id) else { return };
            let old = Arc::clone(&fleet.places.lock()[place]);
            old.kill();
            tokio::time::sleep(RESTART).await;
            let new = fleet.process(place);
            fleet.places.lock()[place] = new;
        });
    }

    /// Ends all of them.
    pub(crate) fn end(&self) {
        self.places.lock().iter().for_each(|worker| worker.kill());
    }
}
