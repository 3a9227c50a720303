//! The worker's command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use cappa_shared::ids::WorkerId;
use clap::{Args, Parser, Subcommand, ValueEnum};
use reqwest::Url;

/// A member of CapPa training groups.
#[derive(Debug, Parser)]
#[command(name = "cappa-worker", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a coordinator until told to end (SIGTERM, or a notice of pre-emption: finish the step, checkpoint, exit).
    Run(Box<RunArgs>),
    /// Caption images with a checkpoint.
    Caption(CaptionArgs),
    /// Write a checkpoint's image encoder as timm or transformers loads it, or its two towers as open_clip does.
    Export(ExportArgs),
    /// Make a checkpoint that jobs can start from of the authors' .npz or of weights of timm, transformers or open_clip.
    Import(ImportArgs),
    /// Write the features of pictures as a checkpoint's image encoder computes them.
    Embed(EmbedArgs),
    /// Make a job's updates up to a step again, on this machine alone; prints their losses as JSON lines.
    Replay(ReplayArgs),
}

/// Settings of a serving worker.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The coordinator's address, or those of several, separated by commas: whoever leads is found.
    #[arg(long, env = "CAPPA_COORDINATOR", default_value = "http://127.0.0.1:7070")]
    pub coordinator: String,
    /// This worker's slot: stable over restarts, unique in the cluster, e.g. the pod's name.
    #[arg(long, env = "CAPPA_WORKER_ID")]
    pub id: WorkerId,
    /// The local address at which other workers reach this one.
    #[arg(long, env = "CAPPA_WORKER_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Folder for downloaded shards.
    #[arg(long, env = "CAPPA_CACHE")]
    pub cache: PathBuf,
    /// Bound of that folder, in MiB.
    #[arg(long, default_value_t = 20 * 1024)]
    pub cache_mib: u64,
    /// Where /metrics and /healthz listen (loopback only in this version).
    #[arg(long, default_value = "127.0.0.1:0")]
    pub metrics: SocketAddr,
    /// Write the bound addresses here as JSON, once listening.
    #[arg(long)]
    pub address_file: Option<PathBuf>,
    /// Threads of tensor operations; 0: as many as there are cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Threads that decode samples; 0: this worker's share of the machine's cores, half of it where there is no GPU.
    #[arg(long, default_value_t = 0)]
    pub data_threads: usize,
    /// How long a store may deliver no data, or not take the last checkpoint of a group, before the job fails, and no checkpoint to begin
    /// from before the group forms again; until then it is waited for.
    #[arg(long, default_value_t = 600)]
    pub data_patience_seconds: u64,
    /// Peak of the device's matrix products in TFLOP/s, from its data sheet; without it there is no MFU metric.
    #[arg(long, env = "CAPPA_PEAK_TFLOPS")]
    pub peak_tflops: Option<f64>,
    /// After SIGTERM or a notice of pre-emption, how many seconds there are to checkpoint and end.
    #[arg(long, default_value_t = 25)]
    pub grace_seconds: u64,
    /// When this file appears, the machine is about to be taken away: as SIGTERM.
    #[arg(long, env = "CAPPA_PREEMPTION_FILE", value_name = "PATH")]
    pub preemption_file: Option<PathBuf>,
    /// Asked every second; an answer with status 200 that is neither empty nor FALSE says that the machine is about to be
    /// taken away: as SIGTERM; 404 says that it is not. Of Google Compute Engine
    /// http://metadata.google.internal/computeMetadata/v1/instance/preempted; of Amazon EC2
    /// http://169.254.169.254/latest/meta-data/spot/instance-action, with a session token where it wants one (IMDSv2: in a container
    /// the instance's hop limit must be 2). Any other answer is none: the log says so once.
    #[arg(long, env = "CAPPA_PREEMPTION_URL", value_name = "URL")]
    pub preemption_url: Option<Url>,
    /// Log lines as text or json.
    #[arg(long, env = "CAPPA_LOG_FORMAT", default_value = "text")]
    pub log_format: String,
}

/// Updates made again.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// URL of the job's folder.
    #[arg(long)]
    pub folder: String,
    /// The job's spec as it ran, as JSON (`cappactl describe JOB -o json` has it).
    #[arg(long)]
    pub spec: PathBuf,
    /// Committed manifests below the folder to begin from, the first that can be read; without any, from the seed.
    #[arg(long)]
    pub manifest: Vec<String>,
    /// The last update, counted from 1 as the curve does.
    #[arg(long)]
    pub step: u64,
    /// Folder for downloaded shards.
    #[arg(long, env = "CAPPA_CACHE")]
    pub cache: PathBuf,
}

/// A trained network.
#[derive(Debug, Args)]
pub(crate) struct TrainedArgs {
    /// A committed MANIFEST.json (URL or path), e.g. as `cappactl checkpoints ls` shows it.
    #[arg(long)]
    pub checkpoint: String,
    /// The job's spec as it ran, as JSON (`cappactl describe JOB -o json` has it).
    #[arg(long)]
    pub spec: PathBuf,
}

/// An encoder for other programs.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub network: TrainedArgs,
    /// The program that is to load it.
    #[arg(long, value_enum)]
    pub to: ExportFormat,
    /// A new folder.
    #[arg(long)]
    pub out: PathBuf,
}

/// Whose names and layouts.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ExportFormat {
    /// timm's vision transformers.
    Timm,
    /// transformers' SiglipVisionModel.
    Transformers,
    /// open_clip's CustomTextCLIP.
    #[value(name = "open_clip")]
    OpenClip,
}

/// A network from other programs.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A .npz or .safetensors, or a folder with one and the settings beside it.
    pub source: PathBuf,
    /// URL or absolute path of a new folder; the checkpoint lies in it as in a job's.
    #[arg(long)]
    pub out: String,
    /// Attention heads, where nothing tells them.
    #[arg(long)]
    pub heads: Option<u32>,
    /// Height and width of the images in pixels, of a network with fixed positions.
    #[arg(long)]
    pub image_size: Option<u32>,
    /// Longest text in tokens, of a captioner with fixed positions.
    #[arg(long)]
    pub text_length: Option<u32>,
    /// JSON instead of lines of a spec.
    #[arg(long)]
    pub json: bool,
}

/// Features of pictures.
#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub network: TrainedArgs,
    /// Picture files, or folders of them.
    #[arg(long, num_args = 1.., required_unless_present = "data", conflicts_with = "data")]
    pub images: Vec<PathBuf>,
    /// URL of a data manifest: all of its samples.
    #[arg(long)]
    pub data: Option<String>,
    /// What is written of each.
    #[arg(long, value_enum, default_value = "pooled")]
    pub features: FeatureKind,
    /// A file of rows, `.safetensors` or `.npy`; beside it `.keys.txt` names the picture of every row.
    #[arg(long)]
    pub out: PathBuf,
    /// Folder for downloaded shards.
    #[arg(long, env = "CAPPA_CACHE", default_value_os_t = std::env::temp_dir().join("cappa-cache"))]
    pub cache: PathBuf,
}

/// What is written of a picture.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FeatureKind {
    /// One vector: the mean over patches, or what attention pooling makes of them.
    Pooled,
    /// One vector a patch.
    Tokens,
    /// Of clip and siglip: the vector of length 1 that is compared with those of texts.
    Projected,
}

/// Captions from a checkpoint.
#[derive(Debug, Args)]
pub(crate) struct CaptionArgs {
    #[command(flatten)]
    pub network: TrainedArgs,
    /// One JSON object a line instead of text.
    #[arg(long)]
    pub json: bool,
    /// Picture files, or folders of them.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
}
