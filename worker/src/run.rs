//! A serving worker: parse, build, wait for a signal, drain under a deadline.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use cappa_collective::{Cuda, Store};
use cappa_data::shards::FetchConfig;
use cappa_session::{Identity, Order};
use cappa_shared::telemetry::{LogFormat, Telemetry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Writer;
use crate::cli::RunArgs;
use crate::context::{Backend, Context};
use crate::interrupt::Interrupt;
use crate::metrics::Metrics;
use crate::notice::Notices;
use crate::session::Session;
use crate::session::ledger::Ledger;
use crate::session::logs::Forward;
use crate::train::Trainer;

/// Limit of the rendezvous store's own waits; a group's limits come with its order.
const STORE_LIMIT: Duration = Duration::from_secs(30);

/// Every shard of the cache that is in use is an open file, some hundreds where one worker has all lanes.
const FILES: u64 = 65_536;
const FEW_FILES: u64 = 4096;

/// Serves until told to end.
pub(crate) fn run(args: RunArgs) -> Result<()> {
    let files = raise_file_limit();
    let backend = Backend::open()?;
    if args.threads > 0 {
        tch::set_num_threads(i32::try_from(args.threads).context("--threads is too large")?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("worker-io")
        .enable_all()
        .build()
        .context("no threads for input and output")?;
    let outcome = runtime.block_on(serve(args, backend, files));
    // A storage request may hang; the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Raises the limit of open files as far as the hard one allows; tells what it is then.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = limit.maximum.unwrap_or(u64::MAX).min(FILES);
    // Where it is refused the process goes on with what it has.
    let refused = raised <= current
        || setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_err();
    if refused { current } else { raised }
}

async fn serve(args: RunArgs, backend: Backend, files: u64) -> Result<()> {
    let ledger = Arc::<Ledger>::default();
    let format: LogFormat = args.log_format.parse().map_err(|e| anyhow!("--log-format: {e}"))?;
    let lines = Forward::new(ledger.clone(), args.id.clone());
    let _traces = Telemetry::from_env("cappa-worker", args.id.as_str(), format).init(Some(Box::new(lines)))?;
    if files < FEW_FILES {
        tracing::warn!(
            files,
            "few files may be open at once; raise the hard limit (ulimit -Hn) to {FEW_FILES} or more"
        );
    }

    std::fs::create_dir_all(&args.cache).with_context(|| format!("cannot create --cache {}", args.cache.display()))?;
    if !args.metrics.ip().is_loopback() {
        bail!(
            "--metrics {} is not a loopback address; listening beyond loopback needs TLS, which this version does not have",
            args.metrics
        );
    }
    let listener = TcpListener::bind(args.metrics)
        .await
        .with_context(|| format!("cannot listen on --metrics {}", args.metrics))?;
    let metrics_address = listener.local_addr()?.to_string();
    let (store, port) = Store::serve(&args.host, 0, STORE_LIMIT)
        .with_context(|| format!("cannot serve the rendezvous store on --host {}", args.host))?;
    if let Some(path) = &args.address_file {
        write_addresses(path, &metrics_address)?;
    }

    let interrupt = Arc::<Interrupt>::default();
    let metrics = Arc::<Metrics>::default();
    let identity = Identity {
        worker: args.id.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: uuid::Uuid::new_v4().to_string(),
        host: args.host.clone(),
        store_address: format!("{}:{port}", args.host),
        metrics_address,
        device: backend.device_name(),
    };
    let (orders, received) = crossbeam_channel::unbounded();
    let context = Context {
        host: args.host.clone(),
        store,
        device: backend.device(),
        backend,
        ledger: ledger.clone(),
        interrupt: interrupt.clone(),
        metrics: metrics.clone(),
        runtime: tokio::runtime::Handle::current(),
        cache: args.cache.clone(),
        cache_bytes: args.cache_mib << 20,
        fetch: FetchConfig { patience: Duration::from_secs(args.data_patience_seconds), ..FetchConfig::default() },
        data_threads: NonZero::new(args.data_threads),
        peak_flops: args.peak_tflops.map(|tera| tera * 1e12),
    };
    let stats = metrics.data();
    let writer = Writer::start(&context)?;
    let (ended, trainer_ended) = oneshot::channel::<()>();
    let trainer = std::thread::Builder::new().name("trainer".into()).spawn(move || {
        let _ended = ended; // dropped when the thread ends, also by a panic
        Trainer::new(context, received, writer).run()
    })?;

    let cancel = CancellationToken::new();
    let stopped = cancel.clone();
    let http = tokio::spawn(async move {
        axum::serve(listener, metrics.router()).with_graceful_shutdown(stopped.cancelled_owned()).await
    });
    let session =
        Session { identity, ledger: ledger.clone(), interrupt: interrupt.clone(), orders: orders.clone(), stats };
    let mut notices = Notices::new(args.preemption_file, args.preemption_url)?;
    let conversation = session.run(&args.coordinator, &cancel);
    tokio::pin!(conversation);
    let reason = tokio::select! {
        ended = &mut conversation => { ended.context("the session with the coordinator ended")?; String::new() }
        // It ends by itself where the device failed, which the coordinator is still to be told.
        _ = trainer_ended => interrupt.ending().context("the training thread panicked; see the log above")?,
        reason = notices.next() => reason,
        reason = interrupt.asked_to_end() => reason,
    };

    tracing::info!(reason, grace_seconds = args.grace_seconds, "about to end: what is under way is checkpointed first");
    interrupt.bars().drain(&reason);
    ledger.stir();
    let grace = Duration::from_secs(args.grace_seconds);
    let drained = tokio::select! {
        outcome = tokio::time::timeout(grace, drained(&ledger)) => outcome.is_ok(),
        ended = &mut conversation => { ended.context("the session with the coordinator ended")?; true }
    };
    cancel.cancel();
    // The session tells what is left to tell, then ends.
    let _ = tokio::time::timeout(Duration::from_secs(2), conversation).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), http).await;
    if !drained {
        bail!(
            "the group did not end its step and save it within {} s; what was not checkpointed is with the other members, or lost \
             where there are none: look after the store, or raise --grace-seconds",
            args.grace_seconds
        );
    }
    let _ = orders.send(Order::Exit);
    let trained = tokio::task::spawn_blocking(move || trainer.join()).await?;
    if let Some(fault) = trained.map_err(|_| anyhow!("the training thread panicked"))? {
        bail!("{fault}; start the worker again: another process may be able to use the device");
    }
    tracing::info!("ended");
    Ok(())
}

/// Out of any group, and every part that was written is committed or given up.
async fn drained(ledger: &Ledger) {
    let is_busy = || {
        let book = ledger.book();
        book.holding().is_some_and(|holding| holding.stepping) || book.unsettled()
    };
    while is_busy() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whoever waits for the file sees it whole or not at all.
fn write_addresses(path: &std::path::Path, metrics: &str) -> Result<()> {
    let written = path.with_extension("tmp");
    let text = serde_json::json!({ "metrics": metrics }).to_string();
    std::fs::write(&written, text)
        .and_then(|()| std::fs::rename(&written, path))
        .with_context(|| format!("cannot write --address-file {}", path.display()))
}

impl Backend {
    /// NCCL where libtorch and the machine have CUDA, else Gloo. Comes before any other use of torch.
    pub(crate) fn open() -> Result<Self> {
        match Cuda::open()? {
            Some(cuda) if tch::Cuda::is_available() => Ok(Self::Nccl { cuda, device: 0 }),
            _ => Ok(Self::Gloo),
        }
    }
}
