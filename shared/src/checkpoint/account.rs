//! What a checkpoint says about the run that led to it: enough to audit the run from its manifests alone.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Step};
use crate::manifest::DataManifest;
use crate::order::{JobOrder, OrderError, Weights};
use crate::spec::{CaptionChoice, Data};

/// How a run came to the state of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Which samples every step took.
    pub order: OrderRecord,
    /// The checkpoint before; nothing for a job's first.
    pub previous: Option<Previous>,
    /// The groups that computed the steps from the previous checkpoint to this one, in the order of the steps.
    pub groups: Vec<GroupSteps>,
    /// Updates since the previous checkpoint that took others back, in the order of the steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewinds: Vec<Rewind>,
}

/// A bad update with which a run went back: the state after it is that of an earlier step, and the samples of the steps in between
/// are spent. Neither the order nor the cursor goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewind {
    /// Completed updates after it, this one among them.
    pub step: Step,
    /// The step whose state it went back to.
    pub to: Step,
    /// The group that did.
    pub generation: Generation,
}

/// Everything that the sample order is a function of, besides the content of the data manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRecord {
    /// The data manifests, in the spec's order.
    pub sources: Vec<SourceRecord>,
    /// Seed of sample order and draws.
    pub seed: u64,
    /// Lanes.
    pub lanes: u32,
    /// Shards that are shuffled together.
    pub shuffle_window: u32,
    /// Examples of a step.
    pub batch_size: u32,
    /// Whether every caption of a sample is a sample of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub every_caption: bool,
}

/// A source of samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// URL of its manifest.
    pub manifest: String,
    /// Its turns in a cycle of the mixture.
    pub turns: u32,
}

/// A checkpoint that another one was built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// Its step.
    pub step: Step,
    /// The group that wrote it.
    pub generation: Generation,
    /// [`CheckpointManifest::digest`](super::CheckpointManifest::digest) of its manifest; nothing if that could not be read.
    pub sha256: Option<String>,
}

/// Steps that a group computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSteps {
    /// The group.
    pub generation: Generation,
    /// Its ranks; they divide the lanes among them.
    pub world_size: u32,
    /// Completed updates when it began.
    pub first: Step,
    /// Completed updates when it ended.
    pub end: Step,
}

/// A group as it was formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormedGroup {
    /// Its number.
    pub generation: Generation,
    /// Its ranks.
    pub world_size: u32,
    /// The step that it began with.
    pub first: Step,
}

impl OrderRecord {
    /// That of a job.
    ///
    /// # Errors
    /// When the weights make no mixture, which a validated spec rules out.
    pub fn new(data: &Data, batch_size: u32) -> Result<Self, OrderError> {
        let weights: Vec<f64> = data.train.iter().map(|source| source.weight).collect();
        let turns = Weights::new(&weights)?;
        let sources = data.train.iter().zip(turns.turns());
        Ok(Self {
            sources: sources.map(|(source, &turns)| SourceRecord { manifest: source.source.clone(), turns }).collect(),
            seed: data.seed,
            lanes: data.lanes,
            shuffle_window: data.shuffle_window,
            batch_size,
            every_caption: data.captions.choose == CaptionChoice::All,
        })
    }

    /// What an epoch has of every shard of a source, which may not be known any more where every caption counts.
    pub fn counts(&self, source: &DataManifest) -> Option<Vec<u32>> {
        if self.every_caption { source.caption_counts() } else { Some(source.sample_counts()) }
    }

    /// The order, given what an epoch has of every shard of every source ([`OrderRecord::counts`]).
    ///
    /// # Errors
    /// As [`JobOrder::new`].
    pub fn order(&self, counts: Vec<Vec<u32>>) -> Result<JobOrder, OrderError> {
        let turns: Vec<f64> = self.sources.iter().map(|source| f64::from(source.turns)).collect();
        let weights = Weights::new(&turns)?;
        JobOrder::new(counts, &weights, self.seed, self.lanes, self.shuffle_window, self.batch_size.into())
    }
}

/// Which groups computed the steps from `first` to `end` of the run that led to a checkpoint of `generation`.
///
/// A group that starts at or before the first step of an earlier one has replaced all of its work: the state was lost, and
/// the steps were computed again.
pub fn lineage(groups: &[FormedGroup], generation: Generation, first: Step, end: Step) -> Vec<GroupSteps> {
    let mut line: Vec<FormedGroup> = Vec::new();
    for group in groups.iter().filter(|group| group.generation <= generation) {
        while line.last().is_some_and(|last| last.first >= group.first) {
            line.pop();
        }
        line.push(*group);
    }
    let ends = line.iter().skip(1).map(|next| next.first).chain([end]);
    let steps = line.iter().zip(ends).map(|(group, until)| GroupSteps {
        generation: group.generation,
        world_size: group.world_size,
        first: group.first.max(first),
        end: until.min(end),
    });
    steps.filter(|steps| steps.first < steps.end).collect()
}

/// Those of a run's rewinds that belong to the work of `groups`, which [`lineage`] gave: what others did was lost and done again.
pub fn kept_rewinds(rewinds: &[Rewind], groups: &[GroupSteps]) -> Vec<Rewind> {
    let is_kept = |rewind: &&Rewind| {
        let mut of = groups.iter().filter(|steps| steps.generation == rewind.generation);
        of.any(|steps| steps.first < rewind.step && rewind.step <= steps.end)
    };
    rewinds.iter().filter(is_kept).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formed(groups: &[(u64, u32, u64)]) -> Vec<FormedGroup> {
        let one = |&(generation, world_size, first)| FormedGroup {
            generation: Generation(generation),
            world_size,
            first: Step(first),
        };
        groups.iter().map(one).collect()
    }

    fn line(groups: &[(u64, u32, u64)], generation: u64, first: u64, end: u64) -> Vec<(u64, u64, u64)> {
        let line = lineage(&formed(groups), Generation(generation), Step(first), Step(end));
        line.iter().map(|steps| (steps.generation.0, steps.first.0, steps.end.0)).collect()
    }

    #[test]
    fn every_step_belongs_to_the_group_whose_work_was_kept() {
        let run = [(1, 2, 0), (2, 1, 57), (3, 2, 80)];
        assert_eq!(line(&run, 3, 0, 100), [(1, 0, 57), (2, 57, 80), (3, 80, 100)]);
        assert_eq!(line(&run, 3, 60, 100), [(2, 60, 80), (3, 80, 100)]);
        assert_eq!(line(&run, 1, 0, 50), [(1, 0, 50)], "an attempt of an old group knows no later ones");
    }

    #[test]
    fn a_rewind_whose_work_was_lost_is_not_of_the_run() {
        let rewind =
            |generation, step, to| Rewind { step: Step(step), to: Step(to), generation: Generation(generation) };
        let rewinds = [rewind(1, 30, 20), rewind(1, 60, 50), rewind(2, 58, 50), rewind(2, 90, 80)];
        let groups = lineage(&formed(&[(1, 2, 0), (2, 1, 55)]), Generation(2), Step(50), Step(80));
        assert_eq!(kept_rewinds(&rewinds, &groups), [rewind(2, 58, 50)]);
    }

    #[test]
    fn work_that_was_lost_and_done_again_counts_once() {
        assert_eq!(line(&[(1, 2, 0), (2, 2, 50), (3, 1, 50)], 3, 40, 60), [(1, 40, 50), (3, 50, 60)]);
        assert_eq!(line(&[(1, 2, 0), (2, 2, 70), (3, 1, 0)], 3, 0, 60), [(3, 0, 60)]);
    }
}
