//! What workers log, the newest lines of each job.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cappa_core::JobId;
use cappa_proto::LogLine;
use parking_lot::Mutex;

/// Lines of a job that are kept.
const KEPT: usize = 10_000;

/// Lines of all jobs that are kept: beyond that, those of the jobs that have been silent for longest go.
const KEPT_OF_ALL: usize = 500_000;

/// The newest lines of each job. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs {
    all: Arc<Mutex<All>>,
}

#[derive(Debug, Default)]
struct All {
    jobs: HashMap<JobId, Lines>,
    /// How many lines there are.
    lines: usize,
    /// How many batches of lines have come.
    batches: u64,
}

#[derive(Debug, Default)]
struct Lines {
    /// Number of the first line that is still kept.
    first: u64,
    lines: VecDeque<LogLine>,
    /// The newest batch that was of this job.
    batch: u64,
}

impl Logs {
    /// Adds lines of a job.
    pub(crate) fn add(&self, job: &JobId, lines: Vec<LogLine>) {
        self.all.lock().add(job, lines);
    }

    /// The lines from number `from` on, and the number of the one that comes next.
    pub(crate) fn read(&self, job: &JobId, from: u64) -> (Vec<LogLine>, u64) {
        let all = self.all.lock();
        let Some(kept) = all.jobs.get(job) else {
            return (Vec::new(), from);
        };
        let skipped = usize::try_from(from.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        let next = kept.first + kept.lines.len() as u64;
        (kept.lines.iter().skip(skipped).cloned().collect(), next)
    }
}

impl All {
    fn add(&mut self, job: &JobId, lines: Vec<LogLine>) {
        let kept = self.jobs.entry(job.clone()).or_default();
        self.batches += 1;
        kept.batch = self.batches;
        for line in lines {
            if kept.lines.len() == KEPT {
                kept.lines.pop_front();
                kept.first += 1;
                self.lines -= 1;
            }
            kept.lines.push_back(line);
            self.lines += 1;
        }
        while self.lines > KEPT_OF_ALL {
            let silent = self.jobs.values_mut().filter(|kept| !kept.lines.is_empty());
            let Some(longest) = silent.min_by_key(|kept| kept.batch) else { return };
            // Whoever follows goes on at the right number if the job has more to say.
            let gone = std::mem::take(&mut longest.lines).len();
            longest.first += gone as u64;
            self.lines -= gone;
        }
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

    #[test]
    fn of_very_many_jobs_those_that_were_silent_for_longest_lose_their_lines() {
        let logs = Logs::default();
        let job = |n: usize| JobId::from(format!("job-{n}"));
        let full = || (0..KEPT).map(|_| LogLine::default()).collect();
        let most = KEPT_OF_ALL / KEPT;
        (0..most).for_each(|n| logs.add(&job(n), full()));
        logs.add(&job(0), vec![LogLine::default()]);
        logs.add(&job(most), full());
        assert_eq!(logs.all.lock().lines, KEPT_OF_ALL);
        assert_eq!(logs.read(&job(0), 0).0.len(), KEPT, "it has just said something");
        assert_eq!(logs.read(&job(1), 0), (Vec::new(), KEPT as u64));
        logs.add(&job(1), vec![LogLine::default()]);
        assert_eq!(logs.read(&job(1), KEPT as u64).0.len(), 1, "who follows misses nothing new");
    }
}
