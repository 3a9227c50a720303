//! What is true of the world, whatever the core believes. Checked as things happen.

use std::collections::BTreeMap;

use cappa_core::{
    Attempt, BreakCause, Change, Condition, Ending, JobId, Record, StopCause, Submission, WorkerId, log_violations,
};
use cappa_shared::ids::Rank;
use cappa_shared::order::lanes_of_rank;

use crate::world::World;

/// A worker that nothing disturbs has been heard after so many milliseconds: two heartbeats and a slow link.
const HEARD: u64 = 2_000;

/// The one run that each job's seed stands for, as the hash after each step, and what people have asked for.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    chains: BTreeMap<String, Vec<u64>>,
    pub(crate) asked: BTreeMap<JobId, Submission>,
}

impl Truth {
    /// The hash after so many steps.
    pub(crate) fn at(&mut self, job: &str, step: u64, lanes: u32) -> u64 {
        let chain = self.chains.entry(job.to_owned()).or_insert_with(|| vec![mix(job.len() as u64, 7)]);
        while (chain.len() as u64) <= step {
            let (hash, step) = (chain[chain.len() - 1], chain.len() as u64 - 1);
            let sum = (0..lanes).fold(0, |sum, lane| sum ^ gradient(hash, step, lane));
            chain.push(update(hash, sum));
        }
        chain[usize::try_from(step).unwrap()]
    }
}

/// What a lane's samples of a step bring to the sum: depends on the parameters, as a gradient does.
pub(crate) fn gradient(hash: u64, step: u64, lane: u32) -> u64 {
    mix(mix(hash, step), u64::from(lane) + 1)
}

/// The parameters after an update.
pub(crate) fn update(hash: u64, sum: u64) -> u64 {
    mix(hash, sum)
}

/// SplitMix64's finaliser over two words (Steele, Lea and Flood 2014).
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl World<'_> {
    /// A rank has completed an update: it holds what the run's seed says, no update left out or made twice.
    pub(crate) fn check_step(&mut self, place: usize) {
        let state = self.places[place].process.as_ref().and_then(|process| process.state.clone()).unwrap();
        if self.truth.at(state.job.as_str(), state.step, self.lanes) != state.hash {
            self.breaks("ParametersAreTheRuns", || format!("worker-{place} at step {} of {}", state.step, state.job));
        }
    }

    /// Members that agreed: one state, ranks of their own, and every lane with exactly one of them.
    pub(crate) fn check_group(&mut self, members: &[usize]) {
        let size = u32::try_from(members.len()).unwrap();
        let turns = members.iter().filter_map(|place| self.places[*place].process.as_ref()?.turn.assignment());
        let ranks: Vec<Rank> = turns.map(|assignment| assignment.rank).collect();
        let mut owners = vec![0; self.lanes as usize];
        for rank in &ranks {
            lanes_of_rank(*rank, size, self.lanes).for_each(|lane| owners[lane as usize] += 1);
        }
        if owners.iter().any(|owners| *owners != 1) {
            self.breaks("EverySlotHasOneRank", || format!("ranks {ranks:?} own the lanes {owners:?} times"));
        }
    }

    /// A record is about to be durable.
    pub(crate) fn logged(&mut self, record: &Record) {
        let Some(job) = &record.job else { return };
        match &record.change {
            Change::GroupFormed { step, members, generation, lead, is_loan } => {
                self.summary.groups += 1;
                self.summary.loans += u64::from(*is_loan);
                self.check_index(job);
                self.check_dependencies(job);
                let lead = members.get(lead.0 as usize).map(|lead| lead.worker.clone());
                let names = || members.iter().map(|m| m.worker.to_string()).collect::<Vec<_>>().join(" ");
                self.tell(|| format!("{job}/{generation} from step {step}: {} lead {lead:?}", names()));
            }
            Change::CheckpointCommitted { step, generation } => {
                self.summary.checkpoints += 1;
                let there = self.store.manifests.get(&(job.to_string(), step.0)).copied();
                if there != Some(generation.0) {
                    self.breaks("CommittedStaysCommitted", || {
                        format!("{job} step {step}: the log says {generation}, the store {there:?}")
                    });
                }
            }
            Change::GroupBroken { cause: BreakCause::Straggler { .. }, .. } => self.summary.replacements += 1,
            Change::GroupBroken { cause: BreakCause::Shrink { .. }, .. } => self.summary.yields[0] += 1,
            Change::StopRequested { cause } => {
                self.summary.yields[match cause {
                    StopCause::Reclaim { .. } => 1,
                    StopCause::Preemption { .. } => 2,
                    StopCause::TimeLimit => 3,
                }] += 1;
            }
            Change::GroupBroken { cause, .. } => match cause.sign() {
                Some(sign) => self.summary.losses[sign as usize] += 1,
                None if matches!(cause, BreakCause::Lost { .. }) => {
                    self.breaks("LossesHaveASign", || format!("{job}: {cause}"));
                }
                None => {}
            },
            Change::WorkerQuarantined { .. } => self.summary.quarantines += 1,
            Change::RolledBack { generation, .. } => {
                self.rollbacks.push((job.clone(), *generation));
                self.summary.rollbacks += 1;
            }
            Change::Ended { ending: Ending::Failed { code, message } } if !self.may_fail(job, code) => {
                self.breaks("JobsEndWell", || format!("{job} failed: {code}: {message}"));
            }
            Change::Ended { ending: Ending::Succeeded { .. } } => {
                self.check_finished(job);
                self.check_saved(job);
            }
            Change::Paused { .. } | Change::Preempted { .. } | Change::Requeued { .. } => self.check_saved(job),
            _ => {}
        }
    }

    /// A job that had to be indexed was, once, before it got workers.
    fn check_index(&mut self, job: &JobId) {
        let of_job = || self.store.log.iter().filter(|record| record.is_of(job));
        let needed = of_job().any(|r| matches!(&r.change, Change::Submitted { submission } if submission.needs_index));
        let made = of_job().filter(|record| matches!(record.change, Change::Indexed { .. })).count();
        if made != usize::from(needed) {
            self.breaks("IndexComesFirst", || format!("{job} has a group after {made} indexes"));
        }
    }

    /// Whether a job has ended, and with success if that is asked for, as the log has it.
    fn has_ended(&self, job: &JobId, condition: Condition) -> bool {
        let mut of_job = self.store.log.iter().rev().filter(|record| record.is_of(job));
        let ending = of_job.find_map(|record| match &record.change {
            Change::Ended { ending } => Some(ending),
            _ => None,
        });
        ending.is_some_and(|ending| condition == Condition::Ended || matches!(ending, Ending::Succeeded { .. }))
    }

    /// A job that is to come after others has workers only once they have ended as asked for.
    fn check_dependencies(&mut self, job: &JobId) {
        let after = self.truth.asked.get(job).map(|asked| asked.scheduling.after.clone()).unwrap_or_default();
        if let Some(unmet) = after.iter().find(|before| !self.has_ended(&before.job, before.condition)) {
            self.breaks("DependenciesComeFirst", || format!("{job} has a group before {} has ended", unmet.job));
        }
    }

    /// Faults fail no job, but its time may be up, and one that it comes after may have been cancelled.
    fn may_fail(&self, job: &JobId, code: &str) -> bool {
        let Some(scheduling) = self.truth.asked.get(job).map(|asked| &asked.scheduling) else { return false };
        let is_missed = |before: &cappa_core::Dependency| {
            self.has_ended(&before.job, Condition::Ended) && !self.has_ended(&before.job, before.condition)
        };
        match code {
            "time_limit" => scheduling.time_limit.is_some(),
            "dependency" => scheduling.after.iter().any(is_missed),
            _ => false,
        }
    }

    /// No group brings a namespace over what the operator allows.
    pub(crate) fn check_quota(&mut self, id: usize, record: &Record) {
        let Record { job: Some(job), change: Change::GroupFormed { .. }, .. } = record else { return };
        let state = self.coordinators[id].core.state();
        let Some(namespace) = state.job(job).map(|job| &job.submission.namespace) else { return };
        let (usage, quota) = (state.usage(namespace), self.policy.quota(namespace));
        let exceeds = |limit: Option<u32>, used| limit.is_some_and(|limit| used > limit);
        if exceeds(quota.max_workers, usage.workers) || exceeds(quota.max_running, usage.running) {
            let how = format!("{namespace} has {} workers in {} jobs", usage.workers, usage.running);
            self.breaks("QuotaIsNeverExceeded", || how);
        }
    }

    /// A group starts from the highest step that a member holds, or any worker that is out of its group, lives, and
    /// whose last word has arrived. Nobody counts on a worker that is quarantined, that someone has end, or that was just given to
    /// a job that comes first.
    pub(crate) fn check_no_step_lost(&mut self, id: usize, record: &Record) {
        let Record { job: Some(job), change: Change::GroupFormed { step, members, .. }, .. } = record else { return };
        let now = self.millis();
        let core = &self.coordinators[id].core;
        let given_up = core.state().job(job).map_or(0, |job| job.discarded.0);
        let is_out_of_favour = |place: usize| {
            let worker = WorkerId::from(format!("worker-{place}"));
            let is_leaving = core.presence().worker(&worker).is_some_and(cappa_core::WorkerPresence::is_leaving);
            let is_elsewhere = core.state().job_of(&worker).is_some_and(|of| of.id != *job);
            is_leaving || is_elsewhere || core.state().flaps().quarantine(&worker).is_some()
        };
        for (place, at) in self.places.iter().enumerate() {
            let Some(process) = &at.process else { continue };
            if is_out_of_favour(place) || process.book.holding().is_some_and(|held| held.generation <= given_up) {
                continue;
            }
            let Some(state) = process.state.as_ref().filter(|state| state.job.as_str() == job.as_str()) else {
                continue;
            };
            let member = members.iter().find(|member| member.worker.as_str() == format!("worker-{place}"));
            let is_member = member.is_some_and(|member| member.incarnation.as_str() == process.incarnation.to_string());
            let stream = process.stream.as_ref().map(|(stream, _)| &self.streams[*stream]);
            let is_here = stream.is_some_and(|stream| stream.coordinator == id && stream.coordinator_has_it);
            let has_arrived = stream.is_some_and(|stream| stream.up_at < now);
            let is_reachable = has_arrived && now > process.calm_since + HEARD && !process.bars.draining();
            // Who still steps in an older group may be ahead of what it could tell.
            let is_out = process.turn.assignment().is_none();
            if is_here && is_out && state.step > step.0 && (is_member || is_reachable) {
                let held = state.step;
                let how = format!("{job} starts at step {step}, worker-{place} holds {held}");
                return self.breaks("NoStepIsLost", || how);
            }
        }
    }

    /// What a process holds of a job is what it tells of it: state that nobody knows of could come back after
    /// the job has gone on elsewhere.
    pub(crate) fn check_book(&mut self, place: usize) {
        let Some(process) = &self.places[place].process else { return };
        let Some(state) = &process.state else { return };
        let told = process.book.holding().map(|held| (held.job_id.clone(), held.step));
        if told.as_ref().is_none_or(|(job, step)| *job != state.job.as_str() || *step != state.step) {
            let how = format!("worker-{place} holds step {} of {}, and tells {told:?}", state.step, state.job);
            self.breaks("HeldIsTold", || how);
        }
    }

    /// Somebody has really made all the steps.
    fn check_finished(&mut self, job: &JobId) {
        let total = self.coordinators.iter().find_map(|c| Some(c.core.state().job(job)?.submission.total_steps));
        let is_held = self.truth.chains.get(job.as_str()).map_or(0, |chain| chain.len() as u64 - 1);
        if total.is_some_and(|total| is_held < total.0) {
            self.breaks("EndedMeansDone", || format!("{job} succeeded, but only {is_held} steps were made"));
        }
    }

    /// What a whole group has done, and told, is in the store when the job is over or has given its workers back.
    fn check_saved(&mut self, job: &JobId) {
        let mut steps = Vec::new();
        for record in self.store.log.iter().rev().filter(|record| record.is_of(job)) {
            match &record.change {
                Change::MemberCompleted { step, .. } => steps.push(step.0),
                Change::GroupFormed { members, .. } if steps.len() == members.len() => break,
                // Nobody may be left who held what was done.
                Change::GroupBroken { .. } => return,
                Change::GroupFormed { .. } | Change::RolledBack { .. } => return,
                _ => {}
            }
        }
        let Some(last) = steps.into_iter().max().filter(|step| *step > 0) else { return };
        let mut kept = self.store.manifests.keys().filter(|(of, _)| of == job.as_str());
        if !kept.any(|(_, step)| *step >= last) {
            self.breaks("DoneIsSaved", || format!("{job} was done at step {last}, of which there is no checkpoint"));
        }
    }

    /// The leader's manifest is written, or a coordinator's whose time is over: all parts it names are in the store.
    pub(crate) fn committed(&mut self, id: usize, job: &JobId, step: u64, generation: u64, attempt: Option<&Attempt>) {
        let Some(attempt) = attempt else { return };
        // Late work of a coordinator that is gone may write it again after its successor has deleted it: nobody is
        // promised it any more. What is promised is looked at when a group restores.
        let is_late = self.leader() != Some(id);
        if is_late && self.store.deleted.contains(&(job.to_string(), step, generation)) {
            return;
        }
        let (named, there) = (attempt.ranks.len(), self.parts_of(job.as_str(), step, generation));
        let said = attempt.ranks.iter().flat_map(|rank| &rank.parts).next().map(|part| part.name.clone());
        let of = said.and_then(|name| name.split("-of-").nth(1)?.split('.').next()?.parse::<usize>().ok());
        if named > there || of.is_some_and(|of| of != named) {
            self.breaks("ManifestsAreWhole", || {
                format!("{job} step {step}: {named} ranks named, {there} written of {of:?}")
            });
        }
    }

    /// Whether the generation is the job's active group, as the log has it.
    pub(crate) fn is_active(&self, job: &str, generation: u64) -> bool {
        let mut of_job =
            self.store.log.iter().rev().filter(|record| record.job.as_ref().is_some_and(|of| of.as_str() == job));
        let newest = of_job.find_map(|record| match &record.change {
            Change::GroupFormed { generation, .. } => Some(Some(generation.0)),
            Change::Requeued { .. } | Change::Paused { .. } | Change::RolledBack { .. } | Change::Ended { .. } => {
                Some(None)
            }
            _ => None,
        });
        newest.flatten() == Some(generation)
    }

    /// Ranks of an attempt whose parts are in the store.
    pub(crate) fn parts_of(&self, job: &str, step: u64, generation: u64) -> usize {
        let from = (job.to_string(), step, generation, 0);
        let to = (job.to_string(), step, generation, u32::MAX);
        self.store.parts.range(from..=to).count()
    }

    /// A checkpoint is deleted: a newer one must be there.
    pub(crate) fn deleted(&mut self, job: &JobId, step: u64) {
        let mut others = self.store.manifests.keys();
        if !others.any(|(of, other)| of == job.as_str() && *other > step) {
            self.breaks("CommittedStaysCommitted", || {
                format!("the newest checkpoint of {job}, step {step}, is deleted")
            });
        }
    }

    /// The log as a whole.
    pub(crate) fn check_log(&mut self) {
        let found = log_violations(&self.store.log);
        if !found.is_empty() {
            self.breaks("LogInvariant", || format!("{found:?}"));
        }
    }
}
