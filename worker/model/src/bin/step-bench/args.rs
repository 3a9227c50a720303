//! The command line.

use std::num::NonZero;

use cappa_collective::ops::MatmulPrecision;
use cappa_model::Precision;
use clap::{Parser, ValueEnum};
use tch::Device;

/// Times training steps on random data.
#[derive(Parser)]
pub(crate) struct Args {
    /// tiny, s16, m16, b16 or l14.
    #[arg(long, default_value = "tiny")]
    pub(crate) preset: String,
    /// Images in a step of one process.
    #[arg(long, default_value = "32")]
    pub(crate) batch: NonZero<u32>,
    /// Timed steps.
    #[arg(long, default_value = "40")]
    pub(crate) steps: NonZero<usize>,
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 5)]
    pub(crate) warmup: usize,
    /// Threads of a tensor operation on the CPU.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: i32,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Place,
    /// fp32 or bf16.
    #[arg(long, default_value = "fp32", value_parser = precision)]
    pub(crate) precision: Precision,
    /// How fp32 matrix products compute: highest (float) or high (TF32 on CUDA).
    #[arg(long, default_value = "high", value_parser = matmul)]
    pub(crate) matmul: MatmulPrecision,
    /// Share of the examples predicted in parallel.
    #[arg(long, default_value_t = 0.75)]
    pub(crate) parallel: f64,
    /// Of parameters, images, texts and draws.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Peak of one device in TFLOP/s, for the model FLOP utilisation.
    #[arg(long)]
    pub(crate) peak_tflops: Option<f64>,
    /// Add the loss of every timed step to the line.
    #[arg(long)]
    pub(crate) losses: bool,
    /// Processes to average gradients over; absent: this one, without a group.
    #[arg(long)]
    pub(crate) world: Option<NonZero<usize>>,
    /// GPUs that the processes share, in turn; absent: each has its own.
    #[arg(long)]
    pub(crate) gpus: Option<NonZero<usize>>,

    /// Which of the processes this is: set by the one that starts them.
    #[arg(long, hide = true, requires_all = ["world", "store"])]
    pub(crate) rank: Option<usize>,
    /// Port of the store at which they meet.
    #[arg(long, hide = true)]
    pub(crate) store: Option<u16>,
}

/// The kind of device.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Place {
    Cpu,
    Cuda,
}

impl Place {
    /// The device of a rank.
    pub(crate) fn of(self, rank: usize, gpus: Option<NonZero<usize>>) -> Device {
        match self {
            Place::Cpu => Device::Cpu,
            Place::Cuda => Device::Cuda(gpus.map_or(rank, |gpus| rank % gpus)),
        }
    }
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "fp32" => Ok(Precision::Fp32),
        "bf16" => Ok(Precision::Bf16),
        other => Err(format!("{other} is neither fp32 nor bf16")),
    }
}

fn matmul(text: &str) -> Result<MatmulPrecision, String> {
    match text {
        "highest" => Ok(MatmulPrecision::Highest),
        "high" => Ok(MatmulPrecision::High),
        other => Err(format!("{other} is neither highest nor high")),
    }
}
