//! The lease: objects `coordinator/lease/<term>.json`, of which the highest term counts.
//!
//! A term is taken by a conditional create of its object, which one of several succeeds in. From then on its holder alone writes
//! it, over and over: that is the renewal. No clocks are compared: who waits looks whether the object has changed (see
//! [`Candidate`](super::Candidate)).

use std::time::Duration;

use cappa_shared::storage::{Location, StorageError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Addresses, Leader};
use crate::log::FORMAT;

const FOLDER: &str = "coordinator/lease";

/// A holder renews so many times before others may think that it is gone.
const RENEWALS: u32 = 3;

/// A lease in the hands of this process.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Location,
    term: u64,
    content: Content,
    expiry: Duration,
    renewed: Instant,
}

/// A lease that is renewed in a task of its own, however long its holder is busy. Dropping it leaves it to lapse.
#[derive(Debug)]
pub(crate) struct Held {
    leader: Leader,
    keeping: JoinHandle<Lease>,
    stop: DropGuard,
}

impl Held {
    /// Its holder.
    pub(crate) fn leader(&self) -> &Leader {
        &self.leader
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
        let renewed = Instant::now();
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
        let stopped = stop.clone();
        let keeping = tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = self.keep() => {}
            }
            self
        });
        Held { leader, keeping, stop: stop.drop_guard() }
    }

    /// Renews it for as long as nobody has taken it, and returns then. A store that fails is asked again: without the lease
    /// the log is as safe, and somebody else can't take it over there either.
    async fn keep(&mut self) {
        self.clear_away().await;
        loop {
            tokio::time::sleep(self.expiry / RENEWALS).await;
            let was_late = self.renewed.elapsed() > self.expiry;
            if was_late && self.is_lost().await {
                tracing::warn!(term = self.term, "another coordinator has taken the lease");
                return;
            }
            let begun = Instant::now();
            self.content.renewals += 1;
            match self.store.put(&path(self.term), json(&self.content)).await {
                Ok(()) => self.renewed = begun,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the lease can't be renewed; tried again");
                }
            }
        }
    }

    async fn is_lost(&self) -> bool {
        newest(&self.store).await.is_ok_and(|newest| newest.is_some_and(|newest| newest > self.term))
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
