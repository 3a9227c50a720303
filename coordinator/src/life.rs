//! The life of a coordinator: it follows, it leads, it ends. The way to its loop, the open calls and the curves stay the same
//! when it comes to lead; who has led does not follow again, but ends: what it believes may be out of date in every part. Only as long as
//! it can't know whether it still leads it stands aside.

use std::convert::Infallible;
use std::time::Duration;

use cappa_core::{Command, Core, JobId};
use cappa_wire::Limits;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::curves::Curves;
use crate::driver::{Driver, Followed, Follower, Known, Mailbox, Reconciler, Recovered, Rules, recover};
use crate::leadership::{Candidate, Held, Leader, Renewals, Role};
use crate::log::{EventLog, LogError, Tail};
use crate::metrics::Durations;
use crate::server::{Shared, abandoned};
use crate::sessions::Sessions;

/// What a coordinator is besides its log.
pub(crate) struct Life {
    pub(crate) candidate: Candidate,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    pub(crate) shared: Shared,
    pub(crate) sessions: Sessions,
    pub(crate) roles: watch::Sender<Role>,
    pub(crate) mailbox: Mailbox,
    /// Ends the loop.
    pub(crate) stop: CancellationToken,
}

/// The lease, and the log open for appending.
pub(crate) struct Office {
    lease: Held,
    recovered: Recovered,
    /// How long nobody has led.
    after: Option<Duration>,
    /// Whether it has followed before.
    has_followed: bool,
}

/// The lease, and how long nobody has held it.
type Won = (Held, Option<Duration>);

impl Life {
    /// Comes to lead if nobody does.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub(crate) async fn take_office_if_free(&self) -> Result<Option<Office>, LogError> {
        match self.candidate.take_if_free().await? {
            Some(lease) => Ok(Some(Box::pin(self.take_office(lease, None, None)).await?)),
            None => Ok(None),
        }
    }

    /// Follows unless it leads already, then leads, until it is stopped.
    ///
    /// # Errors
    /// [`LogError::Fenced`] when another has taken over, and what else the log meets.
    pub(crate) async fn run(mut self, office: Option<Office>) -> Result<(), LogError> {
        let office = match office {
            Some(office) => office,
            None => match Box::pin(self.follow()).await? {
                Some(((lease, after), known)) => Box::pin(self.take_office(lease, after, Some(known))).await?,
                None => return Ok(()),
            },
        };
        Box::pin(self.lead(office)).await
    }

    /// Returns with the lease and what it knows, or with nothing when it was stopped before.
    async fn follow(&mut self) -> Result<Option<(Won, Box<Known>)>, LogError> {
        let (candidate, roles) = (self.candidate.clone(), self.roles.clone());
        // In a task of its own: a long log that is being read doesn't keep it from looking.
        let mut waiting = tokio::spawn(async move { candidate.wait(&roles).await });
        let stop = self.stop.clone();
        let end = async {
            tokio::select! {
                () = stop.cancelled() => None,
                won = &mut waiting => Some(won),
            }
        };
        tracing::info!("following; another coordinator leads");
        let follower = Follower::new(self.rules.clone());
        let followed = follower.run(Tail::of(&self.candidate.store), &mut self.mailbox, end).await;
        waiting.abort();
        match followed? {
            Followed::Until(Some(won), known) => {
                let won = won.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
                Ok(Some((won, known)))
            }
            Followed::Until(None, _) | Followed::Stopped => Ok(None),
        }
    }

    /// Opens the log, which fences who had it open before. Who has followed reads only what it does not know.
    async fn take_office(
        &self,
        lease: Held,
        silence: Option<Duration>,
        known: Option<Box<Known>>,
    ) -> Result<Office, LogError> {
        let (begun, has_followed) = (Instant::now(), known.is_some());
        match self.open(known).await {
            Ok(recovered) => {
                let after = silence.map(|silence| silence + begun.elapsed());
                Ok(Office { lease, recovered, after, has_followed })
            }
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    async fn open(&self, known: Option<Box<Known>>) -> Result<Recovered, LogError> {
        let store = &self.candidate.store;
        let (log, recalled) = EventLog::open_knowing(store, known.as_ref().map_or(0, |known| known.last())).await?;
        tracing::info!(
            jobs = recalled.jobs.len(), entries = recalled.entries.len(), known = recalled.known, store = %store,
            "event log read"
        );
        let mut recovered = recover(log, recalled, known, self.rules.clone());
        recovered.condense().await?;
        // What was read while following may have grown since.
        self.shared.curves.forget();
        load_curves(&live_curves(&recovered.view.core), &self.shared.curves).await;
        Ok(recovered)
    }

    async fn lead(self, office: Office) -> Result<(), LogError> {
        let Office { mut lease, recovered, after, has_followed } = office;
        let Shared { handle, curves, metrics, tasks, stop, .. } = self.shared;
        let reason = why(self.roles.borrow().leader(), after, has_followed);
        let told = Command::LeaderChanged { leader: lease.leader().at.grpc.clone(), reason };
        // It is the first that the loop hears; nobody else can tell it anything so far.
        let _ = handle.tell(told).await;
        let sessions = self.sessions.clone();
        let reconciler = Reconciler::new(self.sessions, curves, self.limits, handle, tasks, stop);
        let (sure, is_sure) = watch::channel(true);
        let driver = Driver::new(recovered, self.mailbox, reconciler, Durations::new(metrics), is_sure);
        let here = lease.leader().clone();
        tracing::info!(term = here.term, at = here.at.grpc, after = after.map(|after| after.as_secs_f64()), "leads");
        let leads = Role::Leads { here, after };
        self.roles.send_replace(leads.clone());
        let renewals = lease.renewals();
        let ended = tokio::select! {
            ended = driver.run(self.stop) => ended,
            () = lease.lost() => return Err(LogError::Fenced),
            never = step_aside(renewals, &self.roles, &leads, &sessions, &sure) => match never {},
        };
        if !matches!(ended, Err(LogError::Fenced)) {
            lease.release().await;
        }
        ended
    }
}

/// As long as the store is out of reach another coordinator may lead, without this one's hearing of it: workers and clients are to look for
/// it. If there is none they come back, once the lease is renewed, and nobody is taken for lost until then.
async fn step_aside(
    mut renewals: Renewals,
    roles: &watch::Sender<Role>,
    leads: &Role,
    sessions: &Sessions,
    sure: &watch::Sender<bool>,
) -> Infallible {
    loop {
        let seconds = renewals.doubted().await.as_secs_f64();
        tracing::warn!(
            seconds,
            "the lease was not renewed for long: workers and clients are sent to look for another coordinator"
        );
        sure.send_replace(false);
        roles.send_replace(Role::Follows { leader: None });
        sessions.close_all();
        renewals.next().await;
        tracing::info!("the lease is renewed, and no other coordinator has led");
        sure.send_replace(true);
        roles.send_replace(leads.clone());
    }
}

/// Why it is this coordinator that leads.
fn why(former: Option<&Leader>, after: Option<Duration>, has_followed: bool) -> String {
    let former = former.map_or_else(|| "the one before".to_owned(), |former| format!("the one at {}", former.at.grpc));
    match after {
        Some(after) => format!("{former} was not heard for {:.1} s", after.as_secs_f64()),
        None if has_followed => format!("{former} has handed over"),
        None => "it has started, and no other led".to_owned(),
    }
}

/// Where the curve of a job lies, and which of its points are given up.
type CurveOf = (JobId, String, Option<(u64, u64)>);

fn live_curves(core: &Core) -> Vec<CurveOf> {
    let live = core.state().live_jobs().filter(|job| !job.has_ended());
    live.map(|job| (job.id.clone(), job.submission.folder.clone(), abandoned(job))).collect()
}

/// The curves of jobs that are not over are needed before the first worker reports.
async fn load_curves(live: &[CurveOf], curves: &Curves) {
    for (job, folder, abandoned) in live {
        if let Err(error) = curves.load(job, folder, *abandoned).await {
            tracing::warn!(%job, error = &error as &dyn std::error::Error, "the curve can't be read");
        }
    }
}

/// Reads what the leader has added to the curves of jobs that are not over.
pub(crate) async fn follow_curves(shared: &Shared) {
    if let Ok(live) = shared.handle.read(|view| live_curves(&view.core)).await {
        load_curves(&live, &shared.curves).await;
    }
}
