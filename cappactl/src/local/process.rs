//! Processes of this machine, identified so that a process id that was used again is never signalled.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// Bytes of a log that are worth showing when a process ended early.
const LOG_TAIL: usize = 4096;

/// A process that this program started, now or in an earlier run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks between the machine's start and the process's; with the next field, unique.
    started: u64,
    /// Of this start of the machine.
    boot: String,
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts a program in a process group of its own, so that Ctrl-C in the terminal does not reach
    /// it, with its output at the end of a log: what an earlier one died of stays there.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let (_, started) = read_stat(pid)?;
        Ok(Self { pid, started, boot: boot_id()?, log: log.to_owned() })
    }

    /// Whether it runs. A child that has ended and waits to be reaped does not.
    pub(crate) fn is_alive(&self) -> bool {
        let same_boot = boot_id().is_ok_and(|boot| boot == self.boot);
        same_boot
            && read_stat(self.pid).is_ok_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        match kill_process(pid, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()), // It may have ended by itself meanwhile.
            Err(error) => Err(error.into()),
        }
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> Vec<String> {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL)..];
        let text = String::from_utf8_lossy(tail);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// State and start time of a process: fields 3 and 22 of proc_pid_stat(5).
fn read_stat(pid: i32) -> io::Result<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}")))
}

fn parse_stat(stat: &str) -> Option<(char, u64)> {
    // The second field is the program's name in parentheses and may hold spaces and parentheses.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn sleeper() -> (tempfile::TempDir, Process) {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::spawn(Command::new("sleep").arg("600"), &dir.path().join("log")).unwrap();
        (dir, process)
    }

    fn gone_within(process: &Process, limit: Duration) -> bool {
        let start = Instant::now();
        while process.is_alive() {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    #[test]
    fn a_terminated_process_is_known_to_be_gone() {
        let (_dir, process) = sleeper();
        assert!(process.is_alive());
        process.terminate().unwrap();
        assert!(gone_within(&process, Duration::from_secs(5)));
    }

    #[test]
    fn another_process_with_the_same_id_is_never_signalled() {
        let (_dir, process) = sleeper();
        let impostor = Process { started: process.started + 1, ..process.clone() };
        assert!(!impostor.is_alive());
        impostor.kill().unwrap();
        let before_reboot = Process { boot: "another".into(), ..process.clone() };
        before_reboot.kill().unwrap();
        assert!(!gone_within(&process, Duration::from_millis(200)));
        process.kill().unwrap();
        assert!(gone_within(&process, Duration::from_secs(5)));
    }

    #[test]
    fn a_program_name_may_look_like_the_rest_of_the_line() {
        let stat = "7 (a) S 1 (b) R 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_stat(stat), Some(('R', 4242)));
    }
}
