//! Time and memory of the steps, as one JSON line.

use std::time::Instant;

use cappa_collective::ops;
use cappa_model::{Captioner, flop_per_image};
use serde_json::{Value, json};
use tch::Device;

use crate::args::Args;

/// `USER_HZ`: the unit of the CPU times in `/proc`, on every Linux architecture in use.
const TICKS_PER_S: f64 = 100.0;

/// Wall time of every step, and CPU time of all.
pub(crate) struct Clock {
    last: Instant,
    cpu_s: Option<f64>,
    milliseconds: Vec<f64>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), cpu_s: cpu_seconds(), milliseconds: Vec::new() }
    }

    /// Ends a step and begins the next.
    pub(crate) fn lap(&mut self) {
        let now = Instant::now();
        self.milliseconds.push((now - self.last).as_secs_f64() * 1e3);
        self.last = now;
    }

    fn median_ms(&self) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// CPU time of this process per step: what remains comparable on a machine that others use too.
    fn cpu_ms(&self) -> Option<f64> {
        Some((cpu_seconds()? - self.cpu_s?) * 1e3 / self.milliseconds.len() as f64)
    }
}

/// The line, from rank 0's times.
pub(crate) fn line(
    args: &Args,
    world: usize,
    captioner: &Captioner,
    clock: &Clock,
    losses: &[f64],
) -> anyhow::Result<Value> {
    let step_ms = clock.median_ms();
    let per_rank = f64::from(args.batch.get()) / step_ms * 1e3;
    let flop = flop_per_image(captioner.config());
    let device = captioner.params().tensors().next().map_or(Device::Cpu, tch::Tensor::device);
    let peak_mib = match device {
        Device::Cpu => peak_resident_mib(),
        device => Some(ops::device_memory(device, false)?.peak as f64 / f64::from(1 << 20)),
    };
    let mut line = json!({
        "engine": "cappa",
        "preset": args.preset,
        "device": format!("{device:?}"),
        "precision": captioner.precision(),
        "world": world,
        "batch": args.batch,
        "threads": args.threads,
        "params": captioner.params().elements(),
        "images_per_s": round(per_rank * world as f64, 100.0),
        "step_ms": round(step_ms, 1000.0),
        "cpu_ms": clock.cpu_ms().map(|ms| round(ms, 1000.0)),
        "gflop_per_image": round(flop / 1e9, 1000.0),
        "mfu": args.peak_tflops.map(|peak| round(per_rank * flop / (peak * 1e12), 10_000.0)),
        "loss": losses.last().map(|loss| round(*loss, 10_000.0)),
        "peak_mib": peak_mib.map(f64::round),
    });
    if args.losses {
        line["losses"] = json!(losses);
    }
    Ok(line)
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// The largest resident size of this process so far, where the system tells.
fn peak_resident_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

/// User and system time of all threads of this process so far, where the system tells.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold anything; what follows it begins with field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS_PER_S)
}
