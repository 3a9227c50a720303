//! A cluster of one machine as `cappactl local` starts and stops it, with several coordinators.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cappa_proto::ListRequest;
use cappa_proto::jobs_client::JobsClient;
use cappa_shared::coordinators::LEADER_HEADER;
use cappa_tests::Corpus;
use cappa_tests::corpus::cappactl;
use cappa_tests::jobs::JobSpec;
use serde_json::Value;
use tempfile::TempDir;

/// Three times what a take-over may take: machines are shared.
const TAKEOVER: Duration = Duration::from_secs(15);

const STEPS: u64 = 400;

/// A cluster that is stopped when the test ends, however it does.
struct Local {
    folder: TempDir,
    /// As `local up` told it.
    told: Value,
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.down();
    }
}

impl Local {
    fn up(arguments: &[&str]) -> Result<Self> {
        let mut local = Self { folder: tempfile::tempdir()?, told: Value::Null };
        let up = ["-o", "json", "local", "up", "--dir", local.dir()?];
        local.told = serde_json::from_str(&cappactl(&[&up, arguments].concat())?)?;
        Ok(local)
    }

    fn down(&self) -> Result<()> {
        cappactl(&["local", "down", "--dir", self.dir()?]).map(drop)
    }

    fn dir(&self) -> Result<&str> {
        self.folder.path().to_str().context("a path in UTF-8")
    }

    /// The URLs of all coordinators, as `--coordinator` takes them.
    fn coordinators(&self) -> Result<&str> {
        self.told["coordinator"].as_str().context("it says where the coordinators are")
    }

    /// Every process with its name.
    fn processes(&self) -> Result<Vec<(&str, u64)>> {
        let all = self.told["processes"].as_array().context("it says what runs")?;
        let named = all.iter().map(|one| Some((one["name"].as_str()?, one["pid"].as_u64()?)));
        named.collect::<Option<_>>().context("each process has a name and a number")
    }

    /// `host:port` of the coordinator that leads, as any that answers says.
    async fn leader(&self) -> Result<Option<String>> {
        for url in self.coordinators()?.split(',') {
            let Ok(mut jobs) = JobsClient::connect(url.to_owned()).await else { continue };
            let Ok(answer) = jobs.list(ListRequest::default()).await else { continue };
            if let Some(leader) = answer.metadata().get(LEADER_HEADER) {
                return Ok(Some(leader.to_str()?.to_owned()));
            }
        }
        Ok(None)
    }
}

/// Processes whose command line names this folder.
fn that_know(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let Ok(line) = std::fs::read(process?.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        found.extend(Some(line).filter(|line| line.contains(&folder)));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_cluster_of_three_coordinators_outlives_its_leader_and_leaves_no_process() -> Result<()> {
    let corpus = Corpus::new(400)?;
    let local = Local::up(&["--coordinators", "3", "--workers", "2", "--threads", "1"])?;
    let all = local.coordinators()?;
    ensure!(all.split(',').count() == 3 && local.processes()?.len() == 5, "{}", local.told);
    let document = local.folder.path().join("job.yaml");
    let spec = JobSpec { steps: STEPS, workers: (2, 2), checkpoint_every: 100, ..JobSpec::default() };
    std::fs::write(&document, spec.document(&corpus))?;
    let with = |arguments: &[&str]| cappactl(&[&["--coordinator", all], arguments].concat());
    let file = document.to_str().context("a path in UTF-8")?;
    let job = with(&["submit", "-f", file, "-o", "name"])?.trim().to_owned();
    with(&["wait", &job, "--for", "step:20", "--timeout", "60s"])?;

    let leader = local.leader().await?.context("somebody leads")?;
    let first = all.split(',').next().context("three")?;
    assert_eq!(first, format!("http://{leader}"), "who was started first leads");
    let (_, pid) = local.processes()?.into_iter().find(|(name, _)| *name == "coordinator").context("it runs")?;
    ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success(), "it was killed already");
    let begun = Instant::now();
    while local.leader().await?.is_none_or(|now| now == leader) {
        assert!(begun.elapsed() < TAKEOVER, "nobody has taken over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("SIGKILL of the leader to another's answer that it leads: {:.2} s", begun.elapsed().as_secs_f64());

    with(&["wait", &job, "--for", "state:succeeded", "--timeout", "60s"])?;
    with(&["audit", &job]).context("every sample was used once")?;
    let told: Value = serde_json::from_str(&with(&["describe", &job, "-o", "json"])?)?;
    let job = told.get("job").unwrap_or(&told);
    assert_eq!((job["step"].as_u64(), job["recoveries"].as_u64()), (Some(STEPS), Some(0)), "{told}");

    local.down()?;
    assert_eq!(that_know(local.folder.path())?, [""; 0], "it leaves no process");
    let status = cappa_tests::corpus::cappactl_ended(&["local", "status", "--dir", local.dir()?], &[])?;
    assert_eq!(status.status.code(), Some(102), "no cluster is known any more");
    Ok(())
}
