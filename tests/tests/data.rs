//! The same samples for everybody, each exactly once, wherever the data lies and whatever happens meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cappa_proto::{ChangeRequest, Job, JobState};
use cappa_shared::manifest::DataManifest;
use cappa_test_stores::{Fault, Rule, S3Server};
use cappa_tests::corpus::cappactl;
use cappa_tests::jobs::{Curve, JobSpec};
use cappa_tests::{Cluster, Corpus, Options};
use serde_json::Value;
use tonic_types::{FieldViolation, StatusExt as _};

const STEPS: u64 = 50;
/// fp32 sums in another order.
const TOLERANCE: f64 = 1e-4;
const BUCKET: &str = "data";

/// A job that ran to its end, on a cluster that is still there.
struct Ran {
    cluster: Cluster,
    job: String,
    curve: Curve,
}

impl Ran {
    /// What the audit of its folder says, without a coordinator.
    fn audit(&self) -> Result<Value> {
        let folder = self.cluster.store_folder().join("jobs").join(&self.job);
        let folder = folder.to_str().context("a temporary folder has a plain name")?;
        Ok(serde_json::from_str(&cappactl(&["audit", "--store", folder, "-o", "json"])?)?)
    }
}

async fn run(corpus: &Corpus, workers: usize, spec: &JobSpec, options: Options) -> Result<Ran> {
    let cluster = Cluster::start(Options { workers, ..options })?;
    cluster.wait_idle(workers).await?;
    let spec = JobSpec { workers: (workers as u32, workers as u32), ..spec.clone() };
    let job = cluster.submit(&spec, corpus).await?;
    let curve = cluster.finish(&job).await?;
    Ok(Ran { cluster, job, curve })
}

/// What a process needs to open a server's bucket.
fn environment(server: &S3Server) -> Vec<(String, String)> {
    server.environment().map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn in_bucket(name: &str) -> Option<String> {
    Some(format!("'s3://{BUCKET}/{name}'"))
}

/// Epochs that an audit found complete, of a source: their number, and the samples of each.
fn complete_epochs(audit: &Value, source: u64) -> (usize, u64) {
    let epochs = audit["epochs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_source = epochs.iter().filter(|epoch| epoch["source"] == source);
    let complete: Vec<&Value> = of_source.filter(|epoch| epoch["used"] == epoch["samples"]).collect();
    (complete.len(), complete.first().map_or(0, |epoch| epoch["samples"].as_u64().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_while_training_reads_it_gives_the_curve_of_local_files() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let local = run(&corpus, 1, &JobSpec::default(), Options::default()).await?.curve;
    let server = corpus.serve(BUCKET)?;
    let spec = JobSpec { train: in_bucket("train.json"), tokenizer: in_bucket("tokenizer.json"), ..JobSpec::default() };
    for rule in [
        Rule::new(Fault::INTERNAL).gets().every(3),
        Rule::new(Fault::Reset { after: 10_000 }).gets().on(".tar").every(3),
    ] {
        server.faults().clear();
        let (before, seen) = (server.faults().injected(), server.faults().seen().len());
        server.faults().add(rule.clone());
        // Less than the shards of the corpus take: they are read again in every epoch.
        let options = Options { cache_mib: Some(1), env: environment(&server), ..Options::default() };
        let remote = run(&corpus, 2, &spec, options).await?;
        remote.curve.assert_same(&local, STEPS, TOLERANCE);
        let injected = server.faults().injected() - before;
        let reads = server.faults().seen()[seen..].iter().filter(|seen| seen.target.contains(".tar")).count();
        println!("{rule:?}: {injected} faults in {reads} reads of shards");
        assert!(injected >= 4, "{rule:?} met {injected} of {reads} reads");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixture_by_weight_is_the_same_run_on_one_and_two_workers_and_audited() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let at = |name: &str| corpus.path(name).display().to_string();
    let train =
        format!("[{{ source: {}, weight: 3 }}, {{ source: {}, weight: 1 }}]", at("train.json"), at("heldout.json"));
    let spec = JobSpec { train: Some(train), checkpoint_every: 20, ..JobSpec::default() };
    let one = run(&corpus, 1, &spec, Options::default()).await?;
    let two = run(&corpus, 2, &spec, Options::default()).await?;
    two.curve.assert_same(&one.curve, STEPS, TOLERANCE);
    for ran in [one, two] {
        let audit = ran.audit()?;
        assert_eq!((&audit["proven"], &audit["step"]), (&true.into(), &STEPS.into()), "{audit}");
        // 1,200 slots: 900 of the 200 samples, 300 of the 100.
        let (train, heldout) = (complete_epochs(&audit, 0), complete_epochs(&audit, 1));
        assert_eq!((train.1, heldout.1), (200, 100), "{audit}");
        assert!(train.0 >= 3 && heldout.0 >= 2, "{audit}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_worker_and_coordinator_were_killed_is_proven_to_have_used_every_sample_once() -> Result<()> {
    /// So many that it is met before it is over.
    const STEPS: u64 = 100;
    let corpus = Corpus::new(400)?;
    let mut cluster = Cluster::start(Options { workers: 3, ..Options::default() })?;
    cluster.wait_idle(3).await?;
    let spec = JobSpec { steps: STEPS, workers: (3, 3), checkpoint_every: 10, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    cluster.wait_step(&job, 12).await?;
    cluster.kill_worker(1);
    cluster.wait_step(&job, 25).await?;
    cluster.kill_coordinator();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.start_coordinator()?;
    let curve = cluster.finish(&job).await?;
    let ran = Ran { cluster, job, curve };
    assert_eq!(ran.curve.0.len() as u64, STEPS);
    let audit = ran.audit()?;
    assert_eq!((&audit["proven"], &audit["step"]), (&true.into(), &STEPS.into()), "{audit}");
    let groups = audit["groups"].as_array().context("groups")?;
    let sizes: Vec<_> = groups.iter().map(|group| group["world_size"].as_u64()).collect();
    assert!(sizes.first() == Some(&Some(3)) && sizes.contains(&Some(2)), "the loss is in the account: {audit}");
    // 17 updates are an epoch.
    assert_eq!(complete_epochs(&audit, 0), (5, 400), "{audit}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caption_is_a_sample_of_its_own_for_one_and_two_workers_the_audit_and_a_replay() -> Result<()> {
    let corpus = Corpus::of_level(200, "medium")?;
    corpus.index(&["--every-caption"])?;
    let spec = JobSpec { data: ", captions: { choose: all }".into(), ..JobSpec::default() };
    let one = run(&corpus, 1, &spec, Options::default()).await?;
    let two = run(&corpus, 2, &spec, Options::default()).await?;
    two.curve.assert_same(&one.curve, STEPS, TOLERANCE);
    let audit = two.audit()?;
    assert_eq!(audit["proven"], true, "{audit}");
    let (epochs, captions) = complete_epochs(&audit, 0);
    assert!(epochs >= 1 && captions > 300, "images have one to three captions: {audit}");
    let url = two.cluster.url();
    let replayed = cappactl(&["--coordinator", &url, "replay", &two.job, "--step", "7", "-o", "json"])?;
    let replayed: Value = serde_json::from_str(&replayed)?;
    let slots = replayed["slots"].as_array().context("slots")?;
    assert!(slots.iter().any(|slot| slot["choice"].as_u64() > Some(0)), "{replayed}");
    assert!(slots.iter().all(|slot| slot["choice"].as_u64() < slot["captions"].as_u64()), "{replayed}");
    // Without the counts the job is refused before it is queued.
    corpus.index(&[])?;
    let refused = two.cluster.submit(&spec, &corpus).await.expect_err("its manifest counts no captions");
    let status = refused.downcast_ref::<tonic::Status>().context("a refusal")?;
    let places = status.get_details_bad_request().context("the places")?.field_violations;
    let names = |place: &FieldViolation| place.field == "data.train" && place.description.contains("--every-caption");
    assert!(places.iter().any(names), "{places:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shorter_texts_for_autoregressive_examples_change_no_loss() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let whole = run(&corpus, 1, &JobSpec::default(), Options::default()).await?.curve;
    // Most captions of this corpus are far shorter than the 24 tokens that the model is made for.
    let spec = JobSpec { data: ", text_length: [8, 12, 24]".into(), ..JobSpec::default() };
    for workers in [1, 2] {
        run(&corpus, workers, &spec, Options::default()).await?.curve.assert_same(&whole, STEPS, TOLERANCE);
    }
    Ok(())
}

/// What a rank says that waits for its store.
const WAITS: &str = "(worker-1) has waited";

/// A job of two workers, one of which waits for its store.
struct Waiting {
    cluster: Cluster,
    job: String,
    /// The step at which that was first seen.
    step: u64,
    /// The server of the one that waits; its fault ends with [`S3Server::faults`]' clear.
    bad: S3Server,
    _good: S3Server,
}

impl Waiting {
    /// Runs the job until the store has vanished for one of the workers, and that one says so.
    async fn start(spec: &JobSpec, corpus: &Corpus) -> Result<Self> {
        // Two ways to the same shards, of which one worker's fails.
        let (good, bad) = (corpus.serve(BUCKET)?, corpus.serve(BUCKET)?);
        // Less than a rank's shards take: they are read again in the second epoch.
        let mut options = Options { cache_mib: Some(1), env: environment(&good), ..Options::default() };
        options.worker_env.insert(1, environment(&bad));
        let cluster = Cluster::start(options)?;
        cluster.wait_idle(2).await?;
        let (train, tokenizer) = (in_bucket("train.json"), in_bucket("tokenizer.json"));
        let spec = JobSpec { train, tokenizer, workers: (2, 2), ..spec.clone() };
        let job = cluster.submit(&spec, corpus).await?;
        cluster.wait_step(&job, 5).await?;
        bad.faults().add(Rule::new(Fault::NO_BUCKET));
        let seen = cluster.wait(&job, "the wait", |job| job.message.contains(WAITS)).await?;
        assert!(seen.message.contains(&format!("s3://{BUCKET}/shards/train-")), "{}", seen.message);
        Ok(Self { cluster, job, step: seen.step, bad, _good: good })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_vanishes_for_one_rank_is_named_breaks_no_group_and_changes_no_loss() -> Result<()> {
    /// Longer than a collective may take with the smallest time-outs.
    const OUTAGE: Duration = Duration::from_secs(65);
    const STEPS: u64 = 100;
    let corpus = Corpus::new(1200)?;
    let spec = JobSpec { steps: STEPS, ..JobSpec::default() };
    let undisturbed = run(&corpus, 1, &spec, Options::default()).await?.curve;
    let Waiting { cluster, job, mut step, bad, _good } = Waiting::start(&spec, &corpus).await?;
    let mut stands_since = Instant::now();
    while stands_since.elapsed() < OUTAGE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = cluster.job(&job).await?;
        let is_undisturbed = now.state() == JobState::Running && (now.generation, now.recoveries) == (1, 0);
        ensure!(is_undisturbed && now.message.contains(WAITS), "{now:?}\n{}", cluster.logs());
        if now.step != step {
            (stands_since, step) = (Instant::now(), now.step);
        }
    }
    assert!(step < STEPS, "training stood still");
    let described = cappactl(&["--coordinator", &cluster.url(), "describe", &job])?;
    assert!(described.contains(WAITS), "{described}");

    bad.faults().clear();
    let curve = cluster.finish(&job).await?;
    let done = cluster.job(&job).await?;
    assert_eq!((done.generation, done.recoveries, done.message.as_str()), (1, 0, ""), "{}", cluster.logs());
    curve.assert_same(&undisturbed, STEPS, TOLERANCE);
    let waited = done.time.iter().find(|bucket| bucket.bucket == "data_wait").context("a bucket")?.seconds;
    assert!(waited >= OUTAGE.as_secs_f64() - 5.0, "{:?}", done.time);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_paused_while_a_rank_waits_for_its_store_and_loses_nothing() -> Result<()> {
    const STEPS: u64 = 100;
    let corpus = Corpus::new(1200)?;
    let spec = JobSpec { steps: STEPS, ..JobSpec::default() };
    let undisturbed = run(&corpus, 1, &spec, Options::default()).await?.curve;
    let Waiting { cluster, job, bad, _good, .. } = Waiting::start(&spec, &corpus).await?;
    let change = ChangeRequest { job_id: job.clone(), reason: "test".into() };
    cluster.jobs().await?.pause(change.clone()).await?;
    let paused = cluster.wait_state(&job, JobState::Paused).await?;
    assert!(bad.faults().injected() > 0 && paused.step < STEPS, "the store is still away: {paused:?}");
    assert_eq!((paused.last_checkpoint_step, paused.recoveries), (paused.step, 0), "{}", cluster.logs());
    bad.faults().clear();
    cluster.jobs().await?.resume(change).await?;
    cluster.finish(&job).await?.assert_same(&undisturbed, STEPS, TOLERANCE);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_waits_for_a_ranks_store_is_paused_meanwhile_and_is_done_again_in_full() -> Result<()> {
    /// Longer than a collective may take with the smallest time-outs.
    const OUTAGE: Duration = Duration::from_secs(12);
    let corpus = Corpus::new(200)?;
    let (good, bad) = (corpus.serve(BUCKET)?, corpus.serve(BUCKET)?);
    let mut options = Options { env: environment(&good), ..Options::default() };
    options.worker_env.insert(1, environment(&bad));
    let cluster = Cluster::start(options)?;
    cluster.wait_idle(2).await?;
    bad.faults().add(Rule::new(Fault::NO_BUCKET).on("heldout-"));
    let (train, tokenizer) = (in_bucket("train.json"), in_bucket("tokenizer.json"));
    let task = "{ type: classify, label: class }";
    let more = format!("evaluate: [{{ name: kinds, data: 's3://{BUCKET}/heldout.json', task: {task} }}]");
    let spec = JobSpec { train, tokenizer, more, steps: 5, workers: (2, 2), ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;

    let is_waiting = |job: &Job| job.state() == JobState::Evaluating && job.message.contains(WAITS);
    cluster.wait(&job, "the wait", is_waiting).await?;
    let begun = Instant::now();
    while begun.elapsed() < OUTAGE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = cluster.job(&job).await?;
        ensure!(is_waiting(&now) && (now.generation, now.recoveries) == (1, 0), "{now:?}\n{}", cluster.logs());
    }
    let change = ChangeRequest { job_id: job.clone(), reason: "test".into() };
    cluster.jobs().await?.pause(change.clone()).await?;
    let paused = cluster.wait_state(&job, JobState::Paused).await?;
    assert_eq!((paused.last_checkpoint_step, paused.recoveries), (5, 0), "{paused:?}");
    cluster.jobs().await?.resume(change).await?;
    cluster.wait(&job, "the wait again", is_waiting).await?;
    bad.faults().clear();
    cluster.finish(&job).await?;
    let results = cluster.store_folder().join("jobs").join(&job).join("evaluations/000000000005/results.json");
    let results: Value = serde_json::from_slice(&std::fs::read(results)?)?;
    assert_eq!(results["evaluations"][0]["samples"], 40, "every sample with a class: {results}");
    Ok(())
}

/// Waits until the journal of the job's index holds so many shards, which are safe from then on.
async fn until_journaled(cluster: &Cluster, job: &str, shards: usize) -> Result<()> {
    let journal = cluster.store_folder().join("jobs").join(job).join("data/train-0.manifest.json.journal");
    let begun = Instant::now();
    loop {
        let mut held = 0;
        // What is being written has another ending; before the first there is no folder.
        for segment in std::fs::read_dir(&journal).into_iter().flatten() {
            let segment = segment?.path();
            if segment.extension().is_some_and(|ending| ending == "json") {
                held += DataManifest::from_json(&std::fs::read(segment)?)?.shards().len();
            }
        }
        if held == shards {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the journal holds {held} shards of {shards}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_a_pattern_is_indexed_trained_and_audited_though_its_coordinator_is_killed_as_it_indexes()
-> Result<()> {
    let corpus = Corpus::new(300)?;
    let local = run(&corpus, 1, &JobSpec::default(), Options::default()).await?.curve;
    let server = corpus.serve(BUCKET)?;
    // One shard of six does not come, so the index is not complete when the coordinator dies.
    let missing = "train-000004.tar";
    server.faults().add(Rule::new(Fault::Delay(Duration::from_secs(3600))).gets().on(missing));
    let mut cluster = Cluster::start(Options { env: environment(&server), ..Options::default() })?;
    cluster.wait_idle(2).await?;
    let train = in_bucket("shards/train-*.tar");
    let spec = JobSpec { train, workers: (2, 2), checkpoint_every: 20, ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    let five = |job: &Job| job.index.is_some_and(|index| (index.shards, index.of_shards) == (5, 6));
    let seen = cluster.wait(&job, "five shards of six", five).await?;
    assert_eq!(seen.state(), JobState::Indexing);
    until_journaled(&cluster, &job, 5).await?;
    cluster.kill_coordinator();
    server.faults().clear();
    let before = server.faults().seen().len();
    cluster.start_coordinator()?;
    cluster.wait(&job, "its workers", |job| job.generation > 0).await?;
    let seen = server.faults().seen().split_off(before);
    let first = seen.iter().find(|seen| seen.range.is_some()).context("a shard is read")?;
    assert!(first.target.contains(missing), "the index goes on with the shard that was missing: {seen:?}");

    let curve = cluster.finish(&job).await?;
    curve.assert_same(&local, STEPS, TOLERANCE);
    let kinds: Vec<String> = cluster.events(&job).await?.into_iter().map(|event| event.kind).take(3).collect();
    assert_eq!(kinds, ["submitted", "indexed", "group_formed"]);
    let audit = Ran { cluster, job, curve }.audit()?;
    assert_eq!((&audit["proven"], &audit["step"]), (&true.into(), &STEPS.into()), "{audit}");
    // 13 updates are an epoch.
    assert_eq!(complete_epochs(&audit, 0), (3, 300), "{audit}");
    Ok(())
}
