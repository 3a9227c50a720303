//! Starts from a log: what they find, and how long they take.

use std::time::{Duration, Instant};

use cappa_core::{
    Change, Ending, Generation, Incarnation, JobId, Member, Outcome, Part, Policy, Quarantined, Rank, RankParts,
    Record, Scheduling, Step, Submission, Time, WorkerId,
};
use cappa_shared::storage::{AllowList, Location};

use super::{Recovered, Rules, recover};
use crate::facts::Facts;
use crate::indexing::Indexing;
use crate::log::EventLog;

const TIMINGS: cappa_core::Timings = cappa_core::Timings {
    detection: Duration::from_secs(5),
    grace: Duration::from_secs(10),
    settle: Duration::from_secs(1),
    forming: Duration::from_secs(60),
    sweep: Duration::from_secs(120),
};

fn id(n: u64) -> JobId {
    JobId(format!("job-{n:06}"))
}

/// All records of a job that trained to its end.
fn life(n: u64) -> Vec<Record> {
    let submission = Submission {
        name: "job".into(),
        namespace: format!("team-{}", n % 20),
        priority: 0,
        min_workers: 1,
        max_workers: 1,
        lanes: 64,
        keep: 2,
        total_steps: Step(100),
        // As long as the spec of a plain job.
        spec_json: format!("{{\"name\": \"job\", \"padding\": \"{}\"}}", "x".repeat(2_000)),
        spec_digest: "ab".repeat(32),
        data_digest: "cd".repeat(32),
        folder: format!("/store/jobs/{}", id(n)),
        idempotency_key: Some(format!("key-{n}")),
        scheduling: Scheduling::default(),
        needs_index: false,
    };
    let worker = WorkerId(format!("worker-{}", n % 100));
    let member = Member {
        worker: worker.clone(),
        incarnation: Incarnation("a".into()),
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
    let record = |(place, change): (u64, Change)| Record { at: Time(1_000_000 + n * 10 + place), job: id(n), change };
    (0..).zip(changes).map(record).collect()
}

async fn start(store: &Location) -> Recovered {
    let (log, recalled) = EventLog::open(store).await.unwrap();
    let indexing = Indexing::new(AllowList::everything());
    let (policy, facts) = (Policy::default(), Facts::default());
    recover(log, recalled, Rules { timings: TIMINGS, policy, indexing, facts })
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
    assert_eq!(from_snapshot.last, 27);
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
    println!("start from the snapshot of 100,000 jobs: {:.1} s", took.as_secs_f64());
    assert_eq!(from_snapshot.view.core.state().jobs().count(), 100_000);
    let begun = Instant::now();
    let page = from_snapshot.view.core.state().jobs_by_age(Some(&id(50_000))).take(100).count();
    println!("a page of the list: {:.3} ms", begun.elapsed().as_secs_f64() * 1e3);
    assert!(page == 100 && took < Duration::from_secs(60), "{took:?}");
}
