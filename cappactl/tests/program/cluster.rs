//! Clusters of this machine, with shell scripts in place of the coordinator and the workers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Ended, Server, World, serve};

/// Takes `--address-file PATH` and writes `$addresses` there, as both programs do.
const TELL: &str = r#"while [ $# -gt 0 ]; do [ "$1" = --address-file ] && file=$2; shift; done
echo "$addresses" > "$file.new" && mv "$file.new" "$file"
"#;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(server: &Server, worker: &str) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let addresses = format!(r#"{{"grpc": "{}", "http": "127.0.0.1:1"}}"#, server.address);
        bench.program(
            "cappa-coordinator",
            &format!("echo \"$@\" >> \"$0.args\"\naddresses='{addresses}'\n{TELL}exec sleep 600\n"),
        );
        bench.program("cappa-worker", worker);
        bench
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn cluster(&self) -> std::path::PathBuf {
        self.dir.path().join("cluster")
    }

    async fn local(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cappactl"));
        command.arg("local").args(arguments).arg("--dir").arg(self.cluster());
        command.env("CAPPA_BIN_DIR", self.dir.path()).env_remove("CAPPA_COORDINATOR");
        tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
    }

    /// Process ids as the state file names them.
    fn pids(&self) -> Vec<i64> {
        let state = fs::read(self.cluster().join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let workers = state["workers"].as_array().unwrap().iter().map(|worker| &worker["process"]);
        workers.chain([&state["coordinator"]]).map(|process| process["pid"].as_i64().unwrap()).collect()
    }
}

fn is_running(pid: i64) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_runs_until_it_is_stopped() {
    let server = serve(World::default()).await;
    let worker = format!("addresses='{{\"metrics\": \"127.0.0.1:2\"}}'\n{TELL}exec sleep 600\n");
    let bench = Bench::new(&server, &worker);
    let up = bench.local(&["up", "--workers", "1"]).await;
    assert_eq!(up.code, Some(0), "{up:?}");
    assert!(up.stdout.contains("http://127.0.0.1:2/metrics"), "{}", up.stdout);
    let pids = bench.pids();
    assert!(pids.len() == 2 && pids.iter().all(|&pid| is_running(pid)), "{pids:?}");
    assert_eq!(bench.local(&["status"]).await.code, Some(0));
    let again = bench.local(&["up", "--workers", "1"]).await;
    assert!(again.code == Some(1) && again.stderr.contains("runs in"), "{again:?}");
    assert_eq!(bench.local(&["down"]).await.code, Some(0));
    assert!(!pids.iter().any(|&pid| is_running(pid)), "{pids:?}");
    assert_eq!(bench.local(&["status"]).await.code, Some(102));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_of_a_cluster_is_started_again_where_the_rest_looks_for_it() {
    let server = serve(World::default()).await;
    let worker = format!("addresses='{{\"metrics\": \"127.0.0.1:2\"}}'\n{TELL}exec sleep 600\n");
    let bench = Bench::new(&server, &worker);
    assert_eq!(bench.local(&["up", "--workers", "1"]).await.code, Some(0));
    let before = bench.pids();
    let [worker, coordinator] = before[..] else { panic!("{before:?}") };
    assert!(Command::new("kill").args(["-9", &coordinator.to_string()]).status().unwrap().success());
    let begun = Instant::now();
    while is_running(coordinator) && begun.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.local(&["status"]).await.code, Some(5));
    let up = bench.local(&["up", "--workers", "1"]).await;
    assert_eq!(up.code, Some(0), "{up:?}");
    let after = bench.pids();
    assert!(after[0] == worker && is_running(worker), "the worker goes on: {after:?}");
    assert!(after[1] != coordinator && is_running(after[1]), "{after:?}");
    let told = fs::read_to_string(bench.dir.path().join("cappa-coordinator.args")).unwrap();
    let again = told.lines().nth(1).unwrap();
    assert!(again.contains(&format!("--listen {}", server.address)), "{told}");
    assert_eq!(bench.local(&["down"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_early_is_named_with_its_last_words() {
    let server = serve(World::default()).await;
    let bench = Bench::new(&server, "echo libtorch is not there >&2\nexit 3\n");
    let start = Instant::now();
    let up = bench.local(&["up", "--workers", "1"]).await;
    assert_eq!(up.code, Some(5), "{up:?}");
    assert!(up.stderr.contains("worker-0 ended while it started\n  libtorch is not there"), "{}", up.stderr);
    assert!(start.elapsed() < Duration::from_secs(20), "it waited for what can't come");
    assert!(!bench.cluster().join("state.json").exists(), "the coordinator was stopped");
}
