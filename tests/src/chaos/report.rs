//! What a soak has found.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// The rounds of one kind of fault.
#[derive(Debug, Clone, Default)]
struct Kind {
    seconds: Vec<f64>,
    losses: Losses,
    failures: Vec<String>,
}

/// What a job was short of when it had ended, by its manifests and its history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Steps that had to be made again.
    pub steps: u64,
    /// Samples that were used without the fault, and not with it.
    pub samples_lost: u64,
    /// Uses of samples beyond the first of an epoch.
    pub samples_repeated: u64,
    /// Checkpoints that were committed, were not retired, and are not there.
    pub checkpoints: u64,
}

impl Losses {
    /// Whether nothing was lost, and nothing used twice.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// In the order of the fields.
    fn counts(self) -> [u64; 4] {
        [self.steps, self.samples_lost, self.samples_repeated, self.checkpoints]
    }
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.samples_lost += other.samples_lost;
        self.samples_repeated += other.samples_repeated;
        self.checkpoints += other.checkpoints;
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, samples_lost, samples_repeated, checkpoints } = self;
        write!(
            f,
            "steps lost: {steps}; samples lost: {samples_lost}, repeated: {samples_repeated}; checkpoints lost: {checkpoints}"
        )
    }
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
    /// Adds a round: the seconds from its fault to the next step, and what was lost, also where it failed for that.
    pub(super) fn add(&mut self, fault: String, outcome: anyhow::Result<f64>, losses: Losses) {
        let kind = self.kinds.entry(fault).or_default();
        kind.losses += losses;
        match outcome {
            Ok(seconds) => kind.seconds.push(seconds),
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

    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.kinds.values().map(|kind| kind.seconds.len() + kind.failures.len()).sum()
    }

    /// The phases of recoveries that were measured.
    pub fn phases(&self) -> impl Iterator<Item = &str> {
        let measured = self.phases.iter().filter(|(_, buckets)| buckets.last().is_some_and(|&(_, count)| count > 0));
        measured.map(|(name, _)| name.as_str())
    }

    /// What went wrong, with the kind of fault before it.
    pub fn failures(&self) -> Vec<String> {
        let of_kind = |(name, kind): (&String, &Kind)| {
            kind.failures.iter().map(|failure| format!("{name}: {failure}")).collect::<Vec<_>>()
        };
        self.kinds.iter().flat_map(of_kind).collect()
    }

    /// What was lost in all of them.
    pub fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        self.kinds.values().for_each(|kind| losses += kind.losses);
        losses
    }

    /// The same as a document.
    pub fn to_json(&self) -> Value {
        let kind = |(name, kind): (&String, &Kind)| {
            json!({
                "fault": name,
                "rounds": kind.seconds.len() + kind.failures.len(),
                "recovered": kind.seconds.len(),
                "seconds": kind.seconds.iter().map(|s| (s * 1e3).round() / 1e3).collect::<Vec<_>>(),
                "lost": of(kind.losses),
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
            "lost": of(self.losses()),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:42} {:>6} {:>9} {:>7} {:>7} {:>10} {:>12} {:>8} {:>16}",
            "fault",
            "rounds",
            "recovered",
            "p50 s",
            "max s",
            "steps lost",
            "samples lost",
            "repeated",
            "checkpoints lost"
        )?;
        for (name, kind) in &self.kinds {
            let mut sorted = kind.seconds.clone();
            sorted.sort_by(f64::total_cmp);
            let (rounds, recovered) = (sorted.len() + kind.failures.len(), sorted.len());
            let p50 = sorted.get(recovered / 2).copied().unwrap_or(f64::NAN);
            let max = sorted.last().copied().unwrap_or(f64::NAN);
            let [steps, lost, repeated, checkpoints] = kind.losses.counts();
            write!(f, "{name:42} {rounds:>6} {recovered:>9} {p50:>7.2} {max:>7.2} ")?;
            writeln!(f, "{steps:>10} {lost:>12} {repeated:>8} {checkpoints:>16}")?;
        }
        writeln!(f, "\n{:42} {:>6} {:>9} {:>7}", "phase of members' recoveries", "count", "p50 ≤ s", "p99 ≤ s")?;
        for (name, buckets) in &self.phases {
            let count = buckets.last().map_or(0, |&(_, count)| count);
            writeln!(f, "{name:42} {count:>6} {:>9.3} {:>7.3}", quantile(buckets, 0.5), quantile(buckets, 0.99))?;
        }
        Ok(())
    }
}

fn of(losses: Losses) -> Value {
    let [steps, samples_lost, samples_repeated, checkpoints] = losses.counts();
    json!({ "steps": steps, "samples_lost": samples_lost, "samples_repeated": samples_repeated, "checkpoints": checkpoints })
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
