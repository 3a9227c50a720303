//! Starts from a log: what they find, and how long they take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cappa_core::{
    Change, Ending, Generation, Incarnation, JobId, Member, Outcome, Part, Policy, Quarantined, Rank, RankParts,
    Record, Scheduling, Step, Submission, Time, WorkerId,
};
use cappa_proto as proto;
use cappa_shared::storage::{AllowList, Location};
use cappa_test_stores::S3Server;

use super::{Known, Recovered, Rules, recover};
use crate::curves::Curves;
use crate::facts::Facts;
use crate::history::History;
use crate::indexing::Indexing;
use crate::log::EventLog;
use crate::services::list;

const TIMINGS: cappa_core::Timings = cappa_core::Timings {
    detection: Duration::from_secs(5),
    grace: Duration::from_secs(10),
    settle: Duration::from_secs(1),
    forming: Duration::from_secs(60),
    sweep: Duration::from_secs(120),
};

fn id(n: u64) -> JobId {
    JobId::from(format!("job-{n:06}"))
}

/// A job of one worker.
pub(super) fn submission() -> Submission {
    Submission {
        name: "job".into(),
        namespace: "default".into(),
        priority: 0,
        min_workers: 1,
        max_workers: 1,
        lanes: 64,
        keep: 2,
        total_steps: Step(100),
        spec_json: String::new(),
        spec_digest: String::new(),
        data_digest: String::new(),
        folder: String::new(),
        idempotency_key: None,
        scheduling: Scheduling::default(),
        needs_index: false,
    }
}

/// All records of a job that trained to its end.
fn life(n: u64) -> Vec<Record> {
    let submission = Submission {
        namespace: format!("team-{}", n % 20),
        // As long as the spec of a plain job.
        spec_json: format!("{{\"name\": \"job\", \"padding\": \"{}\"}}", "x".repeat(2_000)),
        spec_digest: "ab".repeat(32),
        data_digest: "cd".repeat(32),
        folder: format!("/store/jobs/{}", id(n)),
        idempotency_key: Some(format!("key-{n}")),
        ..submission()
    };
    let worker = WorkerId::from(format!("worker-{}", n % 100));
    let member = Member {
        worker: worker.clone(),
        incarnation: Incarnation::from("a"),
        store_address: "host:1".into(),
        step: Step(0),
        has_state: false,
    };
    let (generation, step) = (Generation(1), Step(100));
    let part = Part { name: "part-00000-of-00001.safetensors".into(), bytes: 1 << 20, sha256: "ef".repeat(32) };
    let sample = Quarantined { shard: "0.tar".into(), index: 3, key: "k".into(), reason: "no caption".into() };
    let ranks = vec![RankParts { parts: vec![part], quarantined: vec![sample] }];
    let summary = Some("{}".to_owned());
    let changes = [
        Change::Submitted { submission },
        Change::GroupFormed { generation, members: vec![member], lead: Rank(0), step: Step(0), is_loan: false },
        Change::GroupRunning { generation },
        Change::CheckpointWritten { step, generation, ranks },
        Change::CheckpointCommitted { step, generation },
        Change::MemberCompleted { generation, worker, step, outcome: Outcome::Finished, summary: summary.clone() },
        Change::Ended { ending: Ending::Succeeded { step, summary } },
        Change::Swept,
    ];
    let record =
        |(place, change): (u64, Change)| Record { at: Time(1_000_000 + n * 10 + place), job: Some(id(n)), change };
    (0..).zip(changes).map(record).collect()
}

async fn start(store: &Location) -> Recovered {
    take_over(store, None).await.0
}

/// A start of one that may have followed; and how many jobs of the snapshot it has read.
async fn take_over(store: &Location, known: Option<Box<Known>>) -> (Recovered, usize) {
    let (log, recalled) = EventLog::open_knowing(store, known.as_ref().map_or(0, |known| known.last())).await.unwrap();
    let indexing = Indexing::new(AllowList::everything());
    let (policy, facts) = (Policy::default(), Facts::default());
    let read = recalled.jobs.len();
    (recover(log, recalled, known, Rules { timings: TIMINGS, policy, indexing, facts }), read)
}

/// What a follower would know that had come as far as this start.
fn known(recovered: Recovered) -> Option<Box<Known>> {
    let (last, view) = (recovered.condenser.newest(), recovered.view);
    Some(Box::new(Known { state: view.core.into_state(), history: view.history, last }))
}

/// All that a start knows, as text.
fn told(recovered: &Recovered) -> String {
    let state = recovered.view.core.state();
    let histories: Vec<_> = state.jobs().map(|job| recovered.view.history.job(&job.id)).collect();
    format!("{state:?} {histories:?}")
}

async fn condense(recovered: &mut Recovered) {
    let snapshot = recovered.condenser.snapshot(&recovered.view);
    let through = snapshot.through;
    recovered.log.condense(snapshot).await.unwrap();
    recovered.log.condensed(through);
    recovered.condenser.done(through);
}

#[tokio::test]
async fn a_start_from_a_snapshot_knows_what_a_start_from_all_entries_knows() {
    let folder = tempfile::tempdir().unwrap();
    let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    let mut first = start(&store).await;
    first.log.append((0..3).flat_map(life).collect()).await.unwrap();
    // One that still trains when the log is condensed, and goes on afterwards.
    let mut later = life(3);
    let rest = later.split_off(3);
    first.log.append(later).await.unwrap();
    let mut from_entries = start(&store).await;
    condense(&mut from_entries).await;
    let before = told(&from_entries);

    let mut from_snapshot = start(&store).await;
    assert_eq!(told(&from_snapshot), before);
    assert_eq!(from_snapshot.condenser.newest(), 27);
    from_snapshot.log.append(rest).await.unwrap();
    let mut second = start(&store).await;
    assert!(second.view.core.state().job(&id(3)).unwrap().has_ended());
    // What has not changed since the first snapshot is in none of the later ones.
    let snapshot = second.condenser.snapshot(&second.view);
    assert_eq!(snapshot.jobs.iter().map(|saved| saved.job.id.clone()).collect::<Vec<_>>(), [id(3)]);
    condense(&mut second).await;
    let third = start(&store).await;
    assert_eq!(told(&third), told(&second));
    assert_eq!(third.view.core.state().job_of_key("team-1", "key-1").unwrap().id, id(1));
}

#[tokio::test]
async fn a_successor_that_has_followed_knows_what_any_start_knows_and_reads_no_job_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    let mut writer = start(&store).await;
    writer.log.append((0..3).flat_map(life).collect()).await.unwrap();
    let mut writer = start(&store).await;
    condense(&mut writer).await;
    let mut later = life(3);
    let rest = later.split_off(3);
    writer.log.append(later).await.unwrap();
    let followed = known(start(&store).await);
    assert_eq!(followed.as_ref().unwrap().last(), 27);
    // What it has not heard of yet, when it comes to lead.
    let mut writer = start(&store).await;
    writer.log.append(rest).await.unwrap();
    let (successor, read) = take_over(&store, followed).await;
    assert_eq!((read, successor.condenser.newest()), (0, 32));
    let expected = told(&start(&store).await);
    assert_eq!(told(&successor), expected);
    // Its own snapshot has the job that changed since the one before, also where it knew of it already.
    let mut successor_again = take_over(&store, known(successor)).await.0;
    let snapshot = successor_again.condenser.snapshot(&successor_again.view);
    assert_eq!(snapshot.jobs.iter().map(|saved| saved.job.id.clone()).collect::<Vec<_>>(), [id(3)]);
    condense(&mut successor_again).await;
    assert_eq!(told(&start(&store).await), expected);

    // One that is far behind reads the snapshot.
    let nothing = Known { state: cappa_core::State::default(), history: History::default(), last: 5 };
    let (behind, read) = take_over(&store, Some(Box::new(nothing))).await;
    assert_eq!((read, told(&behind)), (4, expected));
}

/// Writes a log as programs did that knew format 1: entries only, of records without what came to them since.
async fn write_in_format_1(store: &Location, records: &[Record]) {
    let place = store.prefix.clone().join("coordinator");
    let db = slatedb::Db::builder(place, Arc::clone(&store.store)).build().await.unwrap();
    for (sequence, record) in (1..).zip(records) {
        let mut event = serde_json::to_value(record).unwrap();
        if let Some(submission) = event.get_mut("submission") {
            submission.as_object_mut().unwrap().remove("scheduling").expect("format 1 had none");
        }
        let entry = serde_json::json!({"version": 1, "event": event}).to_string();
        db.put(format!("log/{sequence:020}"), entry).await.unwrap();
    }
    db.close().await.unwrap();
}

#[tokio::test]
async fn an_upgrade_finds_all_jobs_in_the_older_programs_log_and_goes_on_with_them() {
    let (older, newer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = |folder: &tempfile::TempDir| cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    // Two jobs are over, and one trains while the coordinator is replaced.
    let mut records: Vec<Record> = (0..3).flat_map(life).collect();
    let rest = records.split_off(19);
    write_in_format_1(&store(&older), &records).await;
    let mut upgraded = start(&store(&older)).await;
    let mut always_new = start(&store(&newer)).await;
    always_new.log.append(records).await.unwrap();
    drop(always_new);
    assert_eq!(told(&upgraded), told(&start(&store(&newer)).await));
    assert!(upgraded.view.core.state().job(&id(2)).unwrap().group().is_some(), "it trains on");

    upgraded.log.append(rest).await.unwrap();
    let mut again = start(&store(&older)).await;
    condense(&mut again).await;
    let last = start(&store(&older)).await;
    assert_eq!(last.view.core.state().jobs().filter(|job| job.has_ended()).count(), 3);
}

#[tokio::test]
async fn a_log_of_format_2_is_read_and_takes_what_came_with_format_3() {
    let folder = tempfile::tempdir().unwrap();
    let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    let (until, worker) = (Time(9_000_000_000_000), WorkerId::from("worker-7"));
    let quarantined = Change::WorkerQuarantined { worker: worker.clone(), until, reason: "lost 4 times".into() };
    let mut records = life(0);
    records.push(Record { at: Time(1_000_009), job: Some(id(0)), change: quarantined });
    let mut first = start(&store).await;
    first.log.append(records).await.unwrap();
    let mut first = start(&store).await;
    condense(&mut first).await;
    first.log.append(life(1)).await.unwrap();
    first.log.close().await.unwrap();
    write_as_format_2(&store).await;

    let mut upgraded = start(&store).await;
    let state = upgraded.view.core.state();
    assert_eq!(state.jobs().filter(|job| job.has_ended()).count(), 2);
    let kept_out = |recovered: &Recovered| recovered.view.core.state().flaps().quarantine(&worker).cloned().unwrap();
    assert_eq!((kept_out(&upgraded).until, kept_out(&upgraded).job), (Some(until), Some(id(0))));
    let change = Change::WorkerCordoned { worker: worker.clone(), reason: "new disk".into() };
    upgraded.log.append(vec![Record { at: Time(1_000_100), job: None, change }]).await.unwrap();
    let mut again = start(&store).await;
    assert_eq!((kept_out(&again).until, kept_out(&again).job), (None, None));
    condense(&mut again).await;
    assert_eq!(kept_out(&start(&store).await), kept_out(&again));
}

/// Makes of a log one that says of itself in all places that it has format 2, and has nothing that came later.
async fn write_as_format_2(store: &Location) {
    let place = store.prefix.clone().join("coordinator");
    let db = slatedb::Db::builder(place, Arc::clone(&store.store)).build().await.unwrap();
    db.put(format!("log/{:020}", 0), r#"{"version": 2, "written_by": "0.1.0"}"#).await.unwrap();
    let mut entries = db.scan(format!("log/{:020}", 1)..format!("log/{:020}", u64::MAX)).await.unwrap();
    while let Some(found) = entries.next().await.unwrap() {
        let mut entry: serde_json::Value = serde_json::from_slice(&found.value).unwrap();
        entry["version"] = 2.into();
        db.put(found.key, entry.to_string()).await.unwrap();
    }
    let common = db.get("state/common").await.unwrap().expect("it was condensed");
    let mut common: serde_json::Value = serde_json::from_slice(&common).unwrap();
    common["common"]["flaps"].as_object_mut().unwrap().remove("drained").expect("format 2 had none");
    db.put("state/common", common.to_string()).await.unwrap();
    db.close().await.unwrap();
    for format in store.list("coordinator/format").await.unwrap() {
        store.delete(&format!("coordinator/format/{}", format.path)).await.unwrap();
    }
    store.put("coordinator/format/2.json", r#"{"version": 2, "written_by": "0.1.0"}"#).await.unwrap();
}

#[tokio::test]
async fn a_start_reads_thousands_of_jobs_with_few_requests() {
    const JOBS: u64 = 2_000;
    let server = S3Server::start(&["log"]);
    let folder = tempfile::tempdir().unwrap();
    let mut store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    store.store = server.store("log");
    let mut first = start(&store).await;
    first.log.append((0..JOBS).flat_map(life).collect()).await.unwrap();
    let mut first = start(&store).await;
    condense(&mut first).await;
    first.log.to_tables().await;
    first.log.close().await.unwrap();

    let before = server.faults().seen().len();
    let again = start(&store).await;
    let requests = server.faults().seen().len() - before;
    assert_eq!(again.view.core.state().jobs().count() as u64, JOBS);
    assert!(requests < 100, "{requests} requests for {JOBS} jobs");
}

/// `cargo test --release -p cappa-coordinator --lib -- --ignored --nocapture hundred_thousand`
#[tokio::test]
#[ignore = "measures, for a minute"]
async fn a_start_over_a_hundred_thousand_finished_jobs_takes_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let store = cappa_shared::storage::create(folder.path().to_str().unwrap()).unwrap();
    let mut writer = start(&store).await;
    for thousand in 0..100 {
        writer.log.append((thousand * 1_000..(thousand + 1) * 1_000).flat_map(life).collect()).await.unwrap();
    }
    drop(writer);
    let begun = Instant::now();
    let mut from_entries = start(&store).await;
    println!("start from 800,000 entries: {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    from_entries.condense().await.unwrap();
    println!("first snapshot: {:.1} s", begun.elapsed().as_secs_f64());
    drop(from_entries);
    let begun = Instant::now();
    let from_snapshot = start(&store).await;
    let took = begun.elapsed();
    println!("start from the snapshot of 100,000 jobs: {:.1} s, {:.0} MiB", took.as_secs_f64(), resident_mib());
    assert_eq!(from_snapshot.view.core.state().jobs().count(), 100_000);
    let followed = known(start(&store).await);
    let begun = Instant::now();
    let (_, read) = take_over(&store, followed).await;
    println!("take-over by one that has followed: {:.2} s", begun.elapsed().as_secs_f64());
    assert_eq!(read, 0);
    let (view, curves) = (&from_snapshot.view, Curves::default());
    let page = |request: &proto::ListRequest| list::page(view, &curves, request).unwrap();
    let listed = timed("a page of the list", || {
        page(&proto::ListRequest { page_token: id(50_000).to_string(), ..Default::default() })
    });
    assert_eq!(listed.jobs.len(), 100);
    let states = vec![proto::JobState::Failed.into()];
    let none = timed("a page of those that failed, of which there are none", || {
        page(&proto::ListRequest { states, ..Default::default() })
    });
    assert!(none.jobs.is_empty() && !none.next_page_token.is_empty());
    timed("a plan", || view.core.plan(view.now()));
    timed("what is to be done in the store", || view.core.outstanding_in_store(view.now()).count());
    timed("a scrape of the metrics", || crate::metrics::Snapshot::of(view, &curves));
    assert!(took < Duration::from_secs(60), "{took:?}");
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = run();
    println!("{what}: {:.3} ms", begun.elapsed().as_secs_f64() * 1e3);
    result
}

/// What of this process is in memory.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    line.and_then(|kib| kib.trim().parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}
