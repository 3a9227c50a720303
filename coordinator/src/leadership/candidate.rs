//! Waiting for the lease: it is free, given back, or unchanged for as long as its holder would not have let it be.

use std::time::Duration;

use cappa_shared::storage::{Location, StorageError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::{self, Held, Lease, Seen};
use super::{Addresses, Role};
use crate::log::{FORMAT, LogError};

/// Looks while a lease may lapse.
const LOOKS: u32 = 12;

/// A coordinator that would lead.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) store: Location,
    pub(crate) here: Addresses,
    /// How long a lease stays unchanged before it has lapsed.
    pub(crate) expiry: Duration,
}

impl Candidate {
    /// Takes the lease if nobody holds it, or if who does had the address that is ours now, so that it can't live any more.
    ///
    /// # Errors
    /// [`LogError::Store`], and [`LogError::Format`] when a newer program has led.
    pub(crate) async fn take_if_free(&self) -> Result<Option<Held>, LogError> {
        let seen = lease::look(&self.store).await.map_err(LogError::Store)?;
        let Some(seen) = seen else { return self.take(1).await.map_err(LogError::Store) };
        check_format(&seen)?;
        let is_free = seen.leader().is_none_or(|leader| leader.at.grpc == self.here.grpc);
        if is_free && seen.content.is_some() {
            return self.take(seen.term + 1).await.map_err(LogError::Store);
        }
        Ok(None)
    }

    /// Waits until the lease can be taken and takes it; tells meanwhile who leads. Returns with it how long nobody was heard
    /// to lead, unless the lease was given back.
    ///
    /// # Errors
    /// [`LogError::Format`]: who leads is a newer program, and this one can't read what it writes.
    pub(crate) async fn wait(&self, roles: &watch::Sender<Role>) -> Result<(Held, Option<Duration>), LogError> {
        let mut watched = Watched::new(self.expiry);
        let mut last = None;
        loop {
            match self.look(last.as_ref()).await {
                Ok(seen) => {
                    seen.as_ref().map_or(Ok(()), check_format)?;
                    let leader = seen.as_ref().and_then(Seen::leader);
                    let is_given_back = leader.is_none() && seen.as_ref().is_none_or(|seen| seen.content.is_some());
                    roles.send_if_modified(|role| {
                        let now = Role::Follows { leader };
                        let is_news = *role != now;
                        *role = now;
                        is_news
                    });
                    let silence = watched.silence(Instant::now(), seen.as_ref());
                    if is_given_back || silence > self.expiry {
                        match self.take(seen.as_ref().map_or(1, |seen| seen.term + 1)).await {
                            Ok(Some(lease)) => return Ok((lease, (!is_given_back).then_some(silence))),
                            // Another was quicker: who it is is looked up anew.
                            Ok(None) => last = None,
                            Err(error) => warn(&error),
                        }
                    } else {
                        last = seen;
                    }
                }
                Err(error) => warn(&error),
            }
            tokio::time::sleep(self.expiry / LOOKS).await;
        }
    }

    /// One read as long as the same one leads.
    async fn look(&self, last: Option<&Seen>) -> Result<Option<Seen>, StorageError> {
        if let Some(last) = last
            && let Some(seen) = lease::look_at(&self.store, last.term).await?
        {
            return Ok(Some(seen));
        }
        lease::look(&self.store).await
    }

    async fn take(&self, term: u64) -> Result<Option<Held>, StorageError> {
        let taken = Lease::take(&self.store, term, self.here.clone(), self.expiry).await?;
        Ok(taken.map(Lease::hold))
    }
}

fn warn(error: &StorageError) {
    tracing::warn!(error = error as &dyn std::error::Error, "the lease can't be looked at; tried again");
}

/// Refuses to succeed a newer program, whose log can't be read here.
fn check_format(seen: &Seen) -> Result<(), LogError> {
    match &seen.content {
        Some(content) if content.format > FORMAT => {
            Err(LogError::Format { found: content.format, written_by: content.version.clone() })
        }
        _ => Ok(()),
    }
}

/// For how long a lease has been seen unchanged, by this process's clock alone.
#[derive(Debug)]
struct Watched {
    expiry: Duration,
    /// What was seen last, when it was seen first, and when last.
    seen: Option<(Seen, Instant, Instant)>,
}

impl Watched {
    fn new(expiry: Duration) -> Self {
        Self { expiry, seen: None }
    }

    /// For how long what is seen now has been the same. A watch that was itself held up begins anew: its holder may have
    /// been held up with it.
    fn silence(&mut self, now: Instant, seen: Option<&Seen>) -> Duration {
        let Some(seen) = seen else { return Duration::ZERO };
        match &mut self.seen {
            Some((before, since, looked)) if before == seen && now - *looked < self.expiry / 2 => {
                *looked = now;
                now - *since
            }
            _ => {
                self.seen = Some((seen.clone(), now, now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::path::Path as ObjectPath;

    use super::*;

    fn candidate(store: &Location, name: &str) -> Candidate {
        let here = Addresses { grpc: format!("{name}:1"), http: format!("{name}:2") };
        Candidate { store: store.clone(), here, expiry: Duration::from_millis(300) }
    }

    fn store(folder: &tempfile::TempDir) -> Location {
        cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap()
    }

    fn roles() -> watch::Sender<Role> {
        watch::channel(Role::Follows { leader: None }).0
    }

    #[tokio::test]
    async fn of_many_that_wait_for_a_free_lease_one_leads() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let tries = (0..20)
            .map(|n| candidate(&store, &format!("c{n}")))
            .map(|candidate| tokio::spawn(async move { candidate.take_if_free().await.unwrap() }));
        let taken = futures::future::join_all(tries).await;
        let held: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(held.len(), 1);
    }

    /// In memory: a disk that takes longer for one write than this short lease lasts would let it lapse, rightly. Holder and
    /// candidate share this test's one thread, so that a slow machine holds up both.
    #[tokio::test]
    async fn a_lease_that_is_renewed_is_never_taken_and_one_that_is_not_is_taken_soon() {
        let store = Location::new(Arc::new(InMemory::new()), ObjectPath::default(), "memory:///");
        let held = candidate(&store, "first").take_if_free().await.unwrap().expect("nobody holds it");
        let (second, told) = (candidate(&store, "second"), roles());
        assert!(second.take_if_free().await.unwrap().is_none());
        let waited = tokio::time::timeout(Duration::from_secs(2), second.wait(&told)).await;
        assert!(waited.is_err(), "taken from a living holder");
        assert_eq!(told.borrow().leader().map(|leader| leader.at.grpc.clone()), Some("first:1".into()));
        drop(held);
        let waited = tokio::time::timeout(Duration::from_secs(20), second.wait(&told)).await;
        let (lease, silence) = waited.expect("a lease that lapsed is taken").unwrap();
        assert!(silence.is_some_and(|silence| silence > second.expiry), "{silence:?}");
        assert_eq!(lease.leader().term, 2);
    }

    #[tokio::test]
    async fn a_lease_that_is_given_back_is_taken_at_once_and_its_old_holder_hears_of_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let held = candidate(&store, "first").take_if_free().await.unwrap().unwrap();
        held.release().await;
        let (mut second, silence) = candidate(&store, "second").wait(&roles()).await.unwrap();
        assert!(silence.is_none());
        // As if the second had been held up for longer than a lease lasts.
        let third = Lease::take(&store, 3, candidate(&store, "third").here, Duration::from_secs(60)).await.unwrap();
        assert!(third.is_some());
        let late = Lease::take(&store, 2, candidate(&store, "late").here, Duration::from_secs(60)).await.unwrap();
        assert!(late.is_none(), "a term that is past is not taken");
        std::thread::sleep(Duration::from_secs(1));
        let told = tokio::time::timeout(Duration::from_secs(5), second.lost()).await;
        assert!(told.is_ok(), "a holder that was late looks who leads");
    }

    #[tokio::test]
    async fn a_restart_at_the_same_address_need_not_wait_for_its_own_lease() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let killed = candidate(&store, "first").take_if_free().await.unwrap().unwrap();
        drop(killed);
        assert!(candidate(&store, "other").take_if_free().await.unwrap().is_none());
        let again = candidate(&store, "first").take_if_free().await.unwrap();
        assert_eq!(again.map(|lease| lease.leader().term), Some(2));
    }

    #[tokio::test]
    async fn an_older_program_does_not_succeed_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let newer = serde_json::json!({
            "grpc": "n:1", "http": "n:2", "version": "7.1.0", "format": 9, "renewals": 4, "released": true,
        });
        store.put("coordinator/lease/000000000004.json", newer.to_string()).await.unwrap();
        for refused in
            [candidate(&store, "old").take_if_free().await.err(), candidate(&store, "old").wait(&roles()).await.err()]
        {
            let told = refused.expect("refused").to_string();
            assert!(told.contains("format 9, written by 7.1.0"), "{told}");
        }
    }

    #[test]
    fn a_watch_that_was_held_up_itself_begins_anew() {
        let expiry = Duration::from_secs(3);
        let mut watched = Watched::new(expiry);
        let seen = Seen { term: 1, content: None };
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert_eq!(watched.silence(at(0), Some(&seen)), Duration::ZERO);
        assert_eq!(watched.silence(at(1), Some(&seen)), Duration::from_secs(1));
        assert_eq!(watched.silence(at(60), Some(&seen)), Duration::ZERO, "a suspended machine");
        assert_eq!(watched.silence(at(61), Some(&seen)), Duration::from_secs(1));
        assert_eq!(watched.silence(at(62), Some(&Seen { term: 2, content: None })), Duration::ZERO);
    }
}
