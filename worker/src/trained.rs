//! A trained network by itself: a committed checkpoint, and the spec of the job that wrote it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use cappa_data::patience::Patience;
use cappa_data::stats::PipelineStats;
use cappa_shared::spec::JobSpec;
use tokio::runtime::Runtime;

use crate::checkpoint::read_weights;
use crate::cli::TrainedArgs;
use crate::context::Backend;
use crate::train::network::Network;

/// How long an absent store is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A network with a checkpoint's weights.
pub(crate) struct Trained {
    /// Of the job that wrote the checkpoint.
    pub spec: JobSpec,
    /// On this machine's device.
    pub network: Network,
    /// For what else is to be read.
    pub runtime: Runtime,
}

impl Trained {
    /// Reads spec and checkpoint.
    pub(crate) fn open(args: &TrainedArgs) -> Result<Self> {
        let device = Backend::open()?.device();
        let document =
            std::fs::read(&args.spec).with_context(|| format!("cannot read --spec {}", args.spec.display()))?;
        let spec: JobSpec = serde_json::from_slice(&document)
            .with_context(|| format!("--spec {} is not a job's spec as it ran", args.spec.display()))?;
        let mut network = Network::new(&spec, device).context("the spec's model can't be built")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let patience = Patience { limit: PATIENCE, stats: &PipelineStats::default() };
        let weights = runtime
            .block_on(read_weights(&args.checkpoint, patience))
            .with_context(|| format!("--checkpoint {} can't be read", args.checkpoint))?;
        network
            .params_mut()
            .load_named(&weights.tensors)
            .context("the checkpoint does not belong to the spec's model")?;
        Ok(Self { spec, network, runtime })
    }
}
