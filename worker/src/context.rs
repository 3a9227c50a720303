//! What the parts of one worker process share.

use std::num::NonZero;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_collective::{AbortHandle, Cuda, Group, Member, Store, Timeouts};
use cappa_data::patience::Patience;
use cappa_data::shards::FetchConfig;
use cappa_data::stats::PipelineStats;
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
    /// How shards are fetched.
    pub fetch: FetchConfig,
    /// Threads that decode samples, where somebody decided; else the machine's cores do.
    pub data_threads: Option<NonZero<usize>>,
    /// Peak of the device's matrix products in FLOP/s, where it was told.
    pub peak_flops: Option<f64>,
}

/// How soon a wait notices that its generation was given up.
const NOTICE: Duration = Duration::from_millis(50);

impl Context {
    /// Waits for something of a store, for as long as the generation is not given up. For what other members don't wait for: see
    /// [`Place::wait`](crate::train::group::Place::wait).
    pub(crate) fn wait<T>(&self, assignment: &Assignment, read: impl Future<Output = T>) -> Result<T, Barred> {
        let mut read = pin!(read);
        loop {
            if let Some(done) = self.wait_within(assignment, read.as_mut(), Duration::MAX)? {
                return Ok(done);
            }
        }
    }

    /// Likewise, for so long at most.
    pub(crate) fn wait_within<T>(
        &self,
        assignment: &Assignment,
        mut read: Pin<&mut impl Future<Output = T>>,
        limit: Duration,
    ) -> Result<Option<T>, Barred> {
        let begun = Instant::now();
        self.runtime.block_on(async {
            while begun.elapsed() < limit {
                if let Ok(done) = tokio::time::timeout(NOTICE, &mut read).await {
                    return Ok(Some(done));
                }
                self.interrupt.check(&assignment.job, assignment.generation)?;
            }
            Ok(None)
        })
    }

    /// How long checkpoints are waited for: as long as data.
    pub(crate) fn patience<'s>(&self, stats: &'s PipelineStats) -> Patience<'s> {
        Patience { limit: self.fetch.patience, stats }
    }

    /// Threads that decode, where `processes` members of the group share this machine.
    pub(crate) fn decode_threads(&self, processes: usize) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        self.data_threads.map_or_else(|| decode_threads(cores, processes, self.device), NonZero::get)
    }
}

/// Each process gets its share of the cores; where there is no GPU, training itself needs half of it.
fn decode_threads(cores: usize, processes: usize, device: Device) -> usize {
    let share = cores / processes.max(1);
    match device {
        Device::Cuda(_) => share.max(1),
        _ => share.div_ceil(2).max(1),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_machine_share_its_cores() {
        assert_eq!(decode_threads(16, 1, Device::Cuda(0)), 16);
        assert_eq!(decode_threads(16, 8, Device::Cuda(0)), 2);
        assert_eq!(decode_threads(16, 2, Device::Cpu), 4);
        assert_eq!(decode_threads(2, 4, Device::Cpu), 1);
    }
}
