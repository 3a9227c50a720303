//! The whole coordinator: built from a [`Config`], stopped under a deadline.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cappa_core::JobId;
use cappa_proto as proto;
use cappa_proto::jobs_server::JobsServer;
use cappa_proto::workers_server::WorkersServer;
use cappa_shared::storage::{self, Location, StorageError};
use cappa_shared::timing::Timings;
use cappa_wire::Limits;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;

use crate::admission::Admission;
use crate::config::Config;
use crate::curves::Curves;
use crate::driver::{self, Handle, Rules, Stopped};
use crate::facts::Facts;
use crate::http;
use crate::indexing::Indexing;
use crate::leadership::{Addresses, Candidate, RedirectLayer, Role, Roles, ToLeader};
use crate::life::{Life, Office, follow_curves};
use crate::log::LogError;
use crate::logs::Logs;
use crate::metrics::{Metrics, is_past};
use crate::services::{JobsService, WorkersService, fleet};
use crate::sessions::Sessions;

/// The largest message of a client or worker. Parts lists and batches of log lines are the largest.
const LARGEST_MESSAGE: usize = 16 << 20;

/// Workers that start together arrive within so long of each other.
const SETTLE: Duration = Duration::from_secs(1);

/// How often new points of the curves are written to the jobs' folders.
const SAVE_EVERY: Duration = Duration::from_secs(3);

/// After how many times of that curves of jobs that are over are let go.
const LET_GO_EVERY: u64 = 20;

/// How long calls that are being answered keep an orderly end waiting.
const LAST_CALLS: Duration = Duration::from_millis(200);

/// How long an orderly end may take.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the coordinator can't start or go on.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The store can't be used.
    #[error("the store can't be used")]
    Store(#[source] StorageError),
    /// The event log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An address is taken or not ours.
    #[error("can't listen at {address}; choose another address or stop what listens there")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The addresses can't be written down.
    #[error("the address file can't be written")]
    AddressFile(#[source] std::io::Error),
    /// The reflection service could not be built.
    #[error("the service descriptors are damaged")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// A coordinator that runs.
pub struct Coordinator {
    grpc: SocketAddr,
    http: SocketAddr,
    driver: JoinHandle<Result<(), LogError>>,
    driver_stop: CancellationToken,
    /// A loop that does not end in time is left where it is, with the coordinator.
    _wanted: DropGuard,
    /// Ends what serves others, before the loop.
    stop: CancellationToken,
    tasks: TaskTracker,
    sessions: Sessions,
    curves: Curves,
    handle: Handle,
}

/// What the services and tasks share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) handle: Handle,
    pub(crate) role: Roles,
    pub(crate) to_leader: ToLeader,
    pub(crate) curves: Curves,
    pub(crate) logs: Logs,
    pub(crate) facts: Facts,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// An ended job's curve is read when someone asks for it, as is that of any job where this coordinator follows.
    pub(crate) async fn load_curve(&self, id: &JobId) {
        if self.curves.knows(id) {
            return;
        }
        let wanted = id.clone();
        let found = self.handle.read(move |view| {
            view.core.state().job(&wanted).map(|job| (job.submission.folder.clone(), abandoned(job)))
        });
        let Ok(Some((folder, abandoned))) = found.await else { return };
        // Who follows hears of points by the job's folder alone.
        if self.curves.knows(id) && self.role.borrow().leads() {
            return;
        }
        if let Err(error) = self.curves.load(id, &folder, abandoned).await {
            tracing::warn!(job = %id, error = &error as &dyn std::error::Error, "the curve can't be read");
        }
    }

    /// All workers, as who leads knows them; none where that one can't be asked.
    pub(crate) async fn workers(&self) -> Result<Option<Vec<proto::Worker>>, Stopped> {
        let role = self.role.borrow().clone();
        match role {
            Role::Leads { .. } => fleet::all(&self.handle, &self.facts).await.map(Some),
            Role::Follows { leader: Some(leader) } => Ok(self.to_leader.workers(&leader).await),
            Role::Follows { leader: None } => Ok(None),
        }
    }
}

impl Coordinator {
    /// Serves: as the one that leads if nobody does, else as one that follows until it can lead.
    ///
    /// # Errors
    /// Every [`ServerError`].
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        let timings = config.timings;
        let store = open_store(&config.store).await?;
        let grpc = listen(config.listen).await?;
        let http = listen(config.http).await?;
        let addresses = (local(&grpc, config.listen), local(&http, config.http));
        let here = Addresses {
            grpc: config.advertise.unwrap_or_else(|| addresses.0.to_string()),
            http: config.advertise_http.unwrap_or_else(|| addresses.1.to_string()),
        };
        let facts = Facts::default();
        let (core, policy) = (core_timings(&timings), config.policy.core);
        let indexing = Indexing::new(config.allowed.clone());
        let rules = Rules { timings: core, policy, indexing, facts: facts.clone() };
        let (handle, mailbox) = driver::mailbox();
        let (roles, role) = watch::channel(Role::Follows { leader: None });
        let shared = Shared {
            handle: handle.clone(),
            role,
            to_leader: ToLeader::new(timings.rpc),
            curves: Curves::default(),
            logs: Logs::default(),
            facts,
            metrics: Metrics::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let sessions = Sessions::default();
        let driver_stop = CancellationToken::new();
        let life = Life {
            candidate: Candidate { store: store.clone(), here, expiry: timings.lease },
            rules,
            limits: Limits { forming: timings.forming, operation: timings.operation },
            shared: shared.clone(),
            sessions: sessions.clone(),
            roles,
            mailbox,
            stop: driver_stop.clone(),
        };
        // What is wrong with the log is told before anything is served.
        let office = Box::pin(life.take_office_if_free()).await?;
        let leads = office.is_some();
        let given_up = CancellationToken::new();
        let wanted = given_up.clone().drop_guard();
        let driver = start_loop(life, office, given_up);
        if leads {
            // Whoever calls finds a leader from the first moment on. Were the loop over, that is told by who waits for it.
            let _ = shared.role.clone().wait_for(Role::leads).await;
        }
        let admission = Admission::new(store.url().to_owned(), config.allowed, config.policy.classes);
        serve_grpc(&shared, grpc, &sessions, admission, &timings)?;
        http::serve(&shared, http);
        shared.tasks.spawn(save_curves(shared.clone()));
        if let Some(path) = &config.address_file {
            write_addresses(path, addresses.0, addresses.1).map_err(ServerError::AddressFile)?;
        }
        tracing::info!(grpc = %addresses.0, http = %addresses.1, "serving");
        Ok(Self {
            grpc: addresses.0,
            http: addresses.1,
            driver,
            driver_stop,
            _wanted: wanted,
            stop: shared.stop,
            tasks: shared.tasks,
            sessions,
            curves: shared.curves,
            handle,
        })
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Waits until the loop ends by itself, which it does on an error only.
    ///
    /// # Errors
    /// The error; [`LogError::Fenced`] when another coordinator has taken over.
    pub async fn failed(&mut self) -> Result<(), LogError> {
        joined((&mut self.driver).await)
    }

    /// Ends: streams are closed, curves are saved, the log is given back. Jobs go on without us.
    ///
    /// # Errors
    /// What the log met on closing.
    pub async fn shut_down(self) -> Result<(), LogError> {
        let Self { driver, driver_stop, stop, tasks, sessions, curves, handle, .. } = self;
        stop.cancel();
        sessions.close_all();
        tasks.close();
        // Calls that take longer hear that they are to be repeated: a successor is waiting.
        let _ = tokio::time::timeout(LAST_CALLS, tasks.wait()).await;
        save_once(&handle, &curves).await;
        driver_stop.cancel();
        let ended = match tokio::time::timeout(DRAIN, driver).await {
            Ok(ended) => joined(ended),
            Err(_) => {
                tracing::warn!("the event log did not close in time; nothing that was confirmed is lost");
                Ok(())
            }
        };
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        ended
    }
}

/// The loop on a thread of its own: among the tasks of thousands of streams it would wait its turn, and everybody with it.
fn start_loop(life: Life, office: Option<Office>, given_up: CancellationToken) -> JoinHandle<Result<(), LogError>> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = given_up.cancelled() => Ok(()),
                ended = life.run(office) => ended,
            }
        })
    })
}

fn joined(ended: Result<Result<(), LogError>, tokio::task::JoinError>) -> Result<(), LogError> {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The core's share of the time-outs.
pub(crate) fn core_timings(timings: &Timings) -> cappa_core::Timings {
    cappa_core::Timings {
        detection: timings.lost_after,
        grace: timings.grace,
        settle: SETTLE.min(timings.lost_after),
        forming: timings.forming,
        sweep: timings.forming * 2,
    }
}

async fn open_store(url: &str) -> Result<Location, ServerError> {
    let store = storage::create(url).map_err(ServerError::Store)?;
    let coordinator = store.join("coordinator").map_err(ServerError::Store)?;
    storage::probe_atomic_create(&coordinator).await.map_err(ServerError::Store)?;
    Ok(store)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// After which step, and up to which generation, the points of a job's curve are given up.
pub(crate) fn abandoned(job: &cappa_core::Job) -> Option<(u64, u64)> {
    job.rolled_back.map(|branch| (branch.after.0, branch.through.0))
}

fn serve_grpc(
    shared: &Shared,
    listener: TcpListener,
    sessions: &Sessions,
    admission: Admission,
    timings: &Timings,
) -> Result<(), ServerError> {
    let jobs = JobsService { shared: shared.clone(), admission };
    let workers = WorkersService { shared: shared.clone(), sessions: sessions.clone(), timings: *timings };
    let reflection = || {
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(cappa_proto::DESCRIPTORS)
    };
    let v1 = reflection().build_v1().map_err(ServerError::Reflection)?;
    let v1alpha = reflection().build_v1alpha().map_err(ServerError::Reflection)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let stop = shared.stop.clone();
    let jobs = JobsServer::new(jobs).max_decoding_message_size(LARGEST_MESSAGE);
    let workers = WorkersServer::new(workers).max_decoding_message_size(LARGEST_MESSAGE);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .layer(crate::metrics::RpcLayer::new(shared.metrics.clone()))
        .layer(RedirectLayer::new(shared.role.clone(), shared.to_leader.clone()))
        .add_service(health_service)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(jobs)
        .add_service(workers);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut role = shared.role.clone();
    shared.tasks.spawn(async move {
        health.set_serving::<JobsServer<JobsService>>().await;
        health.set_not_serving::<WorkersServer<WorkersService>>().await;
        let leads = async move {
            // It never ceases to lead but by ending.
            if role.wait_for(Role::leads).await.is_ok() {
                health.set_serving::<WorkersServer<WorkersService>>().await;
            }
            std::future::pending::<()>().await;
        };
        let served = tokio::select! {
            served = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()) => served,
            () = leads => Ok(()),
        };
        if let Err(error) = served {
            tracing::error!(error = &error as &dyn std::error::Error, "gRPC ended");
        }
    });
    Ok(())
}

async fn save_curves(shared: Shared) {
    let mut tick = tokio::time::interval(SAVE_EVERY);
    for saved in 1_u64.. {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if shared.role.borrow().leads() {
            save_once(&shared.handle, &shared.curves).await;
        } else {
            follow_curves(&shared).await;
        }
        if saved.is_multiple_of(LET_GO_EVERY) {
            let_go(&shared).await;
        }
    }
}

async fn save_once(handle: &Handle, curves: &Curves) {
    for job in curves.unsaved() {
        save_curve(handle, curves, &job).await;
    }
}

/// Of most jobs that are over the curve is in their folder only.
async fn let_go(shared: &Shared) {
    let held = shared.curves.held();
    let over = shared.handle.read(move |view| held.into_iter().filter(|job| is_past(view, job)).collect());
    if let Ok(over) = over.await {
        shared.curves.let_go(over);
    }
}

/// Writes what a job's folder does not have of its curve. What the store refuses is tried again by and by.
pub(crate) async fn save_curve(handle: &Handle, curves: &Curves, job: &JobId) {
    let wanted = job.clone();
    let folder = handle.read(move |view| view.core.state().job(&wanted).map(|job| job.submission.folder.clone()));
    let Ok(Some(folder)) = folder.await else { return };
    if let Err(error) = curves.save(job, &folder).await {
        tracing::warn!(%job, error = &error as &dyn std::error::Error, "the curve can't be saved; tried again soon");
    }
}

/// Written whole or not at all, so that whoever waits for the file never reads half of it.
fn write_addresses(path: &Path, grpc: SocketAddr, http: SocketAddr) -> std::io::Result<()> {
    let content = serde_json::json!({ "grpc": grpc.to_string(), "http": http.to_string() }).to_string();
    let draft = path.with_extension("part");
    std::fs::write(&draft, content)?;
    std::fs::rename(&draft, path)
}
