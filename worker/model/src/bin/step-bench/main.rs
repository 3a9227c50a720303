//! `step-bench`: times training steps on random data, and prints one JSON line.
//!
//! A step is loss, backward, clipping at norm 1 and AdamW, on texts without padding: what
//! `bench/peers` times in other frameworks. The input pipeline is not part of it. With `--world N`
//! gradients are averaged over N processes, which this program starts itself.

mod args;
mod ranks;
mod report;
mod step;

use anyhow::Context;
use cappa_collective::{Cuda, ops};
use cappa_model::{Captioner, ModelConfig};
use clap::Parser;

use crate::args::Args;
use crate::ranks::Rank;
use crate::step::{Data, Trainer};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match (args.world, args.rank) {
        (None, _) => bench(&args, Rank::ALONE),
        (Some(world), None) => ranks::launch(&args, world.get()),
        (Some(world), Some(rank)) => bench(&args, Rank { rank, size: world.get() }),
    }
}

/// What one rank does.
fn bench(args: &Args, rank: Rank) -> anyhow::Result<()> {
    let config = ModelConfig::preset(&args.preset).context("no such preset: use tiny, s16, m16, b16 or l14")?;
    ops::keep_freed_memory();
    let device = args.device.of(rank.rank, args.gpus);
    // CUDA must be open before the first use of torch.
    let cuda = device.is_cuda().then(Cuda::open).transpose()?.flatten();
    tch::set_num_threads(args.threads);
    ops::set_matmul_precision(args.matmul)?;
    let group = match args.store {
        Some(port) => Some(rank.join(port, cuda.as_ref(), device)?),
        None => None,
    };
    // One seed for the parameters of all ranks, one each for their data.
    let captioner = Captioner::new(&config, args.seed, device)?.with_precision(args.precision);
    tch::manual_seed(i64::try_from(args.seed)? + rank.rank as i64);
    let data = Data::random(args, &config, device);
    let mut trainer = Trainer::new(captioner, group.as_ref())?;

    for _ in 0..args.warmup {
        trainer.step(&data)?;
    }
    let mut clock = report::Clock::start();
    let mut losses = Vec::with_capacity(args.steps.get());
    for _ in 0..args.steps.get() {
        losses.push(trainer.step(&data)?);
        clock.lap();
    }
    if rank.rank == 0 {
        println!("{}", report::line(args, rank.size, trainer.captioner(), &clock, &losses)?);
    }
    Ok(())
}
