//! What a soak has found.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// The rounds of one kind of fault.
#[derive(Debug, Clone, Default)]
struct Kind {
    seconds: Vec<f64>,
    steps_lost: u64,
    failures: Vec<String>,
}

/// One round that came to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recovered {
    /// From the fault to the next step.
    pub(super) seconds: f64,
    /// Steps that had to be made again.
    pub(super) steps_lost: u64,
}

/// Counts of a histogram's buckets, by upper bound.
type Buckets = Vec<(f64, u64)>;

/// All rounds.
#[derive(Debug, Clone, Default)]
pub struct Report {
    kinds: BTreeMap<String, Kind>,
    phases: BTreeMap<String, Buckets>,
}

impl Report {
    pub(super) fn add(&mut self, fault: String, outcome: anyhow::Result<Recovered>) {
        let kind = self.kinds.entry(fault).or_default();
        match outcome {
            Ok(recovered) => {
                kind.seconds.push(recovered.seconds);
                kind.steps_lost += recovered.steps_lost;
            }
            Err(error) => kind.failures.push(format!("{error:#}")),
        }
    }

    /// Adds what a coordinator's page of metrics says of the phases of recoveries.
    pub(super) fn add_phases(&mut self, page: &str) {
        for line in page.lines().filter(|line| line.starts_with("cappa_recovery_duration_seconds_bucket")) {
            if let Some((phase, bound, count)) = bucket(line) {
                let buckets = self.phases.entry(phase).or_default();
                match buckets.iter_mut().find(|(other, _)| *other == bound) {
                    Some((_, sum)) => *sum += count,
                    None => buckets.push((bound, count)),
                }
            }
        }
    }

    /// What went wrong, with the kind of fault before it.
    pub fn failures(&self) -> Vec<String> {
        let of_kind = |(name, kind): (&String, &Kind)| {
            kind.failures.iter().map(|failure| format!("{name}: {failure}")).collect::<Vec<_>>()
        };
        self.kinds.iter().flat_map(of_kind).collect()
    }

    /// Steps that had to be made again.
    pub fn steps_lost(&self) -> u64 {
        self.kinds.values().map(|kind| kind.steps_lost).sum()
    }

    /// The same as a document.
    pub fn to_json(&self) -> Value {
        let kind = |(name, kind): (&String, &Kind)| {
            json!({
                "fault": name,
                "rounds": kind.seconds.len() + kind.failures.len(),
                "recovered": kind.seconds.len(),
                "seconds": kind.seconds.iter().map(|s| (s * 1e3).round() / 1e3).collect::<Vec<_>>(),
                "steps_lost": kind.steps_lost,
                "failures": kind.failures,
            })
        };
        let phase = |(name, buckets): (&String, &Buckets)| {
            let count = buckets.last().map_or(0, |&(_, count)| count);
            json!({ "phase": name, "count": count, "p50": quantile(buckets, 0.5), "p99": quantile(buckets, 0.99) })
        };
        json!({
            "faults": self.kinds.iter().map(kind).collect::<Vec<_>>(),
            "phases": self.phases.iter().map(phase).collect::<Vec<_>>(),
            "steps_lost": self.steps_lost(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:42} {:>6} {:>9} {:>7} {:>7} {:>10}",
            "fault", "rounds", "recovered", "p50 s", "max s", "steps lost"
        )?;
        for (name, kind) in &self.kinds {
            let mut sorted = kind.seconds.clone();
            sorted.sort_by(f64::total_cmp);
            let (rounds, recovered) = (sorted.len() + kind.failures.len(), sorted.len());
            let p50 = sorted.get(recovered / 2).copied().unwrap_or(f64::NAN);
            let max = sorted.last().copied().unwrap_or(f64::NAN);
            writeln!(f, "{name:42} {rounds:>6} {recovered:>9} {p50:>7.2} {max:>7.2} {:>10}", kind.steps_lost)?;
        }
        writeln!(f, "\n{:42} {:>6} {:>9} {:>7}", "phase of members' recoveries", "count", "p50 ≤ s", "p99 ≤ s")?;
        for (name, buckets) in &self.phases {
            let count = buckets.last().map_or(0, |&(_, count)| count);
            writeln!(f, "{name:42} {count:>6} {:>9.3} {:>7.3}", quantile(buckets, 0.5), quantile(buckets, 0.99))?;
        }
        Ok(())
    }
}

/// Phase, upper bound and count of a line of a page of metrics.
fn bucket(line: &str) -> Option<(String, f64, u64)> {
    let label = |name: &str| line.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(value, _)| value);
    let bound = label("le")?;
    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
    Some((label("phase")?.to_owned(), bound, line.rsplit_once(' ')?.1.parse().ok()?))
}

/// The upper bound of the bucket in which the quantile lies.
fn quantile(buckets: &Buckets, q: f64) -> f64 {
    let count = buckets.last().map_or(0, |&(_, count)| count);
    let wanted = q * count as f64;
    buckets.iter().find(|&&(_, sum)| sum as f64 >= wanted).map_or(f64::NAN, |&(bound, _)| bound)
}

/// `WorkerKilled` → `worker killed`.
pub(super) fn words(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(character.to_lowercase());
    }
    words
}
