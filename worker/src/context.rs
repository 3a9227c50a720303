//! What the parts of one worker process share.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cappa_collective::{AbortHandle, Cuda, Group, Member, Store, Timeouts};
use cappa_session::{Assignment, Barred};
use tch::Device;

use crate::interrupt::Interrupt;
use crate::metrics::Metrics;
use crate::session::ledger::Ledger;

/// The process's own things, outside any job.
pub(crate) struct Context {
    /// The local address at which peers reach us.
    pub host: String,
    /// The store that groups led by this process meet at.
    pub store: Store,
    /// Where tensors live.
    pub device: Device,
    /// Who carries collectives.
    pub backend: Backend,
    /// What the coordinator is told.
    pub ledger: Arc<Ledger>,
    /// How it interrupts.
    pub interrupt: Arc<Interrupt>,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// For storage; training itself runs on plain threads.
    pub runtime: tokio::runtime::Handle,
    /// Shards are cached here.
    pub cache: PathBuf,
    /// The cache's bound in bytes.
    pub cache_bytes: u64,
    /// Threads that decode samples.
    pub data_threads: usize,
    /// Peak of the device's matrix products in FLOP/s, where it was told.
    pub peak_flops: Option<f64>,
}

/// How soon a wait notices that its generation was given up.
const NOTICE: Duration = Duration::from_millis(50);

impl Context {
    /// Waits for something of a store, for as long as the generation is not given up.
    pub(crate) fn wait<T>(&self, assignment: &Assignment, read: impl Future<Output = T>) -> Result<T, Barred> {
        self.runtime.block_on(async {
            let mut read = pin!(read);
            loop {
                if let Ok(done) = tokio::time::timeout(NOTICE, &mut read).await {
                    return Ok(done);
                }
                self.interrupt.check(&assignment.job, assignment.generation)?;
            }
        })
    }
}

/// Who carries collectives: Gloo on the CPU, NCCL where there is a GPU.
pub(crate) enum Backend {
    /// Over TCP, for CPU tensors.
    Gloo,
    /// Between GPUs.
    Nccl {
        /// The opened libraries.
        cuda: Cuda,
        /// Which GPU of this machine; one a process (choose it with CUDA_VISIBLE_DEVICES).
        device: usize,
    },
}

impl Backend {
    /// Where tensors live.
    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Gloo => Device::Cpu,
            Self::Nccl { device, .. } => Device::Cuda(*device),
        }
    }

    /// What people are shown.
    pub(crate) fn device_name(&self) -> String {
        match self {
            Self::Gloo => "cpu".into(),
            Self::Nccl { device, .. } => format!("cuda:{device}"),
        }
    }

    /// Forms a group.
    pub(crate) fn form(
        &self,
        store: &Store,
        member: Member<'_>,
        timeouts: Timeouts,
        abort: &AbortHandle,
    ) -> cappa_collective::Result<Group> {
        match self {
            Self::Gloo => Group::gloo(store, member, timeouts, abort),
            Self::Nccl { cuda, device } => cuda.nccl(store, member, *device, timeouts, abort),
        }
    }
}
