//! Shards from a real S3 server, and all that goes wrong on the way.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_data::bad::BadReason;
use cappa_data::shards::{FetchConfig, FetchError};
use cappa_data::{Batch, DataError, Loader, LoaderConfig};
use cappa_shared::code::Code;
use cappa_shared::manifest::{DataManifest, Identity, Shard};
use cappa_shared::storage::{self, Location};
use cappa_test_stores::{Fault, Rule, S3Server};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use crate::corpus::{Corpus, take};
use crate::formats::packed;

const BUCKET: &str = "data";
const MANIFEST: &str = "corpus/train.manifest.json";
const PART: u64 = 4096;

/// What never takes so long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

fn fetching() -> FetchConfig {
    FetchConfig { threads: 2, part_bytes: PART, memory_bytes: 8 * PART, patience: Duration::from_secs(30) }
}

/// A corpus in a bucket.
fn serve(corpus: &Corpus) -> S3Server {
    let server = S3Server::start(&[BUCKET]);
    for (number, shard) in corpus.manifest.shards().iter().enumerate() {
        server.put(BUCKET, &format!("corpus/{}", shard.path), fs::read(corpus.shard(number)).unwrap());
    }
    server.put(BUCKET, MANIFEST, corpus.manifest.to_json());
    server
}

/// Reads the corpus from the bucket, through a cache of its own.
fn remote(corpus: &Corpus, server: &S3Server, cache: &Path) -> LoaderConfig {
    let origin = Location::new(server.store(BUCKET), MANIFEST.into(), format!("s3://{BUCKET}/{MANIFEST}"));
    let sources = Arc::new(corpus.at(origin));
    LoaderConfig {
        sources,
        cache_folder: cache.to_owned(),
        fetch: fetching(),
        stats: Arc::default(),
        ..corpus.config()
    }
}

fn files(cache: &Path, ending: &str) -> usize {
    let names = fs::read_dir(cache).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(ending)).count()
}

#[test]
fn no_fault_of_the_store_changes_loses_or_repeats_a_sample() {
    let corpus = Corpus::of(&[9, 4, 17, 6]);
    let expected = corpus.first_epoch();
    let server = serve(&corpus);
    let cut = PART as usize / 3;
    for rule in [
        Rule::new(Fault::INTERNAL).gets().every(3),
        Rule::new(Fault::SLOW_DOWN).every(4),
        Rule::new(Fault::Truncate { after: cut }).gets().every(2),
        Rule::new(Fault::Reset { after: cut }).gets().every(2),
        Rule::new(Fault::Refuse).every(4),
        Rule::new(Fault::Trickle { piece: 500, pause: Duration::from_millis(3) }).gets(),
        Rule::new(Fault::Corrupt { at: 700 }).gets().times(1),
        Rule::new(Fault::NO_BUCKET).times(5),
    ] {
        server.faults().clear();
        let before = server.faults().injected();
        server.faults().add(rule.clone());
        let cache = tempfile::tempdir().unwrap();
        let batches = take(remote(&corpus, &server, cache.path()), corpus.steps_per_epoch());
        assert!(server.faults().injected() > before, "{rule:?} met nothing");
        assert!(batches == expected, "{rule:?} changed a batch");
        assert_eq!((files(cache.path(), ".tar"), files(cache.path(), ".part")), (4, 0), "{rule:?}");
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let corpus = Corpus::of(&[17]);
    let server = serve(&corpus);
    server.faults().add(Rule::new(Fault::Truncate { after: 1500 }).gets().times(1));
    let cache = tempfile::tempdir().unwrap();
    let config = remote(&corpus, &server, cache.path());
    let stats = Arc::clone(&config.stats);
    take(config, 1);
    let ranges: Vec<String> = server.faults().seen().into_iter().filter_map(|seen| seen.range).collect();
    let broken: Vec<_> = server.faults().seen().into_iter().filter(|seen| seen.fault.is_some()).collect();
    let range = broken[0].range.clone().unwrap();
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let rest = format!("bytes={}-{end}", start.parse::<u64>().unwrap() + 1500);
    assert!(ranges.contains(&rest), "{rest} is not in {ranges:?}");
    assert_eq!(stats.retries.get(), 1);
    assert_eq!(stats.fetched_bytes.get(), corpus.manifest.shards()[0].bytes, "no byte came twice");
}

#[test]
fn a_slow_request_is_made_twice_and_the_first_answer_counts() {
    let corpus = Corpus::of(&[40, 40]);
    let server = serve(&corpus);
    server.faults().add(Rule::new(Fault::Delay(Duration::from_secs(60))).gets().every(20).times(1));
    let cache = tempfile::tempdir().unwrap();
    let config = remote(&corpus, &server, cache.path());
    let stats = Arc::clone(&config.stats);
    let begin = Instant::now();
    assert_eq!(take(config, corpus.steps_per_epoch()), corpus.first_epoch());
    assert!(begin.elapsed() < Duration::from_secs(14), "{:?}: not faster than the limit of a stall", begin.elapsed());
    assert!(stats.hedges.get() >= 1);
    assert_eq!(server.faults().injected(), 1);
}

#[test]
fn parts_in_memory_stay_within_their_bound() {
    let corpus = Corpus::of(&[40; 8]);
    let server = serve(&corpus);
    server.faults().add(Rule::new(Fault::Trickle { piece: 1000, pause: Duration::from_millis(1) }).gets());
    let cache = tempfile::tempdir().unwrap();
    // Four downloads at once of four parts each would hold sixteen.
    let fetch = FetchConfig { threads: 4, memory_bytes: 3 * PART, ..fetching() };
    let config = LoaderConfig { fetch, ..remote(&corpus, &server, cache.path()) };
    let stats = Arc::clone(&config.stats);
    take(config, corpus.steps_per_epoch());
    let (most, second_requests) = (stats.parts.most(), stats.hedges.get());
    assert!(most > PART && most <= (3 + second_requests.min(3)) * PART, "{most} bytes, {second_requests} twice");
    assert_eq!(stats.parts.get(), 0);
}

#[test]
fn training_waits_for_a_bucket_that_vanished_and_goes_on_when_it_returns() {
    let corpus = Corpus::of(&[12; 12]);
    let server = serve(&corpus);
    let bytes = corpus.manifest.shards()[0].bytes;
    for gone in [Fault::NO_BUCKET, Fault::Refuse] {
        let cache = tempfile::tempdir().unwrap();
        // So small a cache holds little ahead: the vanished bucket is missed at once.
        let remote = remote(&corpus, &server, cache.path());
        let config = LoaderConfig { cache_bytes: 2 * bytes, depth: 1, lanes: 0..1, ..remote };
        let stats = Arc::clone(&config.stats);
        let steps = corpus.steps_per_epoch();
        let expected = take(LoaderConfig { lanes: 0..1, ..corpus.config() }, steps);
        let mut loader = Loader::start(config).unwrap();
        let mut batches = vec![loader.next_batch().unwrap()];
        server.faults().add(Rule::new(gone.clone()));
        let deadline = Instant::now() + PATIENCE;
        let what = loop {
            let batch = loader.next_batch_within(Duration::from_millis(700)).unwrap();
            let is_late = batch.is_none();
            batches.extend(batch);
            match stats.waiting() {
                Some((what, since)) if is_late && since > Duration::from_millis(100) => break what,
                waiting => assert!(Instant::now() < deadline, "it does not say what it waits for, but {waiting:?}"),
            }
        };
        assert!(what.starts_with("s3://data/corpus/train-"), "{what}");
        server.faults().clear();
        while (batches.len() as u64) < steps {
            batches.push(loader.next_batch().unwrap());
        }
        let batches: Vec<_> = batches.into_iter().map(|b| Batch { timing: Default::default(), ..b }).collect();
        assert!(batches == expected, "{gone:?} changed a batch");
        assert_eq!(stats.waiting(), None);
    }
}

#[test]
fn patience_with_a_store_ends_in_a_clear_error() {
    let corpus = Corpus::of(&[9]);
    let server = serve(&corpus);
    server.faults().add(Rule::new(Fault::NO_BUCKET));
    let cache = tempfile::tempdir().unwrap();
    let patience = Duration::from_millis(400);
    let config = remote(&corpus, &server, cache.path());
    let begin = Instant::now();
    let mut loader = Loader::start(LoaderConfig { fetch: FetchConfig { patience, ..fetching() }, ..config }).unwrap();
    let Err(DataError::Shard(error)) = loader.next_batch() else { panic!("there is no bucket") };
    assert!(begin.elapsed() >= patience);
    let FetchError::Remote { source, .. } = &*error else { panic!("{error:?}") };
    assert_eq!(source.code(), Code::StoreUnreachable);
    assert!(error.to_string().contains("train-000000.tar"), "{error}");
}

#[test]
fn loaders_that_share_a_cache_download_each_shard_once() {
    let corpus = Corpus::of(&[9, 4, 17, 6]);
    let server = serve(&corpus);
    server.faults().add(Rule::new(Fault::Trickle { piece: 1000, pause: Duration::from_millis(2) }).gets());
    let cache = tempfile::tempdir().unwrap();
    let steps = corpus.steps_per_epoch();
    // Requests are not counted: one that is slow is made twice, of the same download.
    let load = || {
        let config = remote(&corpus, &server, cache.path());
        let stats = Arc::clone(&config.stats);
        (take(config, steps), stats.cache_misses.get())
    };
    let loaded: Vec<_> = std::thread::scope(|scope| {
        let threads = [0; 3].map(|_| scope.spawn(load));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let expected = corpus.first_epoch();
    assert!(loaded.iter().all(|(batches, _)| *batches == expected));
    let downloads: Vec<_> = loaded.iter().map(|(_, downloads)| *downloads).collect();
    assert_eq!(downloads.iter().sum::<u64>(), 4, "{downloads:?} shards of four");
    let (batches, downloads) = load();
    assert!(batches == expected);
    assert_eq!(downloads, 0, "a restart finds everything in the cache");
}

#[test]
fn packed_shards_are_unpacked_into_the_cache_once() {
    let corpus = Corpus::of(&[6, 7]);
    let (expected, steps) = (corpus.first_epoch(), corpus.steps_per_epoch());
    let corpus = Corpus { manifest: packed(&corpus), ..corpus };
    let server = serve(&corpus);
    server.faults().add(Rule::new(Fault::Truncate { after: 700 }).gets().every(3));
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let local = || LoaderConfig { cache_folder: near.path().into(), stats: Arc::default(), ..corpus.config() };
    for (cache, config) in [(near.path(), local()), (far.path(), remote(&corpus, &server, far.path()))] {
        assert_eq!(take(config, steps), expected);
        for shard in corpus.manifest.shards() {
            let kept = fs::metadata(cache.join(format!("{}.tar", shard.sha256().unwrap()))).unwrap();
            assert_eq!(kept.len(), shard.unpacked_bytes);
        }
        assert_eq!((files(cache, ".tar"), files(cache, ".part"), files(cache, ".unpacked")), (2, 0, 0));
    }
    let requests = server.faults().seen().len();
    for config in [local(), remote(&corpus, &server, far.path())] {
        let stats = Arc::clone(&config.stats);
        assert_eq!(take(config, steps), expected);
        // Leases come and go; nothing is unpacked again.
        assert!(stats.cache_hits.get() >= 2 && stats.cache_misses.get() == 0);
    }
    assert_eq!(server.faults().seen().len(), requests);
}

#[test]
fn a_packed_shard_that_cannot_be_unpacked_is_bad_and_holds_nobody_up() {
    let corpus = Corpus::of(&[6, 7]);
    let steps = corpus.steps_per_epoch();
    let good = packed(&corpus);
    let cut = fs::read(corpus.folder.path().join(&good.shards()[0].path)).unwrap();
    let cut = &cut[..cut.len() - 20];
    fs::write(corpus.folder.path().join(&good.shards()[0].path), cut).unwrap();
    let mut shards = good.shards().to_vec();
    shards[0].bytes = cut.len() as u64;
    shards[0].identity = Identity::Content { sha256: hex::encode(Sha256::digest(cut)), etag: None };
    let corpus = Corpus { manifest: DataManifest::new(shards).unwrap(), ..corpus };
    let server = serve(&corpus);
    let cache = tempfile::tempdir().unwrap();
    for config in [corpus.config(), remote(&corpus, &server, cache.path())] {
        let cache = config.cache_folder.clone();
        let batches = take(config, steps);
        let bad: Vec<_> = batches.iter().flat_map(|batch| &batch.quarantined).collect();
        assert_eq!(bad.len(), 6);
        assert!(bad.iter().all(|bad| bad.message.contains("cannot be unpacked")), "{bad:?}");
        assert_eq!((files(&cache, ".tar"), files(&cache, ".part"), files(&cache, ".unpacked")), (1, 0, 0));
    }
}

/// Not a test of its own: what [`a_process_killed_while_it_fills_the_cache_leaves_it_usable`] kills.
#[test]
#[ignore = "run as a child process by another test"]
fn child_reads_an_epoch() {
    let Ok(cache) = std::env::var("CAPPA_TEST_CACHE") else { return };
    let corpus = Corpus::of(&[1]);
    let origin = storage::open(&format!("s3://{BUCKET}/{MANIFEST}")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let manifest = DataManifest::from_json(&runtime.block_on(origin.get("")).unwrap()).unwrap();
    let corpus = Corpus { manifest, ..corpus };
    let sources = Arc::new(corpus.at(origin));
    let config = LoaderConfig { sources, cache_folder: cache.into(), fetch: fetching(), ..corpus.config() };
    take(config, corpus.steps_per_epoch());
}

#[test]
fn a_process_killed_while_it_fills_the_cache_leaves_it_usable() {
    let corpus = Corpus::of(&[9, 4, 17, 6, 20]);
    let server = serve(&corpus);
    let cache = tempfile::tempdir().unwrap();
    // So slow that no kill is too late.
    let trickle = || Rule::new(Fault::Trickle { piece: 500, pause: Duration::from_millis(40) }).gets().on(".tar");
    let mut left_unfinished = 0;
    for killed_after in [0, 5, 15, 30, 60, 100] {
        server.faults().add(trickle());
        let before = server.faults().seen().len();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "s3::child_reads_an_epoch", "--ignored"])
            .envs(server.environment())
            .env("CAPPA_TEST_CACHE", cache.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = || server.faults().seen()[before..].iter().any(|seen| seen.fault.is_some());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !begun() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the child downloads nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(killed_after));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        left_unfinished += files(cache.path(), ".part");
        server.faults().clear();
    }
    assert!(left_unfinished > 0, "no kill came in the middle of a download");
    let config = remote(&corpus, &server, cache.path());
    assert!(take(config, corpus.steps_per_epoch()) == corpus.first_epoch(), "a batch changed");
    assert_eq!((files(cache.path(), ".tar"), files(cache.path(), ".part")), (5, 0), "nothing is left over");
}

#[test]
fn a_loader_that_nobody_reads_from_makes_only_its_depth() {
    let corpus = Corpus::of(&[40; 8]);
    let config = LoaderConfig { depth: 3, ..corpus.config() };
    let stats = Arc::clone(&config.stats);
    let makes = |batches: u64| {
        let samples = batches * crate::corpus::BATCH_SIZE;
        let deadline = Instant::now() + PATIENCE;
        while stats.samples.get() < samples {
            assert!(Instant::now() < deadline, "{} samples of {samples}", stats.samples.get());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(stats.samples.get(), samples, "and no more");
    };
    let mut loader = Loader::start(config).unwrap();
    makes(3);
    loader.next_batch().unwrap();
    makes(4);
}

/// The manifest of a quick index of the bucket: shards are known by the tags that they have now.
fn tagged(corpus: &Corpus, server: &S3Server) -> DataManifest {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tag = |path: &str| {
        let object = format!("corpus/{path}").into();
        runtime.block_on(server.store(BUCKET).head(&object)).unwrap().e_tag.unwrap()
    };
    let shards = corpus.manifest.shards().iter();
    let shards = shards.map(|shard| Shard { identity: Identity::Tag { etag: tag(&shard.path) }, ..shard.clone() });
    DataManifest::new(shards.collect()).unwrap()
}

#[test]
fn a_shard_known_by_its_tag_is_read_and_once_replaced_fails_clearly() {
    let corpus = Corpus::of(&[9, 4, 17]);
    let expected = corpus.first_epoch();
    let server = serve(&corpus);
    let corpus = Corpus { manifest: tagged(&corpus, &server), ..corpus };
    let (cache, steps) = (tempfile::tempdir().unwrap(), corpus.steps_per_epoch());
    assert_eq!(take(remote(&corpus, &server, cache.path()), steps), expected);
    server.put(BUCKET, "corpus/train-000001.tar", fs::read(corpus.shard(1)).unwrap());
    let cache = tempfile::tempdir().unwrap();
    let batches = take(remote(&corpus, &server, cache.path()), steps);
    let bad: Vec<_> = batches.iter().flat_map(|batch| &batch.quarantined).collect();
    assert_eq!(bad.len(), 4, "all samples of the replaced shard, and no others");
    for bad in bad {
        assert_eq!((bad.sample.shard, bad.reason), (1, BadReason::ShardChanged));
        assert!(bad.message.contains("ETag") && bad.message.contains("index it again"), "{}", bad.message);
    }
}
