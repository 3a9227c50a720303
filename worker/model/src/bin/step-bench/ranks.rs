//! Several processes that train together: starting them, and forming their group.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use cappa_collective::{AbortHandle, Cuda, Group, Member, Store, Timeouts};
use tch::Device;

use crate::args::Args;

const HOST: &str = "127.0.0.1";
/// For every process to start, load its libraries and meet the others.
const FORMING: Duration = Duration::from_secs(60);

/// Starts this program once per rank, with what it was given itself, and waits for all.
pub(crate) fn launch(args: &Args, world: usize) -> anyhow::Result<()> {
    let (_store, port) = Store::serve(HOST, 0, FORMING)?;
    let program = std::env::current_exe()?;
    let shared_gpus = args.gpus.is_some_and(|gpus| gpus.get() < world);
    let mut processes = Vec::with_capacity(world);
    for rank in 0..world {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1));
        command.args(["--rank", &rank.to_string(), "--store", &port.to_string()]);
        if shared_gpus {
            // NCCL refuses two ranks of one host on one GPU; as if of two hosts they talk over sockets.
            command.env("NCCL_HOSTID", format!("rank-{rank}"));
        }
        processes.push(command.spawn().with_context(|| format!("cannot start rank {rank}"))?);
    }
    for (rank, mut process) in processes.into_iter().enumerate() {
        let status = process.wait()?;
        if !status.success() {
            bail!("rank {rank} ended with {status}");
        }
    }
    Ok(())
}

/// One of several processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rank {
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

impl Rank {
    /// The only one.
    pub(crate) const ALONE: Self = Self { rank: 0, size: 1 };

    /// Meets the others at the store: over NCCL on a GPU, otherwise over Gloo.
    pub(crate) fn join(self, port: u16, cuda: Option<&Cuda>, device: Device) -> anyhow::Result<Group> {
        let store = Store::connect(HOST, port, FORMING)?.prefix("step-bench")?;
        let member = Member { rank: self.rank, size: self.size, host: HOST };
        let timeouts = Timeouts { form: FORMING, ..Timeouts::default() };
        let abort = AbortHandle::new();
        match (device, cuda) {
            (Device::Cuda(index), Some(cuda)) => Ok(cuda.nccl(&store, member, index, timeouts, &abort)?),
            (Device::Cuda(_), None) => {
                bail!("this libtorch has no CUDA: set LIBTORCH or LD_LIBRARY_PATH to one that has")
            }
            _ => Ok(Group::gloo(&store, member, timeouts, &abort)?),
        }
    }
}
