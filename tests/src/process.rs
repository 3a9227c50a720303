//! A child process that never outlives its owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A running program, its log, and the file in which it says where it listens.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    addresses: PathBuf,
}

impl Process {
    /// Starts a program of this build, in a network namespace if one is named; `--address-file` is added to its arguments.
    pub(crate) fn start(
        program: &str,
        name: &str,
        namespace: Option<&str>,
        folder: &Path,
        arguments: &[String],
        env: &[(String, String)],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let addresses = folder.join(format!("{name}.addresses.json"));
        // A restarted process has not said anything yet.
        let _ = std::fs::remove_file(&addresses);
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = match namespace {
            None => Command::new(binary(program)?),
            // `ip` enters the namespace and becomes the program.
            Some(namespace) => {
                let mut enter = Command::new("ip");
                enter.args(["netns", "exec", namespace]).arg(binary(program)?);
                enter
            }
        };
        let child = command
            .args(arguments)
            .arg("--address-file")
            .arg(&addresses)
            .env("OMP_NUM_THREADS", "1")
            .envs(env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, log, addresses })
    }

    /// Where it listens, once it does.
    pub(crate) fn addresses(&mut self, limit: Duration) -> Result<serde_json::Value> {
        let begun = Instant::now();
        loop {
            if let Ok(text) = std::fs::read(&self.addresses) {
                return Ok(serde_json::from_slice(&text)?);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before it listened:\n{}", self.tail());
            }
            if begun.elapsed() > limit {
                bail!("did not listen within {limit:?}:\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = libc::pid_t::try_from(self.child.id())?;
        kill(pid, signal)
    }

    /// SIGKILL, and gone when this returns.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > limit {
                bail!("still runs after {limit:?}:\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill(pid: libc::pid_t, signal: libc::c_int) -> Result<()> {
    let sent = std::process::Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status()?;
    if !sent.success() {
        bail!("no signal could be sent to process {pid}");
    }
    Ok(())
}

/// A program of this build: beside this one, or beside the folder of a test binary.
pub fn binary(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folders = this.ancestors().skip(1).take(2); // <profile>, or <profile>/deps and then <profile>
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `cargo build --workspace` first"))
}
