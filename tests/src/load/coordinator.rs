//! The coordinator as a process of its own: what it costs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::Process;

/// How long it may take to come up on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Of the processor times in /proc, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running coordinator over a store of its own.
pub(crate) struct Measured {
    process: Process,
    /// URL of its gRPC services.
    pub(crate) address: String,
}

impl Measured {
    /// Starts it with its files in `folder`.
    pub(crate) fn start(folder: &Path, detection: Duration) -> Result<Self> {
        let store = folder.join("store").display().to_string();
        let detection = format!("{}ms", detection.as_millis());
        let arguments =
            ["--store", &store, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--detection", &detection];
        let arguments = arguments.map(str::to_owned);
        let mut process = Process::start("cappa-coordinator", "coordinator", None, folder, &arguments, &[])?;
        let addresses = process.addresses(START_LIMIT)?;
        let grpc = addresses["grpc"].as_str().context("the address file names no gRPC address")?;
        Ok(Self { address: format!("http://{grpc}"), process })
    }

    /// Its largest resident size so far, in MiB.
    pub(crate) fn peak_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: f64 = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time that it has used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields = stat.rsplit_once(") ").context("an unknown form of /proc/PID/stat")?.1;
        let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        self.process.tail()
    }
}
