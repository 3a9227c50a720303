//! The curve of every job: one point a step, in memory and as JSON lines in the job's folder.
//! Steps never go through the event log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cappa_core::JobId;
use cappa_proto::{Quarantined, StepMetrics, Update};
use cappa_shared::number;
use cappa_shared::storage::{self, StorageError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::accounting::StepTime;

/// Curves of jobs that are over which stay in memory: those that were used last.
const KEPT_OVER: usize = 64;

/// All curves. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Curves {
    jobs: Arc<Mutex<HashMap<JobId, Curve>>>,
    uses: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Curve {
    points: BTreeMap<u64, StepMetrics>,
    /// Points after this step of this generation, or of one before it, are of a branch that was given up.
    abandoned: Option<(u64, u64)>,
    unsaved: Vec<u64>,
    /// Segments of the job's folder that were read.
    read: HashSet<String>,
    time: StepTime,
    examples: u64,
    quarantined: u64,
    reasons: BTreeMap<String, u64>,
    /// Its points were let go, and are in the job's folder.
    is_let_go: bool,
    /// When it was used last: the number of that use.
    used: u64,
}

/// What a job's steps sum up to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    /// The highest step that has a point; zero without.
    pub(crate) step: u64,
    /// The point of the newest update that was made.
    pub(crate) latest: Option<StepMetrics>,
    /// Where the steps' time went.
    pub(crate) time: StepTime,
    /// Examples of all steps.
    pub(crate) examples: u64,
    /// Samples that were left out.
    pub(crate) quarantined: u64,
    /// The same by reason, as far as this process was told.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// How a point is written as a line of a segment: under the names of the wire.
#[derive(Serialize, Deserialize)]
#[serde(remote = "StepMetrics")]
struct Line {
    step: u64,
    /// `null` where it is no number.
    #[serde(deserialize_with = "number::or_nan")]
    loss: f64,
    learning_rate: f64,
    grad_norm: f64,
    examples: u64,
    seconds: f64,
    data_wait_seconds: f64,
    checkpoint_stall_seconds: f64,
    generation: u64,
    world_size: u32,
    unix_ms: i64,
    /// Of [`Update`]; absent where it was made.
    #[serde(default, skip_serializing_if = "is_made")]
    update: i32,
}

fn is_made(update: &i32) -> bool {
    *update == Update::Made as i32
}

impl Curves {
    /// A job is new: its folder has no curve to be read.
    pub(crate) fn begin(&self, job: &JobId) {
        self.jobs.lock().entry(job.clone()).or_default();
    }

    /// Adds points; of several for a step the newest generation's counts, and of those the first.
    pub(crate) fn add(&self, job: &JobId, points: Vec<StepMetrics>) {
        let mut jobs = self.jobs.lock();
        let curve = jobs.entry(job.clone()).or_default();
        for point in points {
            let step = point.step;
            if curve.insert(point) {
                curve.unsaved.push(step);
            }
        }
    }

    /// The job went back to a step: what groups up to a generation made after it is given up. Their time was spent all the same.
    pub(crate) fn roll_back(&self, job: &JobId, step: u64, generation: u64) {
        let mut jobs = self.jobs.lock();
        // One that is not known yet is told when it is read.
        let Some(curve) = jobs.get_mut(job) else { return };
        curve.abandoned = Some((step, generation));
        let is_kept = |point: &StepMetrics| !is_abandoned(curve.abandoned, point);
        curve.points.retain(|_, point| is_kept(point));
        curve.unsaved.retain(|step| curve.points.contains_key(step));
    }

    /// Notes samples that were left out.
    pub(crate) fn quarantine(&self, job: &JobId, samples: &[Quarantined], total: u64) {
        let mut jobs = self.jobs.lock();
        let curve = jobs.entry(job.clone()).or_default();
        curve.quarantined = curve.quarantined.max(total);
        for sample in samples {
            *curve.reasons.entry(sample.reason.clone()).or_default() += 1;
        }
    }

    /// The step of the newest point; zero without.
    pub(crate) fn last_step(&self, job: &JobId) -> u64 {
        let jobs = self.jobs.lock();
        jobs.get(job).and_then(|curve| curve.points.last_key_value()).map_or(0, |(step, _)| *step)
    }

    /// The points from a step on.
    pub(crate) fn points(&self, job: &JobId, from: u64) -> Vec<StepMetrics> {
        let jobs = self.jobs.lock();
        jobs.get(job).map(|curve| curve.points.range(from..).map(|(_, point)| *point).collect()).unwrap_or_default()
    }

    /// What the job's steps sum up to.
    pub(crate) fn summary(&self, job: &JobId) -> Summary {
        let jobs = self.jobs.lock();
        jobs.get(job).map_or_else(Summary::default, |curve| Summary {
            step: curve.points.last_key_value().map_or(0, |(step, _)| *step),
            latest: curve.points.values().rev().find(|point| is_made(&point.update)).copied(),
            time: curve.time,
            examples: curve.examples,
            quarantined: curve.quarantined,
            reasons: curve.reasons.clone(),
        })
    }

    /// Jobs with points that are not in their folder yet.
    pub(crate) fn unsaved(&self) -> HashSet<JobId> {
        let jobs = self.jobs.lock();
        jobs.iter().filter(|(_, curve)| !curve.unsaved.is_empty()).map(|(job, _)| job.clone()).collect()
    }

    /// Forgets all of them, to be read again.
    pub(crate) fn forget(&self) {
        self.jobs.lock().clear();
    }

    /// Whether the job's curve is in memory, which counts as a use of it.
    pub(crate) fn knows(&self, job: &JobId) -> bool {
        let mut jobs = self.jobs.lock();
        let Some(curve) = jobs.get_mut(job).filter(|curve| !curve.is_let_go) else { return false };
        curve.used = self.uses.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Jobs whose curves are in memory, and in their folders as well.
    pub(crate) fn held(&self) -> Vec<JobId> {
        let jobs = self.jobs.lock();
        let held = jobs.iter().filter(|(_, curve)| !curve.is_let_go && curve.unsaved.is_empty());
        held.map(|(job, _)| job.clone()).collect()
    }

    /// Of these jobs, which are over, only the curves that were used last stay. The others are read again when someone asks for
    /// them.
    pub(crate) fn let_go(&self, mut over: Vec<JobId>) {
        let mut jobs = self.jobs.lock();
        over.sort_by_cached_key(|job| std::cmp::Reverse(jobs.get(job).map(|curve| curve.used)));
        for job in over.into_iter().skip(KEPT_OVER) {
            // What nobody has quarantined leaves nothing that the folder does not have.
            match jobs.get_mut(&job) {
                Some(curve) if !curve.unsaved.is_empty() => {}
                Some(curve) if curve.quarantined > 0 => curve.let_go(),
                _ => drop(jobs.remove(&job)),
            }
        }
    }

    /// Writes the points that are not there yet as one segment of the job's folder.
    ///
    /// # Errors
    /// Why the store refused; the points are written next time.
    pub(crate) async fn save(&self, job: &JobId, folder: &str) -> Result<(), StorageError> {
        let points = {
            let jobs = self.jobs.lock();
            let Some(curve) = jobs.get(job) else { return Ok(()) };
            curve.unsaved.iter().filter_map(|step| curve.points.get(step).copied()).collect::<Vec<_>>()
        };
        let (Some(first), Some(last)) =
            (points.iter().map(|point| point.step).min(), points.iter().map(|point| point.step).max())
        else {
            return Ok(());
        };
        let mut lines = Vec::new();
        for point in &points {
            let mut writer = serde_json::Serializer::new(&mut lines);
            Line::serialize(point, &mut writer).expect("numbers always serialise");
            lines.push(b'\n');
        }
        storage::create(folder)?.put(&format!("curve/{first:012}-{last:012}.jsonl"), lines).await?;
        if let Some(curve) = self.jobs.lock().get_mut(job) {
            let saved: HashSet<u64> = points.iter().map(|point| point.step).collect();
            curve.unsaved.retain(|step| !saved.contains(step));
        }
        Ok(())
    }

    /// Reads what the job's folder has and was not read before. `abandoned` as in [`Curves::roll_back`].
    ///
    /// # Errors
    /// Why the store could not be read.
    pub(crate) async fn load(
        &self,
        job: &JobId,
        folder: &str,
        abandoned: Option<(u64, u64)>,
    ) -> Result<(), StorageError> {
        let folder = storage::open(folder)?;
        let known = self.jobs.lock().get(job).map(|curve| curve.read.clone()).unwrap_or_default();
        let (mut points, mut read) = (Vec::new(), Vec::new());
        for segment in folder.list("curve").await?.into_iter().filter(|segment| !known.contains(&segment.path)) {
            let content = folder.get(&format!("curve/{}", segment.path)).await?;
            // A line that does not parse is one that a newer program wrote: the rest still counts.
            let lines = content.split(|byte| *byte == b'\n');
            let line = |line| Line::deserialize(&mut serde_json::Deserializer::from_slice(line)).ok();
            points.extend(lines.filter_map(line));
            read.push(segment.path);
        }
        if let Some((step, generation)) = abandoned {
            self.roll_back(job, step, generation);
        }
        let mut jobs = self.jobs.lock();
        let curve = jobs.entry(job.clone()).or_default();
        curve.abandoned = curve.abandoned.or(abandoned);
        curve.is_let_go = false;
        curve.used = self.uses.fetch_add(1, Ordering::Relaxed);
        curve.read.extend(read);
        for point in points {
            curve.insert(point);
        }
        Ok(())
    }
}

impl Curve {
    /// Keeps only what the job's folder does not have.
    fn let_go(&mut self) {
        let (reasons, quarantined) = (std::mem::take(&mut self.reasons), self.quarantined);
        *self = Self { reasons, quarantined, is_let_go: true, ..Self::default() };
    }

    /// False when there is a point for the step already that counts more, or the step was given up.
    fn insert(&mut self, point: StepMetrics) -> bool {
        let is_known = self.points.get(&point.step).is_some_and(|known| known.generation >= point.generation);
        if is_known || is_abandoned(self.abandoned, &point) {
            return false;
        }
        self.time.total += point.seconds;
        self.time.data_wait += point.data_wait_seconds;
        self.time.checkpoint += point.checkpoint_stall_seconds;
        self.examples += point.examples;
        self.points.insert(point.step, point);
        true
    }
}

fn is_abandoned(abandoned: Option<(u64, u64)>, point: &StepMetrics) -> bool {
    abandoned.is_some_and(|(step, generation)| point.step > step && point.generation <= generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, loss: f64) -> StepMetrics {
        StepMetrics { step, loss, seconds: 0.5, ..StepMetrics::default() }
    }

    #[test]
    fn after_a_rollback_the_curve_is_that_of_the_branch_that_goes_on() {
        let job = JobId::from("demo-1");
        let of = |generation, step, loss| StepMetrics { generation, ..point(step, loss) };
        let curves = Curves::default();
        curves.add(&job, vec![of(1, 1, 3.0), of(1, 2, 2.0), of(2, 3, 9.0)]);
        curves.roll_back(&job, 1, 2);
        assert_eq!(curves.last_step(&job), 1);
        curves.add(&job, vec![of(2, 2, 8.0), of(3, 2, 2.5)]);
        let losses: Vec<_> = curves.points(&job, 0).iter().map(|point| point.loss).collect();
        assert_eq!(losses, [3.0, 2.5], "what is told late of the old branch is not taken");
    }

    #[tokio::test]
    async fn a_skipped_step_has_a_point_that_survives_and_is_not_the_newest_update() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let job = JobId::from("demo-1");
        let curves = Curves::default();
        let skipped = StepMetrics { update: Update::Skipped.into(), ..point(2, f64::NAN) };
        curves.add(&job, vec![point(1, 3.0), skipped]);
        curves.save(&job, url).await.unwrap();

        let reloaded = Curves::default();
        reloaded.load(&job, url, None).await.unwrap();
        let points = reloaded.points(&job, 0);
        assert_eq!(points.iter().map(StepMetrics::update).collect::<Vec<_>>(), [Update::Made, Update::Skipped]);
        assert!(points[1].loss.is_nan());
        let summary = reloaded.summary(&job);
        assert_eq!((summary.step, summary.latest.unwrap().loss), (2, 3.0));
    }

    #[tokio::test]
    async fn curves_of_very_many_jobs_that_are_over_are_not_all_in_memory_and_are_read_again_when_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let url = |job: &JobId| format!("{}/{job}", folder.path().display());
        let curves = Curves::default();
        let over: Vec<JobId> = (0..KEPT_OVER + 3).map(|n| JobId::from(format!("job-{n:03}"))).collect();
        for job in &over {
            curves.add(job, vec![point(1, 3.0), point(2, 2.0)]);
            curves.save(job, &url(job)).await.unwrap();
        }
        let [used, quarantining, unsaved] = [&over[0], &over[1], &over[2]];
        over.iter().chain([used]).for_each(|job| assert!(curves.knows(job)));
        curves.quarantine(quarantining, &[], 7);
        curves.add(unsaved, vec![point(3, 1.0)]);
        assert_eq!(curves.held().len(), over.len() - 1);
        curves.let_go(over.clone());
        assert_eq!((curves.held().len(), curves.unsaved().len()), (KEPT_OVER, 1));
        assert!(curves.knows(used), "it was used last");

        assert!(!curves.knows(quarantining) && curves.points(quarantining, 0).is_empty());
        assert_eq!(curves.summary(quarantining).quarantined, 7, "the folder does not have that");
        curves.load(quarantining, &url(quarantining), None).await.unwrap();
        assert_eq!((curves.points(quarantining, 0).len(), curves.summary(quarantining).time.total), (2, 1.0));
        assert!(curves.knows(quarantining));
    }

    #[tokio::test]
    async fn a_curve_survives_and_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let job = JobId::from("demo-1");
        let curves = Curves::default();
        curves.add(&job, vec![point(1, 3.0), point(2, 2.0)]);
        curves.save(&job, url).await.unwrap();
        curves.add(&job, vec![point(2, 9.0), point(3, 1.0)]);
        curves.save(&job, url).await.unwrap();
        assert!(curves.unsaved().is_empty());

        let reloaded = Curves::default();
        reloaded.load(&job, url, None).await.unwrap();
        let losses: Vec<_> = reloaded.points(&job, 0).iter().map(|point| point.loss).collect();
        assert_eq!(losses, [3.0, 2.0, 1.0]);
        assert_eq!(reloaded.summary(&job).time.total, 1.5);
        assert_eq!(reloaded.last_step(&job), 3);
    }
}
