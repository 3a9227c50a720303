//! Several coordinators over one store: who leads, how another takes over, and what those serve that follow. Those that
//! are killed or stopped are processes.

#![allow(clippy::unwrap_used, reason = "code of tests")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cappa_coordinator::LogError;
use cappa_proto::jobs_client::JobsClient;
use cappa_proto::worker_message::Message;
use cappa_proto::{
    ChangeRequest, CurveRequest, GetRequest, Job, JobState, ListRequest, ListWorkersRequest, LogBatch, LogLine,
    LogsRequest, QueueRequest, SubmitRequest, WatchRequest, job_update,
};
use cappa_shared::coordinators::LEADER_HEADER;
use cappa_test_stores::S3Server;
use rustix::process::{Pid, Signal, kill_process};
use support::line::Line;
use support::{FakeWorker, Fixture, PATIENCE, http};
use tonic::transport::Channel;

/// Three times what a take-over may take: machines are shared.
const TAKEOVER: Duration = Duration::from_secs(15);

/// A coordinator as a process of its own. Dropping it is SIGKILL.
struct Server {
    child: Child,
    grpc: String,
    http: String,
    jobs: JobsClient<Channel>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(fixture: &Fixture, name: &str) -> Self {
        Self::start_over(fixture, name, fixture.folder.path().join("store").to_str().unwrap(), []).await
    }

    /// Over a store that it finds with this environment.
    async fn start_over<const N: usize>(
        fixture: &Fixture,
        name: &str,
        store: &str,
        environment: [(&str, String); N],
    ) -> Self {
        let folder = fixture.folder.path();
        let file = folder.join(format!("{name}.json"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_cappa-coordinator"));
        command.envs(environment).arg("--store").arg(store).args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        command.arg("--address-file").arg(&file).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        let addresses = loop {
            assert!(begun.elapsed() < PATIENCE, "{name} does not start");
            if let Ok(text) = std::fs::read(&file) {
                break serde_json::from_slice::<serde_json::Value>(&text).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let address = |kind: &str| addresses[kind].as_str().unwrap().to_owned();
        let (grpc, http) = (address("grpc"), address("http"));
        let jobs = JobsClient::connect(format!("http://{grpc}")).await.unwrap();
        Self { child, grpc, http, jobs }
    }

    fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn leads(&self) -> bool {
        http(&self.http, "/readyz").await.unwrap().ends_with("ok\n")
    }

    /// Waits until it leads; gives how long that took.
    async fn until_it_leads(&self) -> Duration {
        let begun = Instant::now();
        loop {
            if self.leads().await {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "it never leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn submit(&self, spec: &str) -> Result<String, tonic::Status> {
        let request = SubmitRequest { spec: spec.to_owned(), ..SubmitRequest::default() };
        let answer = tokio::time::timeout(PATIENCE, self.jobs.clone().submit(request)).await.expect("an answer");
        Ok(answer?.into_inner().job.unwrap().id)
    }

    async fn until(&self, id: &str, state: JobState) -> Job {
        let begun = Instant::now();
        loop {
            let job = self.jobs.clone().get(GetRequest { job_id: id.to_owned() }).await.unwrap().into_inner();
            if job.state() == state {
                return job;
            }
            assert!(begun.elapsed() < PATIENCE, "{state:?} was wanted: {job:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the log has told it of a job.
    async fn until_it_knows(&self, id: &str) {
        let begun = Instant::now();
        while self.jobs.clone().get(GetRequest { job_id: id.to_owned() }).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "it hears nothing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it has ended by itself; true when all was well.
    async fn ended(&mut self) -> bool {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_standby_leads_after_the_leaders_death_and_disturbs_no_worker() {
    let fixture = Fixture::new();
    let first = Server::start(&fixture, "first").await;
    let second = Server::start(&fixture, "second").await;
    let mut a = FakeWorker::connect(&first.url(), "worker-a").await;
    let mut b = FakeWorker::connect(&first.url(), "worker-b").await;
    let id = first.submit(&fixture.spec("demo", "2")).await.unwrap();
    let (form_a, form_b) = (a.form().await, b.form().await);
    first.until(&id, JobState::Running).await;
    let first_at = first.grpc.clone();
    drop(first);
    let took = second.until_it_leads().await;
    println!("SIGKILL of the leader to the successor's first answer as leader: {:.2} s", took.as_secs_f64());
    assert!(took < TAKEOVER, "{took:?}");
    a.step_to(&form_a, 30);
    b.step_to(&form_b, 30);
    let mut a = a.reconnect(&second.url()).await;
    let mut b = b.reconnect(&second.url()).await;
    assert_eq!((a.hears(Duration::from_millis(500)).await, b.hears(Duration::from_millis(10)).await), (None, None));
    let job = second.until(&id, JobState::Running).await;
    assert_eq!((job.generation, job.recoveries), (1, 0));
    let page = http(&second.http, "/metrics").await.unwrap();
    let sample = |name: &str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim_start_matches("{}").strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is missing from\n{page}")).parse::<f64>().unwrap()
    };
    assert_eq!((sample("cappa_coordinator_leader"), sample("cappa_coordinator_term")), (1.0, 2.0));
    assert!((2.0..TAKEOVER.as_secs_f64()).contains(&sample("cappa_coordinator_takeover_seconds")));
    a.complete(&form_a).await;
    b.complete(&form_b).await;
    second.until(&id, JobState::Succeeded).await;
    let mut watch = second.jobs.clone().watch(WatchRequest { job_id: id, after_event: 0 }).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(update) = watch.message().await.unwrap() {
        if let Some(job_update::Update::Event(event)) = update.update {
            told.extend(Some(event).filter(|event| event.kind == "coordinator_changed").map(|event| event.message));
        }
    }
    let expected = format!("{} decides from here on: the one at {first_at} was not heard for ", second.grpc);
    assert!(told.len() == 1 && told[0].contains(&expected), "{expected:?} {told:?}");
}

#[tokio::test]
async fn a_leader_that_is_told_to_end_hands_over_without_a_silence() {
    let fixture = Fixture::new();
    let mut first = Server::start(&fixture, "first").await;
    let second = Server::start(&fixture, "second").await;
    // What is open keeps nobody waiting.
    let _worker = FakeWorker::connect(&first.url(), "worker-a").await;
    let id = first.submit(&fixture.spec("demo", "2")).await.unwrap();
    let mut watch = first.jobs.watch(WatchRequest { job_id: id.clone(), after_event: 0 }).await.unwrap().into_inner();
    watch.message().await.unwrap();
    first.signal(Signal::TERM);
    let took = second.until_it_leads().await;
    println!("SIGTERM of the leader to the successor's first answer as leader: {:.2} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(10), "{took:?}");
    let page = http(&second.http, "/metrics").await.unwrap();
    let silence = page.lines().find(|line| line.starts_with("cappa_coordinator_takeover_seconds"));
    assert_eq!(silence, None, "it was told, and did not wait for the lease to lapse");
    second.until(&id, JobState::Queued).await;
    drop(watch);
    assert!(first.ended().await, "it ends in order");
}

#[tokio::test]
async fn of_two_that_believe_they_lead_the_older_is_fenced_and_nothing_it_does_counts() {
    let fixture = Fixture::new();
    let mut first = Server::start(&fixture, "first").await;
    let second = Server::start(&fixture, "second").await;
    let before = first.submit(&fixture.spec("before", "1")).await.unwrap();
    first.signal(Signal::STOP);
    second.until_it_leads().await;
    let after = second.submit(&fixture.spec("after", "1")).await.unwrap();
    // It wakes with calls waiting, and believes that it leads.
    let (jobs, spec) = (first.jobs.clone(), fixture.spec("between", "1"));
    let late = tokio::spawn(async move {
        let request = SubmitRequest { spec, ..SubmitRequest::default() };
        tokio::time::timeout(PATIENCE, jobs.clone().submit(request)).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    first.signal(Signal::CONT);
    let late = late.await.unwrap().expect("an answer");
    assert!(late.is_err(), "what a fenced coordinator confirms is in no log: {late:?}");
    assert!(!first.ended().await, "it says why it ends");
    let log = std::fs::read_to_string(fixture.folder.path().join("first.log")).unwrap();
    assert!(log.contains("another coordinator has taken over this store"), "{log}");
    let jobs = second.jobs.clone().list(ListRequest::default()).await.unwrap().into_inner().jobs;
    let mut ids: Vec<_> = jobs.into_iter().map(|job| job.id).collect();
    ids.sort();
    let mut known = [before, after];
    known.sort();
    assert_eq!(ids, known);
}

#[tokio::test]
async fn a_follower_serves_what_the_log_tells_and_sends_who_wants_a_change_to_the_leader() {
    let fixture = Fixture::new();
    let leader = fixture.start_patient().await;
    let mut worker = FakeWorker::connect(&leader.address, "worker-a").await;
    let follower = fixture.start_patient().await;
    let id = leader.submit(&fixture.spec("demo", "1")).await;
    let form = worker.form().await;
    leader.until_state(&id, JobState::Running).await;
    worker.progress(&form, 1..=20).await;

    let deadline = Instant::now() + PATIENCE;
    let reads = follower.jobs.clone();
    let followed = loop {
        let found = reads.clone().list(ListRequest::default()).await.unwrap();
        let led = found.metadata().get(LEADER_HEADER).map(|leader| leader.to_str().unwrap().to_owned());
        if let Some(job) = found.into_inner().jobs.into_iter().find(|job| job.id == id && job.step == 20) {
            assert_eq!(led, Some(leader.coordinator.grpc_address().to_string()));
            break job;
        }
        assert!(Instant::now() < deadline, "the follower hears nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(followed.state(), JobState::Running);
    let curve = reads.clone().curve(CurveRequest { job_id: id.clone(), from_step: 0 }).await.unwrap().into_inner();
    assert_eq!(curve.points.len(), 20);

    for refused in [
        reads.clone().submit(SubmitRequest { spec: fixture.spec("late", "1"), ..Default::default() }).await.err(),
        reads.clone().pause(ChangeRequest { job_id: id.clone(), ..Default::default() }).await.err(),
    ] {
        let refused = refused.expect("a follower does not decide");
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        let led = refused.metadata().get(LEADER_HEADER).expect("it says who leads").to_str().unwrap();
        assert_eq!(led, leader.coordinator.grpc_address().to_string());
        assert!(refused.message().contains(led), "{}", refused.message());
    }
    let ready = follower.http("/readyz").await;
    assert!(
        ready.contains("ok, follower; ") && ready.contains(&leader.coordinator.http_address().to_string()),
        "{ready}"
    );
    let metrics = follower.http("/metrics").await;
    assert!(!metrics.contains("cappa_job_loss"), "sums over coordinators would count jobs twice");
    let overview = follower.http("/api/jobs").await;
    assert!(overview.contains("\"leads\":false") && overview.contains(&id), "{overview}");

    // Who watches at a follower goes on watching when it leads, and hears the end.
    let request = WatchRequest { job_id: id.clone(), after_event: 0 };
    let mut watch = reads.clone().watch(request).await.unwrap().into_inner();
    leader.coordinator.shut_down().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !follower.http("/readyz").await.ends_with("ok\n") {
        assert!(Instant::now() < deadline, "it never leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.step_to(&form, 100);
    let worker = worker.reconnect(&follower.address).await;
    assert_eq!(worker.welcome.metrics_after, 20, "the curve is remembered");
    worker.complete(&form).await;
    let mut kinds = Vec::new();
    while let Some(update) = tokio::time::timeout(PATIENCE, watch.message()).await.expect("news").unwrap() {
        if let Some(job_update::Update::Event(event)) = update.update {
            kinds.push(event.kind);
        }
    }
    assert_eq!(
        (kinds.first().map(String::as_str), kinds.last().map(String::as_str)),
        (Some("submitted"), Some("succeeded"))
    );
}

#[tokio::test]
async fn a_follower_passes_on_what_the_leaders_memory_alone_tells_and_streams_go_on() {
    let fixture = Fixture::new();
    let leader = Server::start(&fixture, "leader").await;
    let mut worker = FakeWorker::connect(&leader.url(), "worker-a").await;
    let follower = Server::start(&fixture, "follower").await;
    let id = leader.submit(&fixture.spec("demo", "1")).await.unwrap();
    let _form = worker.form().await;
    let waits = leader.submit(&fixture.spec("waits", "2")).await.unwrap();
    leader.until(&waits, JobState::Queued).await;
    follower.until_it_knows(&id).await;

    let mut jobs = follower.jobs.clone();
    let workers = jobs.list_workers(ListWorkersRequest {}).await.unwrap();
    let led = workers.metadata().get(LEADER_HEADER).expect("it says who leads").to_str().unwrap().to_owned();
    assert_eq!(led, leader.grpc);
    let workers = workers.into_inner().workers;
    assert!(workers.len() == 1 && workers[0].id == "worker-a" && workers[0].job_id == id, "{workers:?}");
    let queue = jobs.queue(QueueRequest::default()).await.unwrap().into_inner();
    assert_eq!((queue.jobs[0].job_id.as_str(), queue.connected_workers), (waits.as_str(), 1), "{queue:?}");
    let overview = http(&follower.http, "/api/jobs").await.unwrap();
    let detail = http(&follower.http, &format!("/api/jobs/{id}")).await.unwrap();
    assert!(overview.contains("\"id\":\"worker-a\"") && detail.contains("\"id\":\"worker-a\""), "{overview}{detail}");

    let say = |text: &str| {
        let line = LogLine { message: text.to_owned(), ..LogLine::default() };
        worker.say(Message::Logs(LogBatch { job_id: id.clone(), lines: vec![line] }))
    };
    let request = LogsRequest { job_id: id.clone(), follow: true, ..LogsRequest::default() };
    let mut lines = jobs.logs(request).await.unwrap().into_inner();
    for text in ["first", "second"] {
        say(text).await;
        let line = tokio::time::timeout(PATIENCE, lines.message()).await.expect("a line").unwrap();
        assert_eq!(line.map(|line| line.message).as_deref(), Some(text));
    }

    // A request that a follower has passed on goes no further.
    let mut marked = tonic::Request::new(ListWorkersRequest {});
    marked.metadata_mut().insert("cappa-forwarded", "1".parse().unwrap());
    let refused = jobs.list_workers(marked).await.expect_err("it has come from a follower");
    assert!(refused.message().contains(&leader.grpc), "{refused:?}");

    drop(leader);
    let broken = loop {
        match tokio::time::timeout(PATIENCE, lines.message()).await.expect("an end") {
            Ok(line) => assert!(line.is_some(), "a stream that breaks off does not look complete"),
            Err(broken) => break broken,
        }
    };
    assert_eq!(broken.code(), tonic::Code::Unavailable, "{broken:?}");
    // On a machine that stalls it may have come to lead by now.
    match jobs.list_workers(ListWorkersRequest {}).await {
        Err(refused) => assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}"),
        Ok(told) => assert!(follower.leads().await, "who is said to lead is away: {told:?}"),
    }
    let overview = http(&follower.http, "/api/jobs").await.unwrap();
    assert!(overview.contains(&id), "{overview}");
    assert!(overview.contains("\"workers\":null") || follower.leads().await, "{overview}");
    follower.until_it_leads().await;
    assert_eq!(jobs.list_workers(ListWorkersRequest {}).await.unwrap().into_inner().workers, []);
}

#[tokio::test]
async fn a_leader_that_hangs_keeps_a_followers_readers_waiting_no_longer_than_any_call_may_take() {
    let fixture = Fixture::new();
    let leader = fixture.start().await;
    let follower = fixture.start().await;
    // Accepts connections and says nothing, as a stopped process; by the lease it leads.
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung_at = hung.local_addr().unwrap().to_string();
    let lease = fixture.folder.path().join("store/coordinator/lease/000000000009.json");
    let at = hung_at.clone();
    let renew = move |renewals: u64| {
        let content = serde_json::json!({
            "grpc": at, "http": at, "version": env!("CARGO_PKG_VERSION"), "format": 1, "renewals": renewals,
            "released": false,
        });
        std::fs::write(lease.with_extension("part"), content.to_string()).unwrap();
        std::fs::rename(lease.with_extension("part"), &lease).unwrap();
    };
    // There before the leader hands over, so that the follower is not handed the lease.
    renew(1);
    let renewing = tokio::spawn(async move {
        for renewals in 2.. {
            tokio::time::sleep(Duration::from_millis(50)).await;
            renew(renewals);
        }
    });
    // Well, or because it has seen the other lease: that is not what is asked here.
    let _ = leader.coordinator.shut_down().await;
    let begun = Instant::now();
    loop {
        let ready = follower.http("/readyz").await;
        if ready.contains(&hung_at) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{ready}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    let mut jobs = follower.jobs.clone();
    let answer = tokio::time::timeout(PATIENCE, jobs.queue(QueueRequest::default())).await.expect("an answer");
    let took = begun.elapsed();
    renewing.abort();
    let refused = answer.expect_err("nobody answers");
    assert!(refused.code() == tonic::Code::Unavailable && refused.message().contains(&hung_at), "{refused:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_follower_that_is_too_old_for_the_leaders_log_ends_and_leaves_it_alone() {
    let fixture = Fixture::new();
    let leader = fixture.start().await;
    let mut follower = fixture.start().await;
    let lease = fixture.folder.path().join("store/coordinator/lease");
    let newer = serde_json::json!({
        "grpc": "newer:1", "http": "newer:2", "version": "7.1.0", "format": 9, "renewals": 1, "released": false,
    });
    // As when a newer program has taken over from the leader that was seen last, which may have noticed that or not.
    std::fs::write(lease.join("000000000009.json"), newer.to_string()).unwrap();
    let _ = leader.coordinator.shut_down().await;
    std::fs::remove_file(lease.join("000000000001.json")).ok();
    let ended = tokio::time::timeout(PATIENCE, follower.coordinator.failed()).await.expect("it ends");
    match ended {
        Err(LogError::Format { found: 9, written_by }) => assert_eq!(written_by, "7.1.0"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_leader_without_its_store_sends_its_workers_to_the_successor() {
    let (fixture, server) = (Fixture::new(), S3Server::start(&["state"]));
    let line = Line::to(&server).await;
    let mut first = Server::start_over(&fixture, "first", "s3://state/here", line.environment(&server)).await;
    let second = Server::start_over(&fixture, "second", "s3://state/here", server.environment()).await;
    let mut a = FakeWorker::connect(&first.url(), "worker-a").await;
    let mut b = FakeWorker::connect(&first.url(), "worker-b").await;
    let id = first.submit(&fixture.spec("demo", "2")).await.unwrap();
    let (form_a, form_b) = (a.form().await, b.form().await);
    first.until(&id, JobState::Running).await;

    line.cut();
    let took = second.until_it_leads().await;
    assert!(took < TAKEOVER, "{took:?}");
    a.ended().await;
    b.ended().await;
    assert!(!first.leads().await, "it says that it can't know");
    let (mut a, mut b) = (a.reconnect(&second.url()).await, b.reconnect(&second.url()).await);
    assert_eq!((a.hears(Duration::from_millis(500)).await, b.hears(Duration::from_millis(10)).await), (None, None));
    a.complete(&form_a).await;
    b.complete(&form_b).await;
    let job = second.until(&id, JobState::Succeeded).await;
    assert_eq!((job.generation, job.recoveries), (1, 0));
    line.mend();
    assert!(!first.ended().await, "it ends once it hears of its successor");
}

#[tokio::test]
async fn a_lone_leader_whose_store_comes_back_gets_its_workers_back_and_disturbs_none() {
    let (fixture, server) = (Fixture::new(), S3Server::start(&["state"]));
    let line = Line::to(&server).await;
    let only = Server::start_over(&fixture, "only", "s3://state/here", line.environment(&server)).await;
    let mut a = FakeWorker::connect(&only.url(), "worker-a").await;
    let id = only.submit(&fixture.spec("demo", "1")).await.unwrap();
    let form = a.form().await;
    only.until(&id, JobState::Running).await;
    line.cut();
    a.ended().await;
    line.mend();
    only.until_it_leads().await;
    // For longer than the detection time, but not than the grace period.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut a = a.reconnect(&only.url()).await;
    assert_eq!(a.hears(Duration::from_millis(500)).await, None);
    a.complete(&form).await;
    let job = only.until(&id, JobState::Succeeded).await;
    assert_eq!((job.generation, job.recoveries), (1, 0));
}
