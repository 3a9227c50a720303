//! `golden-check DIR`: checks this build against a folder of reference data.
//!
//! It stands here because the reference data covers the networks and the preprocessing of images, which know nothing of
//! each other. Exit codes: 0 all that is known passes, 1 something fails, 2 the folder can't be used.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use cappa_collective::Cuda;
use cappa_data::image::{RgbImage, resize_exact};
use cappa_model::golden::{Outcome, Report, check_folder};
use clap::{Parser, ValueEnum};
use tch::Device;

/// Checks networks, losses, optimizers, evaluations and preprocessing against a folder of reference data.
#[derive(Parser)]
struct Args {
    /// Folder of `NAME.json` files with their `NAME.safetensors`.
    dir: PathBuf,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: Place,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Place {
    Cpu,
    Cuda,
}

impl Place {
    /// The device, with CUDA opened, which must come before the first use of torch.
    fn open(self) -> anyhow::Result<Device> {
        if self == Place::Cpu {
            return Ok(Device::Cpu);
        }
        Cuda::open()?.context("this libtorch has no CUDA: set LD_LIBRARY_PATH to one that has")?;
        Ok(Device::Cuda(0))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let reports = match check(&args) {
        Ok(reports) => reports,
        Err(error) => {
            eprintln!("golden-check: {error:#}");
            return ExitCode::from(2);
        }
    };
    let (mut passed, mut failed, mut unknown) = (0, 0, 0);
    for report in &reports {
        println!("{report}");
        match report.outcome {
            Outcome::Passed(_) => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Unknown(_) => unknown += 1,
        }
    }
    println!("{passed} passed, {failed} failed, {unknown} unknown");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn check(args: &Args) -> anyhow::Result<Vec<Report>> {
    let device = args.device.open()?;
    // The files are small; more threads would only change rounding.
    tch::set_num_threads(1);
    Ok(check_folder(&args.dir, device, resize)?)
}

fn resize(pixels: &[u8], [height, width]: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    resize_exact(RgbImage { width, height, pixels: pixels.to_vec() }, to[1], to[0]).pixels
}
