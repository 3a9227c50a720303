//! What a run came to: one line a measurement.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::faults::Loss;
use super::probe::Calls;
use super::story::Verdict;

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What was measured.
    pub name: String,
    /// What came of it.
    pub ours: f64,
    /// What it must not exceed, or (a rate) fall short of.
    pub limit: Option<f64>,
    /// Of both.
    pub unit: &'static str,
}

/// All measurements of a run, and what went wrong by name.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they were made.
    pub lines: Vec<Line>,
    /// Losses that were missed, and workers that were declared lost though they were not.
    pub misjudged: Vec<String>,
}

impl Report {
    /// The measurement of this name.
    pub fn line(&self, name: &str) -> Option<f64> {
        self.lines.iter().find(|line| line.name == name).map(|line| line.ours)
    }

    /// One JSON object a line, as all benchmarks print them.
    pub fn json(&self) -> Vec<Value> {
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let object = |line: &Line| {
            let Line { name, ours, limit, unit } = line;
            json!({"name": name, "ours": round(*ours), "limit": limit, "unit": unit})
        };
        self.lines.iter().map(object).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let width = self.lines.iter().map(|line| line.name.len()).max().unwrap_or_default();
        let mut table = String::new();
        for Line { name, ours, limit, unit } in &self.lines {
            let limit = limit.map_or_else(String::new, |limit| format!("  (limit {limit})"));
            // Writing to a string never fails.
            let _ = writeln!(table, "{name:width$}  {ours:>10.2} {unit}{limit}");
        }
        self.misjudged.iter().for_each(|what| table.push_str(&format!("misjudged: {what}\n")));
        table
    }

    fn add(&mut self, name: impl Into<String>, ours: f64, limit: Option<f64>, unit: &'static str) {
        self.lines.push(Line { name: name.into(), ours, limit, unit });
    }

    pub(super) fn connected(&mut self, workers: usize, took: Duration) {
        self.add(format!("{workers} workers connect"), took.as_secs_f64(), None, "s");
    }

    pub(super) fn formed(&mut self, took: Duration, forming: &[f64]) {
        self.add("from the first submission until all jobs run", took.as_secs_f64(), None, "s");
        self.add("from group formed to first step, p99", quantile(forming, 0.99), None, "ms");
    }

    pub(super) fn cpu(&mut self, cores: f64) {
        self.add("coordinator's processor time", cores, None, "cores");
    }

    pub(super) fn calls(&mut self, when: &str, calls: &Calls, since: Instant) {
        let calls: Vec<_> = calls.lock().iter().filter(|call| call.begun >= since).copied().collect();
        let all: Vec<f64> = calls.iter().map(|call| call.seconds * 1e3).collect();
        self.add(format!("RPC {when}, p50"), quantile(&all, 0.5), None, "ms");
        self.add(format!("RPC {when}, p99"), quantile(&all, 0.99), Some(50.0), "ms");
        self.add(format!("RPC {when}, worst"), quantile(&all, 1.0), None, "ms");
        self.add(format!("RPC {when}"), all.len() as f64, None, "calls");
        let late: Vec<f64> = calls.iter().map(|call| call.late * 1e3).collect();
        self.add(format!("the client's own wait for a processor {when}, p99"), quantile(&late, 0.99), None, "ms");
        let lists: Vec<f64> =
            calls.iter().filter(|call| call.method == "ListWorkers").map(|call| call.seconds * 1e3).collect();
        self.add(format!("ListWorkers {when}, p50"), quantile(&lists, 0.5), None, "ms");
    }

    pub(super) fn struck(&mut self, times: usize, hit: usize, jobs: usize, longest: Duration) {
        let name = format!("until {jobs} jobs run again, of which {hit} lost a worker in {times} strikes, the longest");
        self.add(name, longest.as_secs_f64(), None, "s");
    }

    pub(super) fn verdict(&mut self, losses: &[Loss], verdict: Verdict) {
        let Verdict { killed, hung, missed, false_ones, recovered, unrecovered } = verdict;
        self.add("workers taken away", losses.len() as f64, None, "workers");
        self.add("missed detections", missed.len() as f64, Some(0.0), "workers");
        self.add("false detections", false_ones.len() as f64, Some(0.0), "workers");
        self.add("groups that never formed again", unrecovered as f64, Some(0.0), "groups");
        self.add("from SIGKILL to its record, p99", quantile(&killed, 0.99), None, "ms");
        self.add("from SIGSTOP to its record, p99", quantile(&hung, 0.99), None, "ms");
        self.add("from a loss to the next group's first step, p50", quantile(&recovered, 0.5), None, "ms");
        self.add("from a loss to the next group's first step, worst", quantile(&recovered, 1.0), None, "ms");
        self.misjudged = missed.into_iter().map(|what| format!("missed {what}")).chain(false_ones).collect();
    }

    pub(super) fn streams_lost(&mut self, streams: u64) {
        self.add("streams that ended by themselves", streams as f64, Some(0.0), "streams");
    }

    pub(super) fn submitted(&mut self, count: usize, per_second: f64) {
        self.add(format!("submissions, {count} from 32 clients"), per_second, Some(500.0), "jobs/s");
    }

    pub(super) fn memory(&mut self, mib: f64) {
        self.add("coordinator's largest resident size", mib, Some(1024.0), "MiB");
    }
}

/// The smallest value that so large a share of them does not exceed; zero of none.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}
