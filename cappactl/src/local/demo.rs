//! The whole walk on one machine: a corpus, a cluster, a job, its evaluation, a report.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cappa_data::synth::SynthConfig;
use cappa_proto::{GetRequest, SubmitRequest};
use clap::Args;
use serde::Serialize;

use super::{Settings, State, start, stop};
use crate::address::Address;
use crate::client::Client;
use crate::commands::submit::submit;
use crate::corpus;
use crate::exit::{Exit, Failure};
use crate::follow::{Show, follow};
use crate::output::{self, Format, Present};
use crate::report::{self, Report};
use crate::spec::Source;
use crate::units;

/// Training and evaluation fit into five minutes on two processors.
const STEPS: u64 = 1200;
/// Share of examples predicted in parallel; less than the paper's 0.75, for scoring is autoregressive and the run short.
const PARALLEL_FRACTION: f64 = 0.1;
/// Marks a folder as one that a later demo may replace.
const MARK: &str = ".cappa-demo";

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Optimizer updates.
    #[arg(long, value_name = "N", default_value_t = STEPS)]
    steps: u64,
    /// How many workers to start, with one thread each.
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,
    /// The folder for everything: new, empty, or of an earlier demo, which is replaced.
    #[arg(long, value_name = "DIR", default_value = "demo-run")]
    dir: PathBuf,
    /// Leave the cluster running.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo; the cluster is stopped however it ends, unless it is to be kept.
pub(crate) async fn demo(format: Format, demo: &Demo) -> anyhow::Result<Exit> {
    prepare(&demo.dir).await?;
    let spec = write_inputs(demo).await?;
    let settings = Settings { dir: demo.dir.clone(), coordinators: 1, workers: demo.workers, threads: 1 };
    eprintln!("starting a coordinator and {}", units::count(demo.workers, "worker"));
    let state = start(&settings).await?;
    let outcome = train(demo, &state, &spec).await;
    if demo.keep {
        eprintln!("the cluster goes on; stop it with `cappactl local down --dir {}`", demo.dir.display());
    } else {
        stop(&demo.dir).await?;
    }
    match outcome? {
        Ended::Complete(outcome) => {
            output::print(format, &*outcome)?;
            Ok(Exit::Ok)
        }
        Ended::Early(exit) => {
            let (dir, logs) = (demo.dir.display(), demo.dir.join("logs"));
            eprintln!("what was written stays in {dir}; the logs are in {}", logs.display());
            Ok(exit)
        }
    }
}

/// Makes the folder; replaces an earlier demo, stopping what still runs of it.
async fn prepare(dir: &Path) -> anyhow::Result<()> {
    let in_use = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    if in_use {
        if !dir.join(MARK).is_file() {
            let message = format!("{} holds files, but no earlier demo", dir.display());
            return Err(Failure::new(Exit::Usage, message).remedy("choose a new folder with --dir").into());
        }
        if stop(dir).await? {
            eprintln!("stopped the cluster of the earlier demo");
        }
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::write(dir.join(MARK), "")?;
    Ok(())
}

/// Writes corpus, manifests, tokenizer and job spec; gives the spec's path.
async fn write_inputs(demo: &Demo) -> anyhow::Result<PathBuf> {
    corpus::ready(SynthConfig::default(), &demo.dir).await?;
    let path = demo.dir.join("job.yaml");
    fs::write(&path, spec(demo.steps, demo.workers)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The demo's job. Its paths are relative to its file, so that the folder can be moved and the job submitted again.
fn spec(steps: u64, workers: u32) -> String {
    format!(
        "# What `cappactl local demo` trained; submit it again with `cappactl submit -f job.yaml --follow`.
apiVersion: cappa.dev/v1
name: demo
objective: {{ type: cappa, parallel_fraction: {PARALLEL_FRACTION} }}
# Twice as fast as the preset's patches of 8.
model: {{ preset: tiny, patch: 16 }}
data:
  train: corpus/train.json
  tokenizer: tokenizer.json
  text_length: 16
  lanes: 32
batch_size: 32
# In runs this short Muon learns several times as fast as AdamW (bench/README.md).
optimizer: {{ name: muon, learning_rate: 4e-3, beta2: 0.99 }}
schedule: cosine
duration: {{ steps: {steps} }}
workers: {workers}
checkpoint: {{ every: {every}, keep: 2 }}
evaluate:
  - name: objects
    data: corpus/heldout.json
    task: {{ type: classify, label: class, template: \"a {{}}\" }}
  - name: words
    data: corpus/heldout.json
    task: {{ type: classify, label: word, template: \"the word {{}}\" }}
  - name: attribute-swaps
    data: corpus/heldout.json
    task: {{ type: choose, negative: negatives.attribute }}
  - name: relation-swaps
    data: corpus/heldout.json
    task: {{ type: choose, negative: negatives.relation }}
  - name: captions
    data: corpus/heldout.json
    task: caption
    limit: 24
",
        every = (steps / 3).max(1)
    )
}

enum Ended {
    Complete(Box<Outcome>),
    Early(Exit),
}

async fn train(demo: &Demo, state: &State, spec: &Path) -> anyhow::Result<Ended> {
    let client = Client::new(Address::of_local(state, &demo.dir))?;
    let (spec, origin) = Source::of_file(spec).load_placed()?;
    let job = submit(&client, SubmitRequest { spec: spec.to_json(), ..Default::default() }, &origin).await?;
    eprintln!("submitted {}; http://{}/ shows it too", job.id, state.http);
    let followed = Box::pin(follow(&client, &job.id, Show::Progress)).await?;
    if followed.exit != Exit::Ok {
        return Ok(Ended::Early(followed.exit));
    }
    let report = report::gather(&client, &job.id).await?;
    let files = report.write(&demo.dir)?;
    let request = GetRequest { job_id: job.id };
    let checkpoints = client.jobs.clone().checkpoints(request).await.map_err(|status| client.failure(&status))?;
    let newest = checkpoints.into_inner().checkpoints.into_iter().next();
    let metrics = state.processes().filter_map(|(name, _)| state.metrics_of(name)).collect();
    Ok(Ended::Complete(Box::new(Outcome {
        checkpoint: newest.map(|checkpoint| checkpoint.manifest),
        html: files.html,
        json: files.json,
        metrics,
        dashboard: format!("http://{}/", state.http),
        running: demo.keep,
        report,
    })))
}

/// What there is to show for it.
#[derive(Serialize)]
struct Outcome {
    html: PathBuf,
    json: PathBuf,
    metrics: Vec<String>,
    dashboard: String,
    running: bool,
    /// URL of the newest checkpoint's manifest.
    checkpoint: Option<String>,
    report: Report,
}

impl Present for Outcome {
    fn table(&self) -> String {
        let verb = if self.running { "are" } else { "were" };
        let mut text = format!("\n{}\n\n", self.report.accuracies());
        text += &format!("report       {}\n             {}\n", self.html.display(), self.json.display());
        text += &format!("metrics      {verb} at {}\n", self.metrics.join("\n                     "));
        text += &format!("dashboard    {}\n", self.dashboard);
        if let Some(manifest) = &self.checkpoint {
            text += &format!("checkpoint   {manifest}\n\nto load it in Python (pip install safetensors numpy):\n\n");
            text += &python(manifest);
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.html.display().to_string()]
    }
}

/// Loads the parts that a manifest names; they lie in the folder of the generation that wrote them.
fn python(manifest: &str) -> String {
    let path = manifest.strip_prefix("file://").unwrap_or(manifest);
    format!(
        "  import json, pathlib, safetensors.numpy
  path = pathlib.Path({path:?})
  manifest = json.loads(path.read_text())[\"contents\"]
  folder, tensors = path.parent / str(manifest[\"generation\"]), {{}}
  for part in manifest[\"parts\"]:
      tensors |= safetensors.numpy.load_file(folder / part[\"name\"])
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_shared::spec::{JobSpec, SpecBase};

    #[test]
    fn the_demo_submits_a_valid_spec() {
        let spec = JobSpec::parse(&spec(3, 2), &SpecBase::folder("/somewhere")).unwrap();
        assert_eq!(spec.data.train.only().unwrap().source, "file:///somewhere/corpus/train.json");
        assert_eq!(spec.evaluate.len(), 5);
    }

    #[tokio::test]
    async fn a_folder_that_is_no_earlier_demo_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("thesis.tex");
        fs::write(&file, "years of work").unwrap();
        assert!(prepare(dir.path()).await.is_err());
        fs::remove_file(&file).unwrap();
        prepare(dir.path()).await.unwrap();
        fs::write(dir.path().join("job.yaml"), "of the first demo").unwrap();
        prepare(dir.path()).await.unwrap();
        assert!(!dir.path().join("job.yaml").exists());
    }
}
