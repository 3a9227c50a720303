//! `cappa-worker import`: weights of other programs as a committed checkpoint, from which jobs start.

mod description;
mod source;

use std::io::Write as _;

use anyhow::{Context as _, Result};
use cappa_model::import::{Hints, import as network_of};
use cappa_shared::checkpoint::{CheckpointManifest, Contents, Part, attempt_folder, commit, manifest_path, part_name};
use cappa_shared::ids::{Generation, Rank, Step};
use cappa_shared::storage::{self, Location};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tch::Tensor;

use crate::checkpoint::serialise;
use crate::cli::ImportArgs;
use source::Source;

/// Whose checkpoint it is; no job has this id, which has no random suffix.
const JOB: &str = "imported";

/// Writes the checkpoint, and prints what a job that starts from it says.
pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    let source = Source::read(&args.source)?;
    let [heads, image_size, text_length] = [args.heads, args.image_size, args.text_length].map(|n| n.map(i64::from));
    let hints = Hints { heads, image_size, text_length, documents: source.documents };
    let from = args.source.display();
    let imported =
        network_of(source.tensors, &hints).with_context(|| format!("{from} holds weights of another network"))?;
    for note in &imported.notes {
        eprintln!("note: {note}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let named = |(name, tensor)| (format!("params/{name}"), tensor);
    let params: Vec<_> = imported.params.into_iter().map(named).collect();
    let folder = storage::create(&args.out)?;
    runtime
        .block_on(write(&folder, &params, &source.digest))
        .with_context(|| format!("--out {} can't be written", args.out))?;
    let manifest = format!("{}/{}", args.out.trim_end_matches('/'), manifest_path(Step(0)));
    let description = description::of(imported.program, &imported.architecture, &manifest);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{description:#}")?;
    } else {
        description::lines(&description).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
}

/// Commits parameters as the checkpoint of a run that made no update. What it was trained on is known to nobody here: in the
/// places of the digests of spec and data stands that of the file.
async fn write(folder: &Location, params: &[(String, Tensor)], digest: &str) -> Result<()> {
    let (step, generation) = (Step(0), Generation(0));
    let content = serialise(params, None)?;
    let part = Part {
        name: part_name(Rank(0), 1),
        bytes: content.len() as u64,
        sha256: hex::encode(Sha256::digest(&content)),
    };
    folder.put_large(&format!("{}/{}", attempt_folder(step, generation), part.name), content).await?;
    let contents = Contents {
        job: JOB.parse().expect("a label"),
        step,
        generation,
        world_size: 1,
        spec_digest: digest.to_owned(),
        data_digest: digest.to_owned(),
        parts: vec![part],
        quarantined: Vec::new(),
        created: Timestamp::now(),
        account: None,
    };
    Ok(commit(folder, &CheckpointManifest::new(contents)?).await?)
}
