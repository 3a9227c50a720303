//! Was every sample of every epoch used exactly once? Proven or refuted from a run's manifests alone.
//!
//! The newest manifest names the one before by digest, and so on to the first: the *chain*. Each says which groups computed
//! the steps since. The audit follows the chain, sees that the steps are without gap or overlap and that the ranks of every
//! group divided all lanes among them, and goes through every slot of every step with a mark for each sample.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::account::{Account, GroupSteps, Rewind};
use super::{CheckpointManifest, Quarantined};
use crate::ids::{Rank, Step};
use crate::order::{EpochOrder, JobOrder, lanes_of_rank};

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Up to which step the run was looked at.
    pub step: Step,
    /// Manifests of the chain, from the first.
    pub checkpoints: Vec<Step>,
    /// The groups, in the order of the steps.
    pub groups: Vec<GroupSteps>,
    /// Every epoch of every source that was begun.
    pub epochs: Vec<EpochUse>,
    /// Updates that took others back: the samples of those, too, were used, and to no effect.
    pub rewinds: Vec<Rewind>,
    /// Samples that were left out, each once.
    pub quarantined: Vec<Quarantined>,
    /// What refutes the run, or keeps it from being proven. Empty: every sample of every epoch was used exactly once.
    pub findings: Vec<String>,
}

impl Audit {
    /// The audit of a run whose steps can't be gone through.
    pub fn unfounded(findings: Vec<String>) -> Self {
        let (checkpoints, groups, epochs, rewinds, quarantined) = Default::default();
        Self { step: Step(0), checkpoints, groups, epochs, rewinds, quarantined, findings }
    }

    /// Whether every sample was used exactly once.
    pub fn is_proven(&self) -> bool {
        self.findings.is_empty()
    }
}

/// How much of an epoch was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EpochUse {
    /// The source, from zero.
    pub source: u32,
    /// The epoch, from zero.
    pub epoch: u64,
    /// Samples of the source.
    pub samples: u64,
    /// Samples used, quarantined ones included.
    pub used: u64,
    /// Uses beyond the first of a sample.
    pub repeated: u64,
}

/// So many findings are named; more say nothing new.
const FINDINGS: usize = 50;

/// The manifests from the first to the newest, each named by its successor's digest; what is wrong goes to `findings`.
///
/// `manifests` may be in any order and hold others of the job: side branches that no later checkpoint was built on.
pub fn chain<'a>(manifests: &'a [CheckpointManifest], findings: &mut Vec<String>) -> Vec<&'a CheckpointManifest> {
    let by_step: BTreeMap<Step, &CheckpointManifest> = manifests.iter().map(|m| (m.contents().step, m)).collect();
    let Some((_, newest)) = by_step.last_key_value() else {
        findings.push("there is no committed checkpoint".into());
        return Vec::new();
    };
    let mut chain = vec![*newest];
    let mut at = *newest;
    loop {
        let (here, step) = (at.contents(), at.contents().step);
        let Some(account) = &here.account else {
            findings.push(format!("the manifest of step {step} keeps no account: an older version wrote it"));
            break;
        };
        let Some(previous) = &account.previous else { break };
        let Some(&before) = by_step.get(&previous.step).filter(|_| previous.step < step) else {
            findings.push(format!("the manifest of step {} is missing, on which step {step} was built", previous.step));
            break;
        };
        if previous.sha256.as_deref() != Some(before.digest()) || previous.generation != before.contents().generation {
            findings
                .push(format!("the manifest of step {} is not the one that step {step} was built on", previous.step));
        }
        findings.extend(differences(before, at));
        chain.push(before);
        at = before;
    }
    chain.reverse();
    chain
}

/// What two checkpoints of a run must have in common.
fn differences(before: &CheckpointManifest, after: &CheckpointManifest) -> Vec<String> {
    let (a, b) = (before.contents(), after.contents());
    let order = |manifest: &super::Contents| manifest.account.as_ref().map(|account| account.order.clone());
    let same = [
        ("job", a.job == b.job),
        ("spec", a.spec_digest == b.spec_digest),
        ("data", a.data_digest == b.data_digest),
        ("sample order", order(a).is_none() || order(a) == order(b)),
    ];
    let different = same.into_iter().filter(|(_, is_same)| !is_same);
    different
        .map(|(what, _)| format!("the manifests of steps {} and {} are of another {what}", a.step, b.step))
        .collect()
}

/// Audits the run of `chain`, which [`chain`] made, in the order that its manifests record. `findings` are those so far.
pub fn audit(chain: &[&CheckpointManifest], order: &JobOrder, mut findings: Vec<String>) -> Audit {
    let mut marks = Marks::new(order);
    let mut groups: Vec<GroupSteps> = Vec::new();
    let mut rewinds: Vec<Rewind> = Vec::new();
    let mut quarantined = BTreeSet::new();
    for manifest in chain {
        let contents = manifest.contents();
        quarantined.extend(contents.quarantined.iter().cloned());
        let Some(account) = &contents.account else { continue };
        findings.extend(step_problems(account, contents.step, order.lanes()));
        findings.extend(rewind_problems(account, contents.step, chain));
        rewinds.extend(&account.rewinds);
        for &steps in &account.groups {
            marks.take(&steps);
            groups.push(steps);
        }
    }
    groups.dedup_by(|next, last| {
        let same = next.generation == last.generation && next.first == last.end;
        if same {
            last.end = next.end;
        }
        same
    });
    if let Some(pair) = groups.windows(2).find(|pair| pair[1].generation < pair[0].generation) {
        findings.push(format!("generation {} worked after generation {}", pair[1].generation, pair[0].generation));
    }
    let whole = marks.whole_epochs();
    let epochs = marks.into_epochs();
    findings.extend(epochs.iter().flat_map(|epoch| epoch_problems(epoch, whole[epoch.source as usize])));
    findings.truncate(FINDINGS);
    Audit {
        step: chain.last().map_or(Step(0), |manifest| manifest.contents().step),
        checkpoints: chain.iter().map(|manifest| manifest.contents().step).collect(),
        groups,
        epochs,
        rewinds,
        quarantined: quarantined.into_iter().collect(),
        findings,
    }
}

/// The steps from the previous checkpoint to this one must be there, each once, computed on all lanes.
fn step_problems(account: &Account, step: Step, lanes: u32) -> Vec<String> {
    let mut problems = Vec::new();
    let mut at = account.previous.as_ref().map_or(Step(0), |previous| previous.step);
    for group in &account.groups {
        let who = format!("generation {}", group.generation);
        if group.first > at {
            problems.push(format!(
                "steps {at} to {} were computed by nobody, up to the manifest of step {step}",
                group.first
            ));
        } else if group.first < at {
            problems.push(format!("steps {} to {at} were computed twice, the second time by {who}", group.first));
        }
        if group.end < group.first {
            problems.push(format!("{who} ended before it began, at step {}", group.end));
        }
        let ranks = (0..group.world_size).map(Rank);
        let owned: Vec<u32> = ranks.flat_map(|rank| lanes_of_rank(rank, group.world_size, lanes)).collect();
        if !owned.iter().copied().eq(0..lanes) {
            problems
                .push(format!("the {} ranks of {who} did not divide the {lanes} lanes among them", group.world_size));
        }
        at = at.max(group.end);
    }
    if at != step {
        problems.push(format!("steps {at} to {step} were computed by nobody, up to the manifest of step {step}"));
    }
    problems
}

/// A rewind belongs to the steps since the checkpoint before, and goes back to the state of a checkpoint, or of the beginning.
fn rewind_problems(account: &Account, step: Step, chain: &[&CheckpointManifest]) -> Vec<String> {
    let first = account.previous.as_ref().map_or(Step(0), |previous| previous.step);
    let mut problems = Vec::new();
    for Rewind { step: at, to, .. } in &account.rewinds {
        if *at <= first || *at > step {
            problems.push(format!(
                "the manifest of step {step} tells of a rewind at step {at}, which is none of its steps"
            ));
        }
        let is_checkpoint = chain.iter().any(|manifest| manifest.contents().step == *to);
        if to >= at || *to != Step(0) && !is_checkpoint {
            problems.push(format!("step {at} went back to the state of step {to}, of which there is no checkpoint"));
        }
    }
    problems
}

/// No sample comes twice in an epoch, and none is left out of those that every lane has left behind, which are `whole`.
fn epoch_problems(epoch: &EpochUse, whole: u64) -> Vec<String> {
    let EpochUse { source, epoch: number, samples, used, repeated } = epoch;
    let mut problems = Vec::new();
    if *repeated > 0 {
        problems.push(format!("epoch {number} of source {source} used {repeated} samples a second time"));
    }
    if *number < whole && used < samples {
        problems.push(format!("epoch {number} of source {source} left out {} of {samples} samples", samples - used));
    }
    problems
}

/// A mark for every sample of every epoch.
struct Marks<'a> {
    order: &'a JobOrder,
    /// The first sample of every shard of the job, and its source's samples begin at `firsts[source's first shard]`.
    firsts: Vec<u64>,
    epochs: BTreeMap<(u32, u64), Marked>,
    orders: HashMap<(u32, u64), EpochOrder>,
    /// The epoch of every source, lane after lane: the lanes of a mixture enter it one after the other.
    reached: Vec<Vec<u64>>,
}

struct Marked {
    bits: Vec<u64>,
    used: u64,
    repeated: u64,
}

impl<'a> Marks<'a> {
    fn new(order: &'a JobOrder) -> Self {
        let mut firsts = Vec::new();
        for source in order.sources() {
            let mut first = 0;
            for &count in source.counts() {
                firsts.push(first);
                first += u64::from(count);
            }
        }
        let reached = vec![vec![0; order.lanes() as usize]; order.sources().len()];
        Self { order, firsts, epochs: BTreeMap::new(), orders: HashMap::new(), reached }
    }

    /// Marks every sample of a group's steps, rank by rank.
    fn take(&mut self, steps: &GroupSteps) {
        let lanes = self.order.lanes();
        for step in (steps.first.0..steps.end.0).map(Step) {
            for rank in (0..steps.world_size).map(Rank) {
                for lane in lanes_of_rank(rank, steps.world_size, lanes) {
                    self.take_lane(step, lane);
                }
            }
            self.settle();
        }
    }

    fn take_lane(&mut self, step: Step, lane: u32) {
        for place in self.order.places(step, lane) {
            let key = (place.source, place.epoch);
            self.reached[place.source as usize][lane as usize] = place.epoch;
            let order = self.orders.entry(key).or_insert_with(|| self.order.epoch(place.source, place.epoch));
            let Some(sample) = self.order.slot(order, place).sample else { continue };
            let number = self.firsts[sample.shard as usize] + u64::from(sample.index);
            let samples = self.order.sources()[place.source as usize].total_samples();
            self.epochs.entry(key).or_insert_with(|| Marked::new(samples)).mark(number);
        }
    }

    /// Of every source, how many epochs all lanes have left behind.
    fn whole_epochs(&self) -> Vec<u64> {
        self.reached.iter().map(|lanes| lanes.iter().copied().min().unwrap_or_default()).collect()
    }

    /// Lets go of the orders and marks of epochs that are over.
    fn settle(&mut self) {
        if self.orders.len() <= 4 * self.order.sources().len() {
            return;
        }
        let whole = self.whole_epochs();
        let is_over = |(source, epoch): &(u32, u64)| *epoch < whole[*source as usize];
        self.orders.retain(|key, _| !is_over(key));
        for (_, marked) in self.epochs.iter_mut().filter(|(key, _)| is_over(key)) {
            marked.bits = Vec::new();
        }
    }

    fn into_epochs(self) -> Vec<EpochUse> {
        let samples = |source: u32| self.order.sources()[source as usize].total_samples();
        let of = |((source, epoch), marked): (&(u32, u64), &Marked)| EpochUse {
            source: *source,
            epoch: *epoch,
            samples: samples(*source),
            used: marked.used,
            repeated: marked.repeated,
        };
        self.epochs.iter().map(of).collect()
    }
}

impl Marked {
    fn new(samples: u64) -> Self {
        let words = usize::try_from(samples.div_ceil(64)).expect("a corpus fits into memory as bits");
        Self { bits: vec![0; words], used: 0, repeated: 0 }
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        // All lanes have left an epoch whose marks were let go of: whatever comes is a repetition.
        match self.bits.get_mut(word) {
            Some(bits) if *bits & bit == 0 => {
                *bits |= bit;
                self.used += 1;
            }
            _ => self.repeated += 1,
        }
    }
}

#[cfg(test)]
mod tests;
