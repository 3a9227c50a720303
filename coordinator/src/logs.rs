//! What workers log, the newest lines of each job.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cappa_core::JobId;
use cappa_proto::LogLine;
use parking_lot::Mutex;

/// Lines of a job that are kept.
const KEPT: usize = 10_000;

/// The newest lines of each job. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs {
    jobs: Arc<Mutex<HashMap<JobId, Lines>>>,
}

#[derive(Debug, Default)]
struct Lines {
    /// Number of the first line that is still kept.
    first: u64,
    lines: VecDeque<LogLine>,
}

impl Logs {
    /// Adds lines of a job.
    pub(crate) fn add(&self, job: &JobId, lines: Vec<LogLine>) {
        let mut jobs = self.jobs.lock();
        let kept = jobs.entry(job.clone()).or_default();
        for line in lines {
            if kept.lines.len() == KEPT {
                kept.lines.pop_front();
                kept.first += 1;
            }
            kept.lines.push_back(line);
        }
    }

    /// The lines from number `from` on, and the number of the one that comes next.
    pub(crate) fn read(&self, job: &JobId, from: u64) -> (Vec<LogLine>, u64) {
        let jobs = self.jobs.lock();
        let Some(kept) = jobs.get(job) else {
            return (Vec::new(), from);
        };
        let skipped = usize::try_from(from.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        let next = kept.first + kept.lines.len() as u64;
        (kept.lines.iter().skip(skipped).cloned().collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_numbered() {
        let (logs, job) = (Logs::default(), JobId::from("demo-1"));
        let line = |n: i64| LogLine { unix_ms: n, ..LogLine::default() };
        logs.add(&job, (0..10_002).map(line).collect());
        let (all, next) = logs.read(&job, 0);
        assert_eq!((all.len(), all[0].unix_ms, next), (10_000, 2, 10_002));
        logs.add(&job, vec![line(7)]);
        assert_eq!(logs.read(&job, next).0.len(), 1);
    }
}
