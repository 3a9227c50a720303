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

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cappa_data::index::IndexOptions;
use cappa_data::synth::{Classes, SynthConfig};
use cappa_proto::{GetRequest, SubmitRequest};
use cappa_shared::manifest::Filter;
use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::plan::{Run, Scale, Size, Transfer};
use self::results::{Ran, Study, VERSION};
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
    /// How many workers to start, with one thread each.
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,
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
    let size = Size { transfer_steps: size.transfer_steps.min(steps), ..size };
    let mark = Mark { scale: arguments.scale, steps };
    if prepare(&arguments.dir, &mark)? {
        write_corpus(&arguments.dir, &size, &mark).await?;
    }
    let runs = plan::runs(&size, steps, arguments.seeds.unwrap_or(size.seeds));
    let settings = Settings { dir: arguments.dir.clone(), coordinators: 1, workers: arguments.workers, threads: 1 };
    let state = start(&settings).await?;
    let outcome = Box::pin(Studying::new(arguments, &state, size, steps)?.all(&runs)).await;
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
/// of their own.
async fn write_corpus(dir: &Path, size: &Size, mark: &Mark) -> anyhow::Result<()> {
    let (samples, heldout) = size.samples;
    corpus::ready(SynthConfig { samples, heldout, ..SynthConfig::default() }, dir).await?;
    let filter = Filter { fields: vec!["class".into()], ..Filter::default() };
    for split in ["train", "heldout"] {
        let file = |name: String| dir.join("corpus").join(name).to_string_lossy().into_owned();
        let (shards, manifest) = (file(format!("{split}-*.tar")), file(format!("{split}-objects.json")));
        corpus::index(&[shards], Some(&manifest), IndexOptions { filter: filter.clone(), ..Default::default() })
            .await?;
    }
    let path = dir.join(MARK);
    fs::write(&path, serde_json::to_vec(mark)?).with_context(|| format!("cannot write {}", path.display()))
}

enum Ended {
    Complete(Box<Shown>),
    Early(Exit),
}

/// A study that is under way.
struct Studying<'a> {
    arguments: &'a Arguments,
    client: Client,
    size: Size,
    classes: Vec<String>,
    study: Study,
}

impl<'a> Studying<'a> {
    fn new(arguments: &'a Arguments, state: &State, size: Size, steps: u64) -> anyhow::Result<Self> {
        let path = arguments.dir.join("corpus/classes.json");
        let classes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let classes: Classes = serde_json::from_slice(&classes).context("classes.json is damaged")?;
        let study = Study {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            generated: Timestamp::now(),
            scale: arguments.scale,
            steps,
            batch_size: size.batch_size,
            missing: 0,
            ran: Vec::new(),
        };
        let client = Client::new(Address::of_local(state, &arguments.dir))?;
        Ok(Self { arguments, client, size, classes: classes.class, study })
    }

    async fn all(mut self, runs: &[Run]) -> anyhow::Result<Ended> {
        for (number, run) in runs.iter().enumerate() {
            self.study.missing = runs.len() - number;
            eprintln!("{} of {}: {}", number + 1, runs.len(), run.name());
            if let Some(exit) = Box::pin(self.one(run)).await? {
                return Ok(Ended::Early(exit));
            }
            self.study.missing -= 1;
            self.write()?;
        }
        let (html, json) = self.write()?;
        Ok(Ended::Complete(Box::new(Shown { html, json, study: self.study })))
    }

    /// Pre-trains and transfers; an exit code where that ended early.
    async fn one(&mut self, run: &Run) -> anyhow::Result<Option<Exit>> {
        let workers = self.arguments.workers;
        let spec = plan::pretraining(run, &self.size, workers);
        let manifest = match self.job(run, None, &spec).await? {
            Ok(job) => self.checkpoint(&job).await?,
            Err(exit) => return Ok(Some(exit)),
        };
        for &transfer in run.transfers {
            let spec = plan::transfer(run, transfer, &manifest, &self.classes, &self.size, workers);
            if let Err(exit) = self.job(run, Some(transfer), &spec).await? {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }

    /// Runs a job to its end, or finds that it has run, and notes its numbers; its id, or the exit code of a job that did not
    /// succeed.
    async fn job(&mut self, run: &Run, transfer: Option<Transfer>, spec: &str) -> anyhow::Result<Result<String, Exit>> {
        let name = [Some(run.name()), transfer.map(|transfer| transfer.name().to_owned())];
        let name = name.into_iter().flatten().collect::<Vec<_>>().join("-");
        let path = self.arguments.dir.join(format!("{name}.yaml"));
        fs::write(&path, spec).with_context(|| format!("cannot write {}", path.display()))?;
        let (spec, origin) = Source::of_file(&path).load_placed()?;
        let request = SubmitRequest { spec: spec.to_json(), idempotency_key: name, ..Default::default() };
        let job = submit(&self.client, request, &origin).await?;
        let followed = Box::pin(follow(&self.client, &job.id, Show::Progress)).await?;
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
        self.study.ran.push(Ran {
            setting: run.setting,
            seed: run.seed,
            transfer,
            job: job.id.clone(),
            loss: report.job.latest.as_ref().map_or(f64::NAN, |point| point.loss),
            scores: outcomes.iter().flat_map(|outcome| tasks::scores(outcome, after)).collect(),
        });
        Ok(Ok(job.id))
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

    fn write(&mut self) -> anyhow::Result<(PathBuf, PathBuf)> {
        self.study.generated = Timestamp::now();
        let (html, json) = (self.arguments.dir.join("study.html"), self.arguments.dir.join("study.json"));
        fs::write(&html, page::page(&self.study)).with_context(|| format!("cannot write {}", html.display()))?;
        fs::write(&json, serde_json::to_vec_pretty(&self.study)?)
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
