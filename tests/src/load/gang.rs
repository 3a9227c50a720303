//! Groups without training: members meet, agree on a step as workers do, and step together by the clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cappa_session::{Agreement, Assignment, agree};
use cappa_shared::ids::{Generation, JobId, Rank, Step};
use parking_lot::Mutex;

use super::worker::Worker;

/// From the last member's arrival to the first step: what connecting and exchanging state takes.
const FORMING: Duration = Duration::from_millis(50);

/// How groups step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From step to step.
    pub(crate) step: Duration,
    /// Every so many steps all ranks report a checkpoint's parts.
    pub(crate) checkpoint_every: u64,
}

/// All groups, those that still form and those that step.
pub(crate) struct Gangs {
    pace: Pace,
    arrived: Mutex<HashMap<(JobId, Generation), Vec<Member>>>,
    running: Mutex<BTreeMap<JobId, Vec<Arc<Worker>>>>,
}

/// A worker at its rank.
struct Member {
    rank: Rank,
    worker: Arc<Worker>,
}

/// One step of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stepped<'a> {
    pub(crate) job: &'a JobId,
    pub(crate) generation: Generation,
    pub(crate) step: Step,
    pub(crate) world_size: u32,
    /// The first of this group.
    pub(crate) is_first: bool,
    /// Every rank reports its part of a checkpoint of this step.
    pub(crate) saves: bool,
}

impl Gangs {
    pub(crate) fn new(pace: Pace) -> Arc<Self> {
        Arc::new(Self { pace, arrived: Mutex::default(), running: Mutex::default() })
    }

    /// A worker takes its place. The last one to come starts the group.
    pub(crate) fn join(self: &Arc<Self>, worker: &Arc<Worker>, assignment: &Assignment) {
        let (job, generation) = (&assignment.job, assignment.generation);
        let mut arrived = self.arrived.lock();
        arrived.retain(|(of, older), _| of != job || *older >= generation);
        let members = arrived.entry((job.clone(), generation)).or_default();
        members.push(Member { rank: assignment.rank, worker: Arc::clone(worker) });
        if members.len() < assignment.world_size() {
            return;
        }
        let mut members = arrived.remove(&(job.clone(), generation)).unwrap_or_default();
        drop(arrived);
        members.sort_by_key(|member| member.rank);
        let workers = members.iter().map(|member| Arc::clone(&member.worker)).collect();
        self.running.lock().insert(job.clone(), workers);
        tokio::spawn(step_together(self.pace, job.clone(), generation, members));
    }

    /// The members of a job's newest group, if all of them are still in it.
    pub(crate) fn whole(&self, job: &JobId) -> Option<Vec<Arc<Worker>>> {
        let members = self.running.lock().get(job)?.clone();
        let generation = members.first()?.place()?.1;
        members.iter().all(|member| member.is_in(job, generation)).then_some(members)
    }
}

/// A collective completes when every member takes part: one that is gone or has left stops the group for good.
async fn step_together(pace: Pace, job: JobId, generation: Generation, members: Vec<Member>) {
    tokio::time::sleep(FORMING).await;
    let held: Vec<Option<Step>> = members.iter().map(|member| member.worker.held(&job)).collect();
    let mut step = match agree(&held) {
        Agreement::Restore => Step(0),
        Agreement::Equal => held[0].unwrap_or_default(),
        Agreement::Broadcast { step, .. } => step,
    };
    let mut is_first = true;
    while members.iter().all(|member| member.worker.is_in(&job, generation)) {
        step = Step(step.0 + 1);
        let world_size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let saves = step.0.is_multiple_of(pace.checkpoint_every);
        let stepped = Stepped { job: &job, generation, step, world_size, is_first, saves };
        members.iter().for_each(|member| member.worker.step(member.rank, stepped));
        is_first = false;
        tokio::time::sleep(pace.step).await;
    }
}
