//! What the command line takes.

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    audit, change, checkpoints, completion, data, describe, events, explain, import, list, local, logs, priority,
    queue, replay, report, submit, tokenizer, trained, validate, wait, workers,
};
use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0 ok, 1 other errors, 2 usage, 3 invalid spec, 4 not permitted, 5 unavailable
  100 job failed, 101 not finished, 102 not found, 103 cancelled, 104 pre-empted
  105 over quota, 124 timed out, 130 interrupted (the job goes on)";

/// Pre-trains vision encoders by captioning on many machines: submits jobs and shows what they do.
#[derive(Debug, Parser)]
#[command(name = "cappactl", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The coordinator, as http://HOST:PORT, or several with commas between them: whoever leads is found [default: the local
    /// cluster, else http://127.0.0.1:7070].
    #[arg(long, global = true, env = "CAPPA_COORDINATOR", value_name = "URL", help_heading = "Global options")]
    pub(crate) coordinator: Option<String>,
    /// Form of the data on stdout.
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = "Global options")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a job.
    Submit(submit::Arguments),
    /// Check a job spec here, without a coordinator.
    Validate(validate::Arguments),
    /// Print the JSON Schema of the job spec.
    Schema,
    /// List jobs, the newest first.
    List(list::Arguments),
    /// Show everything about a job.
    Describe(describe::Arguments),
    /// Print what a job's workers logged.
    Logs(logs::Arguments),
    /// Print a job's history.
    Events(events::Arguments),
    /// Wait for a job to reach a step or a state.
    Wait(wait::Arguments),
    /// End a job for good; its checkpoints stay.
    Cancel(change::Arguments),
    /// Checkpoint a job and give its workers back.
    Pause(change::Arguments),
    /// Queue a paused job again.
    Resume(change::Arguments),
    /// Queue a job again that failed, was cancelled or pre-empted; it goes on from its newest checkpoint.
    Requeue(change::Arguments),
    /// Show why each waiting job waits, what would end that, and what the namespaces use.
    Queue(queue::Arguments),
    /// Change a job's priority.
    Priority(priority::Arguments),
    /// List, verify, pin and go back to a job's checkpoints.
    #[command(subcommand)]
    Checkpoints(checkpoints::Command),
    /// Prove from a job's manifests that every sample of every epoch was used exactly once.
    Audit(audit::Arguments),
    /// Show exactly what a step of a job took in.
    Replay(replay::Arguments),
    /// List, cordon, release and drain workers.
    #[command(subcommand)]
    Workers(workers::Command),
    /// Write the HTML report of a job.
    Report(report::Arguments),
    /// Make and index corpora.
    #[command(subcommand)]
    Data(data::Command),
    /// Make tokenizers.
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    /// Caption pictures with a trained model.
    Caption(trained::Caption),
    /// Write a trained image encoder as timm or transformers loads it, or two towers as open_clip does.
    Export(trained::Export),
    /// Make a checkpoint that jobs start from of the authors' .npz, or of weights of timm, transformers or open_clip.
    Import(import::Arguments),
    /// Write the features of pictures that a trained image encoder computes.
    Embed(trained::Embed),
    /// Run a whole cluster on this machine.
    #[command(subcommand)]
    Local(local::Command),
    /// Say what an error code means and what to do; without one, list them.
    Explain(explain::Arguments),
    /// Print a script that completes commands in a shell.
    Completion(completion::Arguments),
}
