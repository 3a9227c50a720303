//! The lease: objects `coordinator/lease/<term>.json`, of which the highest term counts.
//!
//! A term is taken by a conditional create of its object, which one of several succeeds in. From then on its holder alone writes
//! it, over and over: that is the renewal. No clocks are compared: who waits looks whether the object has changed (see
//! [`Candidate`](super::Candidate)).

use std::time::Duration;

use cappa_shared::storage::{Location, StorageError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Addresses, Leader};
use crate::log::FORMAT;

const FOLDER: &str = "coordinator/lease";

/// A holder renews so many times before others may think that it is gone.
const RENEWALS: u32 = 3;

/// So long after its newest renewal a holder that can't renew it, which is some expiries, takes it that another leads. Shorter leases
/// than most are late whenever a disk is.
const DOUBTED: Duration = Duration::from_secs(5);

/// A lease in the hands of this process.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Location,
    term: u64,
    content: Content,
    expiry: Duration,
    renewed: watch::Sender<Instant>,
}

/// A lease that is renewed in a task of its own, however long its holder is busy. Dropping it leaves it to lapse.
#[derive(Debug)]
pub(crate) struct Held {
    leader: Leader,
    renewals: Renewals,
    keeping: JoinHandle<Lease>,
    stop: DropGuard,
}

impl Held {
    /// Its holder.
    pub(crate) fn leader(&self) -> &Leader {
        &self.leader
    }

    /// When it is renewed.
    pub(crate) fn renewals(&self) -> Renewals {
        self.renewals.clone()
    }

    /// Waits until another has taken it; then it can't be released.
    pub(crate) async fn lost(&mut self) {
        joined((&mut self.keeping).await);
    }

    /// Gives it back, so that another need not wait.
    pub(crate) async fn release(self) {
        let Self { keeping, stop, .. } = self;
        drop(stop);
        joined(keeping.await).release().await;
    }
}

/// The renewals of a lease, as its holder makes them.
#[derive(Debug, Clone)]
pub(crate) struct Renewals {
    newest: watch::Receiver<Instant>,
    patience: Duration,
}

impl Renewals {
    /// Waits until the newest is so long ago that others may well have taken the lease; gives how long.
    pub(crate) async fn doubted(&mut self) -> Duration {
        loop {
            let newest = *self.newest.borrow_and_update();
            tokio::time::sleep_until(newest + self.patience).await;
            if *self.newest.borrow() == newest {
                return newest.elapsed();
            }
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if self.newest.changed().await.is_err() {
            // There is none any more: whoever waits for the lease's end hears of it.
            std::future::pending::<()>().await;
        }
    }
}

fn joined(kept: Result<Lease, tokio::task::JoinError>) -> Lease {
    kept.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    /// `host:port` of the holder's gRPC.
    pub(super) grpc: String,
    /// `host:port` of its HTTP.
    pub(super) http: String,
    /// Its program.
    pub(super) version: String,
    /// The newest format of event logs that it reads, which it writes.
    pub(super) format: u32,
    /// Grows with every renewal.
    pub(super) renewals: u64,
    /// The holder has given it back.
    pub(super) released: bool,
}

/// A lease as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) term: u64,
    /// None when it can't be read: a newer program's, or damaged.
    pub(super) content: Option<Content>,
}

impl Seen {
    pub(super) fn leader(&self) -> Option<Leader> {
        let content = self.content.as_ref().filter(|content| !content.released)?;
        Some(Leader::new(Addresses { grpc: content.grpc.clone(), http: content.http.clone() }, self.term))
    }
}

fn path(term: u64) -> String {
    format!("{FOLDER}/{term:012}.json")
}

impl Lease {
    /// Takes the term; none when another was quicker.
    pub(super) async fn take(
        store: &Location,
        term: u64,
        here: Addresses,
        expiry: Duration,
    ) -> Result<Option<Self>, StorageError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let Addresses { grpc, http } = here;
        let content = Content { grpc, http, version, format: FORMAT, renewals: 0, released: false };
        let renewed = watch::Sender::new(Instant::now());
        match store.put_if_absent(&path(term), json(&content)).await {
            Ok(()) => {}
            Err(StorageError::AlreadyExists { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        // Whoever was held up since it looked may have created the object of a term that is long past.
        if newest(store).await? != Some(term) {
            return Ok(None);
        }
        Ok(Some(Self { store: store.clone(), term, content, expiry, renewed }))
    }

    /// Renews it from now on.
    pub(crate) fn hold(mut self) -> Held {
        let addresses = Addresses { grpc: self.content.grpc.clone(), http: self.content.http.clone() };
        let leader = Leader::new(addresses, self.term);
        let stop = CancellationToken::new();
        let (stopped, limit) = (stop.clone(), self.expiry);
        let renewals = Renewals { newest: self.renewed.subscribe(), patience: DOUBTED.max(self.expiry * 2) };
        let keeping = tokio::spawn(async move {
            // A renewal that hangs keeps nobody for longer than the lease would take to lapse.
            let hangs = async {
                stopped.cancelled().await;
                tokio::time::sleep(limit).await;
            };
            tokio::select! {
                biased;
                () = self.keep(&stopped) => {}
                () = hangs => {}
            }
            self
        });
        Held { leader, renewals, keeping, stop: stop.drop_guard() }
    }

    /// Renews it until that is stopped or somebody has taken it. A renewal that is under way is not broken off: it could still
    /// come through after the lease was given back, and would undo that. A store that fails is asked again: without the
    /// lease the log is as safe, and somebody else can't take it over there either.
    async fn keep(&mut self, stopped: &CancellationToken) {
        stopped.run_until_cancelled(self.clear_away()).await;
        while stopped.run_until_cancelled(tokio::time::sleep(self.expiry / RENEWALS)).await.is_some() {
            let was_late = self.renewed.borrow().elapsed() > self.expiry;
            match self.renew(was_late).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(term = self.term, "another coordinator has taken the lease");
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the lease can't be renewed; tried again");
                }
            }
        }
    }

    /// False when another has taken it, which is looked after if this is late.
    async fn renew(&mut self, is_late: bool) -> Result<bool, StorageError> {
        if is_late && newest(&self.store).await?.is_some_and(|newest| newest > self.term) {
            return Ok(false);
        }
        let begun = Instant::now();
        self.content.renewals += 1;
        self.store.put(&path(self.term), json(&self.content)).await?;
        self.renewed.send_replace(begun);
        Ok(true)
    }

    async fn release(mut self) {
        self.content.released = true;
        if let Err(error) = self.store.put(&path(self.term), json(&self.content)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the lease can't be given back; it lapses");
        }
    }

    /// Deletes the terms before. What is left does no harm.
    async fn clear_away(&self) {
        let Ok(terms) = terms(&self.store).await else { return };
        for term in terms.into_iter().filter(|term| *term < self.term) {
            if let Err(error) = self.store.delete(&path(term)).await {
                tracing::debug!(error = &error as &dyn std::error::Error, term, "an old lease stays");
            }
        }
    }
}

/// The lease of the highest term; none where nobody has led yet.
pub(super) async fn look(store: &Location) -> Result<Option<Seen>, StorageError> {
    loop {
        let Some(term) = newest(store).await? else { return Ok(None) };
        if let Some(seen) = look_at(store, term).await? {
            return Ok(Some(seen));
        }
    }
}

/// The lease of this term; none when its successor has cleared it away.
pub(super) async fn look_at(store: &Location, term: u64) -> Result<Option<Seen>, StorageError> {
    match store.get(&path(term)).await {
        Ok(content) => Ok(Some(Seen { term, content: serde_json::from_slice(&content).ok() })),
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn newest(store: &Location) -> Result<Option<u64>, StorageError> {
    Ok(terms(store).await?.into_iter().max())
}

async fn terms(store: &Location) -> Result<Vec<u64>, StorageError> {
    let number = |path: &str| path.strip_suffix(".json")?.parse().ok();
    Ok(store.list(FOLDER).await?.iter().filter_map(|file| number(&file.path)).collect())
}

fn json(content: &Content) -> Vec<u8> {
    serde_json::to_vec(content).expect("a lease is JSON")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use cappa_shared::storage::faults::{Fault, Faulty, Operation};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use tokio::sync::Notify;

    use super::*;

    /// Holds up a renewal, which goes on when nobody waits for it any more, as a write to a disk does on a thread of its own.
    #[derive(Debug, Default)]
    struct HeldUp {
        store: Arc<InMemory>,
        is_next: AtomicBool,
        begun: Notify,
        goes_on: Arc<Notify>,
    }

    #[async_trait]
    impl Fault for HeldUp {
        async fn before(&self, operation: Operation, path: &Path) -> object_store::Result<()> {
            if operation != Operation::Put || !self.is_next.swap(false, Ordering::Relaxed) {
                return Ok(());
            }
            let (store, path, goes_on) = (self.store.clone(), path.clone(), self.goes_on.clone());
            let write = tokio::spawn(async move {
                let content = store.get(&path).await?.bytes().await?;
                goes_on.notified().await;
                store.put(&path, content.into()).await.map(drop)
            });
            self.begun.notify_one();
            write.await.expect("it does not panic")
        }
    }

    /// A lease whose first renewal is held up.
    async fn renewing(expiry: Duration) -> (Held, Location, Arc<HeldUp>) {
        let fault = Arc::<HeldUp>::default();
        let faulty = Faulty::new(fault.store.clone(), fault.clone());
        let store = Location::new(faulty, Path::default(), "memory:///");
        let here = Addresses { grpc: "first:1".into(), http: "first:2".into() };
        let lease = Lease::take(&store, 1, here, expiry).await.unwrap().expect("nobody holds it");
        fault.is_next.store(true, Ordering::Relaxed);
        let held = lease.hold();
        fault.begun.notified().await;
        (held, store, fault)
    }

    async fn is_given_back(store: &Location) -> bool {
        look(store).await.unwrap().expect("it was taken").leader().is_none()
    }

    #[tokio::test]
    async fn a_lease_is_given_back_after_the_renewal_that_is_under_way() {
        let (held, store, renewal) = renewing(Duration::from_secs(3)).await;
        let release = tokio::spawn(held.release());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!release.is_finished(), "the renewal comes later and undoes that");
        renewal.goes_on.notify_one();
        release.await.unwrap();
        assert!(is_given_back(&store).await);
    }

    #[tokio::test]
    async fn a_renewal_that_hangs_does_not_keep_a_lease_from_being_given_back() {
        let (held, store, _renewal) = renewing(Duration::from_millis(300)).await;
        tokio::time::timeout(Duration::from_secs(20), held.release()).await.expect("it ends");
        assert!(is_given_back(&store).await);
    }
}
