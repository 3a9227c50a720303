//! `cappactl audit`: was every sample of every epoch used exactly once? Proven from the job's manifests alone.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use cappa_shared::checkpoint::{self, Audit, CheckpointManifest, data_digest};
use cappa_shared::manifest::DataManifest;
use cappa_shared::order::JobOrder;
use cappa_shared::spec::JobSpec;
use cappa_shared::storage;
use clap::Args;
use serde::Serialize;

use super::connect;
use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::{self, Present};
use crate::spec::Source;
use crate::units::grouped;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFolder,
}

/// A job by its id, or by its folder when there is no coordinator to ask.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct JobFolder {
    /// The job's id.
    #[arg(value_name = "JOB")]
    job: Option<String>,
    /// Without a coordinator: URL or path of the job's folder, or with JOB of the store.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl JobFolder {
    /// The job's id, where a coordinator is to be asked about it.
    pub(crate) fn of_coordinator(&self) -> Option<&str> {
        self.job.as_deref().filter(|_| self.store.is_none())
    }

    /// The spec as it ran, as JSON, from the file or the coordinator; a file may also be the document that is submitted.
    pub(crate) async fn spec(&self, global: &Global, file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
        match (file, self.of_coordinator()) {
            (Some(file), _) => {
                let content = fs::read(file).with_context(|| format!("cannot read --spec {}", file.display()))?;
                let as_it_ran = serde_json::from_slice::<JobSpec>(&content).is_ok();
                Ok(if as_it_ran { content } else { serde_json::to_vec(&Source::of_file(file).load()?)? })
            }
            (None, Some(job)) => Ok(connect(global)?.job(job).await?.spec_json.into_bytes()),
            (None, None) => {
                let message = "without a coordinator nothing says what the job is";
                let remedy = "name the job's spec with --spec FILE: the document that was submitted, or `spec` of `cappactl \
                              describe JOB -o json`";
                Err(Failure::new(Exit::Usage, message).remedy(remedy).into())
            }
        }
    }

    /// URL of the job's folder.
    pub(crate) async fn url(&self, global: &Global) -> anyhow::Result<String> {
        match (&self.job, &self.store) {
            (Some(job), None) => Ok(connect(global)?.job(job).await?.folder),
            (job, Some(store)) => {
                let here = std::env::current_dir().context("there is no current folder")?;
                let store = if store.contains("://") {
                    store.trim_end_matches('/').to_owned()
                } else {
                    storage::absolute(&here, store.as_ref()).display().to_string()
                };
                Ok(job.as_ref().map_or(store.clone(), |job| format!("{store}/jobs/{job}")))
            }
            (None, None) => unreachable!("the command line needs one of them"),
        }
    }
}

#[derive(Serialize)]
struct View {
    folder: String,
    proven: bool,
    #[serde(flatten)]
    audit: Audit,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let folder = arguments.job.url(global).await?;
    let audit = audit(&folder).await?;
    let proven = audit.is_proven();
    output::print(global.output, &View { folder, proven, audit })?;
    Ok(if proven { Exit::Ok } else { Exit::Failed })
}

async fn audit(folder: &str) -> anyhow::Result<Audit> {
    let at = storage::open(folder)?;
    let (manifests, mut findings) = checkpoint::history(&at).await.with_context(|| format!("cannot read {folder}"))?;
    let chain = checkpoint::chain(&manifests, &mut findings);
    let Some(newest) = chain.last().filter(|newest| newest.contents().account.is_some()) else {
        return Ok(Audit::unfounded(findings));
    };
    match order_of(newest).await? {
        Ok(order) => {
            let work = chain.into_iter().cloned().collect::<Vec<_>>();
            let audit = move || checkpoint::audit(&work.iter().collect::<Vec<_>>(), &order, findings);
            Ok(tokio::task::spawn_blocking(audit).await?)
        }
        Err(finding) => {
            findings.push(finding);
            Ok(Audit::unfounded(findings))
        }
    }
}

/// The sample order that a checkpoint's account records, or why its data can't give it any more.
pub(crate) async fn order_of(manifest: &CheckpointManifest) -> anyhow::Result<Result<JobOrder, String>> {
    let contents = manifest.contents();
    let account = contents.account.as_ref().context("the manifest keeps no account")?;
    let mut data = Vec::new();
    for source in &account.order.sources {
        let url = &source.manifest;
        let document = storage::open(url)?.get("").await.with_context(|| format!("cannot read {url}"))?;
        data.push(DataManifest::from_json(&document).with_context(|| url.clone())?);
    }
    let digests: Vec<&str> = data.iter().map(DataManifest::digest).collect();
    if data_digest(&digests) != contents.data_digest {
        return Ok(Err("the data manifest is not the one that the job was trained on: it was written again".into()));
    }
    match data.iter().map(|source| account.order.counts(source)).collect() {
        Some(counts) => Ok(Ok(account.order.order(counts)?)),
        None => Ok(Err("the data manifest does not count the captions of its samples, which the order goes by".into())),
    }
}

impl Present for View {
    fn table(&self) -> String {
        let Audit { step, checkpoints, groups, epochs, rewinds, quarantined, findings } = &self.audit;
        let mut text = if self.proven {
            format!("proven up to step {step}: every sample of every epoch was used exactly once\n")
        } else {
            let lines = findings.iter().map(|finding| format!("  {finding}\n"));
            format!("not proven, {} findings\n{}", findings.len(), lines.collect::<String>())
        };
        text += &format!("{} manifests, each named by the next one's digest\n\n", checkpoints.len());
        let rows = groups.iter().map(|group| {
            [group.generation.0, u64::from(group.world_size), group.first.0, group.end.0]
                .map(|n| n.to_string())
                .to_vec()
        });
        text += &output::columns(&[">GENERATION", ">RANKS", ">FROM STEP", ">TO STEP"], rows);
        let rows = epochs.iter().map(|epoch| {
            let counts = [epoch.samples, epoch.used, epoch.repeated].map(grouped);
            [epoch.source.to_string(), epoch.epoch.to_string()].into_iter().chain(counts).collect()
        });
        text += "\n\n";
        text += &output::columns(&[">SOURCE", ">EPOCH", ">SAMPLES", ">USED", ">TWICE"], rows);
        if !rewinds.is_empty() {
            let rows = rewinds.iter().map(|rewind| {
                let taken_back = format!("{} to {}", rewind.to.next(), rewind.step);
                vec![rewind.generation.to_string(), rewind.step.to_string(), rewind.to.to_string(), taken_back]
            });
            text += "\n\nrewound, and so their samples were used to no effect:\n";
            text += &output::columns(&[">GENERATION", ">AT STEP", ">TO STEP", "UPDATES TAKEN BACK"], rows);
        }
        if !quarantined.is_empty() {
            let rows = quarantined
                .iter()
                .map(|bad| vec![bad.shard.clone(), bad.index.to_string(), bad.key.clone(), bad.reason.clone()]);
            text += "\n\nquarantined, and so without weight:\n";
            text += &output::columns(&["SHARD", ">INDEX", "KEY", "REASON"], rows);
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.audit.findings.clone()
    }
}
