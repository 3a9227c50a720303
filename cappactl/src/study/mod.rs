//! `cappactl local study`: the paper's comparison of systems at small scale, as one command.
//!
//! | file | what it holds |
//! |---|---|
//! | `plan` | which networks are trained, and their specs |
//! | `tasks` | what is measured of them |
//! | `results` | means over seeds, and the paper's claims |
//! | `page` | the report |
//!
//! Jobs have names of their own within the study and are submitted under them as idempotency keys, so that a study that was
//! interrupted goes on where it was when it is started in the same folder again.

mod page;
mod plan;
mod results;
mod tasks;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;

use anyhow::Context as _;
use cappa_data::index::IndexOptions;
use cappa_data::synth::{Classes, SynthConfig};
use cappa_proto::{GetRequest, SubmitRequest};
use cappa_shared::manifest::Filter;
use clap::Args;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::plan::{Run, Scale, Size, Transfer};
use self::results::{Ran, Study};
use crate::address::Address;
use crate::client::Client;
use crate::commands::submit::submit;
use crate::corpus;
use crate::exit::{Exit, Failure};
use crate::follow::{Show, follow};
use crate::local::{Settings, State, start, stop};
use crate::output::{self, Format, Present};
use crate::report;
use crate::spec::Source;

/// Marks a folder as one in which a study may go on; says which.
const MARK: &str = ".cappa-study";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How much is trained.
    #[arg(long, value_enum, default_value_t = Scale::Cpu)]
    scale: Scale,
    /// Optimizer updates of a full run [default: the scale's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Runs of each system [default: the scale's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How many workers to start, with one thread each; each trains another network, and all share a GPU [default: the scale's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// The folder for everything: new, empty, or of the same study, which then goes on.
    #[arg(long, value_name = "DIR", default_value = "study-run")]
    dir: PathBuf,
}

/// What may not change while a study goes on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    scale: Scale,
    steps: u64,
}

/// Runs or continues a study; the cluster is stopped however it ends.
pub(crate) async fn study(format: Format, arguments: &Arguments) -> anyhow::Result<Exit> {
    let size = arguments.scale.size();
    let steps = arguments.steps.unwrap_or(size.steps);
    let workers = arguments.workers.unwrap_or(size.workers);
    let size = Size { transfer_steps: size.transfer_steps.min(steps), workers, ..size };
    let mark = Mark { scale: arguments.scale, steps };
    if prepare(&arguments.dir, &mark)? {
        write_corpus(&arguments.dir, &size, &mark).await?;
    }
    let runs = plan::runs(&size, steps, arguments.seeds.unwrap_or(size.seeds));
    let settings = Settings { dir: arguments.dir.clone(), coordinators: 1, workers, threads: 1 };
    let state = start(&settings).await?;
    let study = Study::of(arguments.scale, steps, size.batch_size);
    let outcome = Box::pin(Studying::new(&arguments.dir, &state, size)?.all(study, &runs)).await;
    stop(&arguments.dir).await?;
    match outcome? {
        Ended::Complete(shown) => output::print(format, &*shown).map(|()| Exit::Ok),
        Ended::Early(exit) => {
            eprintln!("what was found so far is in {}; the same command goes on", arguments.dir.display());
            Ok(exit)
        }
    }
}

/// Makes the folder; whether it is new.
fn prepare(dir: &Path, mark: &Mark) -> anyhow::Result<bool> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    match fs::read(dir.join(MARK)) {
        Ok(found) if serde_json::from_slice::<Mark>(&found).is_ok_and(|found| found == *mark) => return Ok(false),
        Ok(_) => {
            let message = format!("{} holds a study of another scale or length", dir.display());
            return Err(Failure::new(Exit::Usage, message).remedy("choose a new folder with --dir").into());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.join(MARK).display())),
    }
    if fs::read_dir(dir)?.next().is_some() {
        let message = format!("{} holds files, but no study that can go on", dir.display());
        return Err(Failure::new(Exit::Usage, message).remedy("choose a new folder with --dir").into());
    }
    Ok(true)
}

/// Corpus, manifests and tokenizer; marks the folder when all is there. The scenes with one object, which have a class, have manifests
/// of their own, and so have those of which few-shot regression draws.
async fn write_corpus(dir: &Path, size: &Size, mark: &Mark) -> anyhow::Result<()> {
    let (samples, heldout) = size.samples;
    let config = SynthConfig { level: size.level, samples, heldout, ..SynthConfig::default() };
    let shards = size.few_shot_samples.div_ceil(config.samples_per_shard);
    corpus::ready(config, dir).await?;

    let folder = dir.join("corpus");
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let filter = Filter { fields: vec!["class".into()], ..Filter::default() };
    for split in ["train", "heldout"] {
        let manifest = file(&format!("{split}-objects.json"));
        let options = IndexOptions { filter: filter.clone(), ..Default::default() };
        corpus::index(&[file(&format!("{split}-*.tar"))], Some(&manifest), options).await?;
    }
    let first = file(&format!("train-{{000000..{:06}}}.tar", shards - 1));
    corpus::index(&[first], Some(&file("few-shot.json")), IndexOptions::default()).await?;

    let path = dir.join(MARK);
    fs::write(&path, serde_json::to_vec(mark)?).with_context(|| format!("cannot write {}", path.display()))
}

enum Ended {
    Complete(Box<Shown>),
    Early(Exit),
}

/// A study that is under way.
struct Studying<'a> {
    dir: &'a Path,
    client: Client,
    size: Size,
    classes: Vec<String>,
}

impl<'a> Studying<'a> {
    fn new(dir: &'a Path, state: &State, size: Size) -> anyhow::Result<Self> {
        let path = dir.join("corpus/classes.json");
        let classes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let classes: Classes = serde_json::from_slice(&classes).context("classes.json is damaged")?;
        let client = Client::new(Address::of_local(state, dir))?;
        Ok(Self { dir, client, size, classes: classes.class })
    }

    /// Trains as many networks at a time as there are workers; the report on disk is always of all that are complete.
    async fn all(&self, mut study: Study, runs: &[Run]) -> anyhow::Result<Ended> {
        let one = async |(number, run): (usize, &Run)| {
            eprintln!("{} of {}: {}", number + 1, runs.len(), run.name());
            (number, Box::pin(self.one(run)).await)
        };
        // Lazily: a run is begun when a worker is free for it.
        let mut ended =
            pin!(stream::iter(runs.iter().enumerate()).map(one).buffer_unordered(self.size.workers as usize));
        let mut complete = BTreeMap::new();
        let mut written = self.write(&mut study)?;
        while let Some((number, ran)) = ended.next().await {
            match ran? {
                Ok(ran) => complete.insert(number, ran),
                Err(exit) => return Ok(Ended::Early(exit)),
            };
            study.missing = runs.len() - complete.len();
            study.ran = complete.values().flatten().cloned().collect();
            written = self.write(&mut study)?;
        }
        let (html, json) = written;
        Ok(Ended::Complete(Box::new(Shown { html, json, study })))
    }

    /// Pre-trains and transfers; an exit code where that ended early.
    async fn one(&self, run: &Run) -> anyhow::Result<Result<Vec<Ran>, Exit>> {
        let spec = plan::pretraining(run, &self.size);
        let pretrained = match self.job(run, None, &spec).await? {
            Ok(ran) => ran,
            Err(exit) => return Ok(Err(exit)),
        };
        let manifest = self.checkpoint(&pretrained.job).await?;
        let mut all = vec![pretrained];
        for &transfer in run.transfers {
            let spec = plan::transfer(run, transfer, &manifest, &self.classes, &self.size);
            match self.job(run, Some(transfer), &spec).await? {
                Ok(ran) => all.push(ran),
                Err(exit) => return Ok(Err(exit)),
            }
        }
        Ok(Ok(all))
    }

    /// Runs a job to its end, or finds that it has run; gives its numbers, or the exit code of a job that did not
    /// succeed.
    async fn job(&self, run: &Run, transfer: Option<Transfer>, spec: &str) -> anyhow::Result<Result<Ran, Exit>> {
        let name = [Some(run.name()), transfer.map(|transfer| transfer.name().to_owned())];
        let name = name.into_iter().flatten().collect::<Vec<_>>().join("-");
        let path = self.dir.join(format!("{name}.yaml"));
        fs::write(&path, spec).with_context(|| format!("cannot write {}", path.display()))?;
        let (spec, origin) = Source::of_file(&path).load_placed()?;
        let request = SubmitRequest { spec: spec.to_json(), idempotency_key: name, ..Default::default() };
        let job = submit(&self.client, request, &origin).await?;
        let show = if self.size.workers > 1 { Show::Quiet } else { Show::Progress };
        let followed = Box::pin(follow(&self.client, &job.id, show)).await?;
        match followed.exit {
            Exit::Ok => {}
            Exit::Interrupted => return Ok(Err(Exit::Interrupted)),
            exit => {
                eprintln!("job {} did not succeed: {}", job.id, followed.job.message);
                return Ok(Err(exit));
            }
        }
        let report = report::gather(&self.client, &job.id).await?;
        let after = transfer.map(Transfer::name);
        let outcomes = report.final_results().map(|results| &results.evaluations[..]).unwrap_or_default();
        Ok(Ok(Ran {
            setting: run.setting,
            seed: run.seed,
            transfer,
            job: job.id,
            loss: report.job.latest.as_ref().map_or(f64::NAN, |point| point.loss),
            scores: outcomes.iter().flat_map(|outcome| tasks::scores(outcome, after)).collect(),
        }))
    }

    /// URL of the manifest of a job's newest checkpoint.
    async fn checkpoint(&self, job: &str) -> anyhow::Result<String> {
        let request = GetRequest { job_id: job.to_owned() };
        let reply =
            self.client.jobs.clone().checkpoints(request).await.map_err(|status| self.client.failure(&status))?;
        let newest = reply.into_inner().checkpoints.into_iter().next();
        let none = || Failure::new(Exit::Failed, format!("job {job} has no checkpoint"));
        Ok(newest.ok_or_else(none)?.manifest)
    }

    fn write(&self, study: &mut Study) -> anyhow::Result<(PathBuf, PathBuf)> {
        study.generated = Timestamp::now();
        let (html, json) = (self.dir.join("study.html"), self.dir.join("study.json"));
        fs::write(&html, page::page(study)).with_context(|| format!("cannot write {}", html.display()))?;
        fs::write(&json, serde_json::to_vec_pretty(study)?)
            .with_context(|| format!("cannot write {}", json.display()))?;
        Ok((html, json))
    }
}

/// What there is to show of a study.
#[derive(Serialize)]
struct Shown {
    html: PathBuf,
    json: PathBuf,
    study: Study,
}

impl Present for Shown {
    fn table(&self) -> String {
        let Self { html, json, study } = self;
        format!("{}\nreport  {}\n        {}\n", page::summary(study), html.display(), json.display())
    }

    fn names(&self) -> Vec<String> {
        vec![self.html.display().to_string()]
    }
}
