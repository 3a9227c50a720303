//! The collectives: members meet, agree on a state and step together, and a link may break in the middle.

use cappa_core::CHECKPOINT_DAMAGED;
use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_session::{Agreement, Assignment, agree};
use cappa_shared::checkpoint::{manifest_path, part_name};
use cappa_shared::ids::{Generation, JobId, Rank, Step};
use cappa_shared::order::lanes_of_rank;

use crate::truth::{gradient, update};
use crate::worker::{State, Turn};
use crate::world::{Attempt, Event, Own, World};

/// Steps between checkpoints.
const EVERY: u64 = 10;

/// A rank's part of a checkpoint, on its way to the store.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    job: JobId,
    step: u64,
    generation: u64,
    rank: u32,
    world_size: u32,
    /// The group ends with it: whoever waits for that waits for this one.
    ends: bool,
}

impl World<'_> {
    /// The training thread takes its place: it waits at the lead's store for the others.
    pub(crate) fn begin(&mut self, place: usize, assignment: Box<Assignment>) {
        let (job, generation) = (assignment.job.clone(), assignment.generation);
        let size = assignment.world_size();
        let forming = u64::try_from(assignment.forming.as_millis()).unwrap();
        let process = self.process(place);
        process.token += 1;
        let token = process.token;
        let is_barred = process.bars.enter(&job, generation, ()).is_err();
        process.turn = Turn::Forming(assignment);
        if is_barred {
            return self.leave(place, None);
        }
        self.inside(place, forming, Own::FormingOver(token));
        let met = self.members(&job, generation);
        if met.len() == size {
            let after = self.random(20..300);
            self.at(after, Event::Step(job.to_string(), generation.0));
        }
    }

    /// The members that are at work in the group, by rank.
    fn members(&self, job: &JobId, generation: Generation) -> Vec<usize> {
        let rank = |place: &usize| {
            let assignment = self.places[*place].process.as_ref()?.turn.assignment()?;
            let is_it = assignment.job == *job && assignment.generation == generation;
            is_it.then_some(assignment.rank)
        };
        let mut members: Vec<(Rank, usize)> =
            (0..self.places.len()).filter_map(|place| Some((rank(&place)?, place))).collect();
        members.sort_unstable();
        members.into_iter().map(|(_, place)| place).collect()
    }

    /// The next collective of a group completes: the agreement on the state, or a step.
    pub(crate) fn step(&mut self, job: &str, generation: u64) {
        let (id, generation): (JobId, _) = (job.parse().unwrap(), Generation(generation));
        let members = self.members(&id, generation);
        let Some(first) = members.first() else { return };
        let size = self.process(*first).turn.assignment().map_or(0, Assignment::world_size);
        if members.len() != size {
            return;
        }
        let now = self.millis();
        let hangs = members.iter().map(|place| self.places[*place].process.as_ref().map_or(0, |p| p.hangs_until));
        if let Some(until) = hangs.max().filter(|until| *until > now) {
            return self.at(until - now, Event::Step(job.to_owned(), generation.0));
        }
        let at = |world: &mut Self, place: &usize| match &world.process(*place).turn {
            Turn::Forming(_) | Turn::Restoring(_) => 0,
            Turn::Training { .. } => 1,
            _ => 2,
        };
        let stages: Vec<i32> = members.iter().map(|place| at(self, place)).collect();
        if stages.iter().all(|stage| *stage == 0) && self.waits_for_checkpoints(&members) {
            return;
        }
        let is_torn = self.is_faulty() && self.chance(0.003);
        match stages.iter().copied().max().zip(stages.iter().copied().min()) {
            Some((0, 0)) => self.agree(&members, is_torn),
            Some((1, 1)) => self.train(&members, is_torn),
            _ => return,
        }
        if is_torn {
            return;
        }
        let after = self.step_time;
        self.at(after, Event::Step(job.to_owned(), generation.0));
    }

    /// Whether the members wait for the store that their state is to come from, or have given it up for now: they never take a
    /// checkpoint for damaged because of it.
    fn waits_for_checkpoints(&mut self, members: &[usize]) -> bool {
        let away = self.store.fails_until.max(self.store.unread_until).saturating_sub(self.millis());
        let assignment = self.process(members[0]).turn.assignment().unwrap().clone();
        let has_state = members.iter().any(|place| self.process(*place).state.is_some());
        if away == 0 || has_state || assignment.restore.is_empty() {
            return false;
        }
        self.summary.waits += 1;
        let (job, generation) = (assignment.job.to_string(), assignment.generation.0);
        self.tell(|| format!("{job}/{generation} waits {away} ms for its checkpoints"));
        let is_over = self.chance(0.05);
        for place in members {
            match is_over {
                true => self.leave(*place, Some(("STORE_UNREACHABLE", "patience with the store is over"))),
                false => {
                    let turn = &mut self.process(*place).turn;
                    *turn = Turn::Restoring(Box::new(turn.assignment().unwrap().clone()));
                }
            }
        }
        if !is_over {
            self.at(away, Event::Step(job, generation));
        }
        true
    }

    /// Brings all members to one state.
    fn agree(&mut self, members: &[usize], is_torn: bool) {
        let assignment = self.process(members[0]).turn.assignment().unwrap().clone();
        let held: Vec<Option<State>> = members.iter().map(|place| self.process(*place).state.clone()).collect();
        let steps: Vec<Option<Step>> = held.iter().map(|s| s.as_ref().map(|state| Step(state.step))).collect();
        let (agreed, fell_back) = match agree(&steps) {
            Agreement::Restore => self.restored(&assignment),
            Agreement::Equal => (held[0].clone().unwrap(), false),
            Agreement::Broadcast { source, .. } => (held[source.0 as usize].clone().unwrap(), false),
        };
        self.tell(|| format!("{}/{} agrees on step {}", assignment.job, assignment.generation, agreed.step));
        if agreed.branch != self.branches(&assignment) {
            let (job, step) = (&assignment.job, agreed.step);
            self.breaks("RollbacksAreObeyed", || {
                format!("{job} goes on from step {step} of a branch that was given up")
            });
        }
        if fell_back {
            for place in members {
                self.process(*place).state = Some(agreed.clone());
                self.leave(*place, Some((CHECKPOINT_DAMAGED, "newer checkpoints are damaged")));
            }
            return;
        }
        for (place, before) in members.iter().zip(held) {
            // What is behind is given up before it is overwritten.
            let is_behind = before.is_none_or(|state| state.step < agreed.step);
            let process = self.process(*place);
            if is_behind {
                process.state = (!is_torn).then(|| agreed.clone());
            }
            let turn = std::mem::replace(&mut process.turn, Turn::Idle);
            if let (Turn::Forming(assignment) | Turn::Restoring(assignment), false) = (turn, is_torn) {
                process.turns.agreed(&assignment, Step(agreed.step), &mut process.book);
                process.turn = Turn::Training { assignment, has_entered: false };
            } else {
                process.turn =
                    Turn::Forming(Box::new(Assignment { rank: rank_of(members, *place), ..assignment.clone() }));
                let token = process.token;
                let after = self.random(5..300);
                self.inside(*place, after, Own::PeerGone(token));
            }
        }
        self.check_group(members);
    }

    /// The newest manifest that was promised and whose parts are sound, or the seed's state; and whether newer ones are damaged.
    fn restored(&mut self, assignment: &Assignment) -> (State, bool) {
        let job = assignment.job.clone();
        let steps = assignment.restore.iter().filter_map(|path| path.split('/').rev().nth(1)?.parse::<u64>().ok());
        let steps: Vec<u64> = steps.collect();
        let written = |step: &u64| {
            let generation = self.store.manifests.get(&(job.to_string(), *step))?;
            Some((job.to_string(), *step, *generation))
        };
        let there: Vec<_> = steps.iter().filter_map(written).collect();
        // A group that the log has given up was promised nothing that lasts; its members have yet to hear of it.
        let is_promised = self.is_active(job.as_str(), assignment.generation.0);
        if is_promised && there.is_empty() && !steps.is_empty() {
            self.breaks("CommittedStaysCommitted", || format!("{job}: none of the checkpoints {steps:?} is there"));
        }
        let newest = there.first().cloned();
        let first = self.first_sound(there);
        if let Some((_, step, generation)) = first.clone()
            && is_promised
            && self.parts_of(job.as_str(), step, generation) == 0
        {
            self.breaks("CommittedStaysCommitted", || format!("{job}: the parts of the checkpoint {step} are gone"));
        }
        let (step, fell_back) = (first.as_ref().map_or(0, |(_, step, _)| *step), first != newest);
        let hash = self.truth.at(job.as_str(), step, self.lanes);
        (State { hash, branch: self.branches(assignment), job, step }, fell_back)
    }

    /// The first checkpoint that is sound. One may turn out to be damaged, for all and for good, where there is an older one.
    fn first_sound(&mut self, there: Vec<Attempt>) -> Option<Attempt> {
        let mut sound: Vec<_> = there.into_iter().filter(|attempt| !self.store.damaged.contains(attempt)).collect();
        if sound.len() > 1 && self.is_faulty() && self.chance(0.2) {
            let damaged = sound.remove(0);
            self.tell(|| format!("the checkpoint of {} at step {} is damaged", damaged.0, damaged.1));
            self.summary.damages += 1;
            self.store.damaged.insert(damaged);
        }
        sound.into_iter().next()
    }

    /// How often the job had gone back before this group was formed.
    fn branches(&self, assignment: &Assignment) -> usize {
        let of_job = self.rollbacks.iter().filter(|(job, _)| job.as_str() == assignment.job.as_str());
        of_job.filter(|(_, generation)| generation.0 < assignment.generation.0).count()
    }

    /// One update of a whole group; a torn one completes on some ranks only.
    fn train(&mut self, members: &[usize], is_torn: bool) {
        let assignment = self.process(members[0]).turn.assignment().unwrap().clone();
        let size = u32::try_from(members.len()).unwrap();
        let total = assignment.total_steps.0;
        let mut sum = 0;
        let (mut stop, mut drain) = (false, false);
        for place in members {
            let lanes = self.lanes;
            let process = self.process(*place);
            let rank = process.turn.assignment().unwrap().rank;
            let state = process.state.as_ref().unwrap();
            let mine = lanes_of_rank(rank, size, lanes);
            sum ^= mine.fold(0, |sum, lane| sum ^ gradient(state.hash, state.step, lane));
            stop |= process.bars.stop_asked(&assignment.job, assignment.generation);
            drain |= process.bars.draining();
        }
        let is_over = self.process(members[0]).state.as_ref().unwrap().step >= total;
        for (n, place) in members.iter().enumerate() {
            let completes = !is_torn || n == 0 || self.chance(0.5);
            if completes && !is_over {
                let state = self.process(*place).state.as_mut().unwrap();
                (state.hash, state.step) = (update(state.hash, sum), state.step + 1);
                self.check_step(*place);
            }
            if is_torn {
                let token = self.process(*place).token;
                let after = self.random(5..300);
                self.inside(*place, after, Own::PeerGone(token));
            }
            if completes {
                self.stepped(*place, is_over, stop, drain);
            }
        }
        self.summary.steps += 1;
    }

    /// What follows on one rank from an update: it is told, saved, and may be the last.
    fn stepped(&mut self, place: usize, is_over: bool, stop: bool, drain: bool) {
        let pace = u32::try_from(self.random(500..2_000)).unwrap();
        let process = self.process(place);
        let Turn::Training { assignment, has_entered } = &mut process.turn else { return };
        let (assignment, enters) = (assignment.clone(), !std::mem::replace(has_entered, true));
        let step = process.state.as_ref().unwrap().step;
        process.book.keep_pace(assignment.generation, pace);
        if !is_over {
            let generation = assignment.generation.0;
            process.book.point(wire::StepMetrics { step, generation, ..Default::default() });
        }
        if enters {
            let (job_id, generation) = (assignment.job.to_string(), assignment.generation.0);
            process.book.notice(Tell::Entered(wire::Entered { job_id, generation, step, ..Default::default() }));
        }
        let is_last = step >= assignment.total_steps.0;
        let ends = is_last || stop || drain;
        let is_saved = || step == 0 || assignment.restore.contains(&manifest_path(Step(step)));
        let saves = if is_over { !is_saved() } else { ends || step.is_multiple_of(EVERY) };
        if saves && ends && self.chance(0.2) {
            self.refuse_parts();
        }
        let process = self.process(place);
        if ends {
            let outcome = match (is_last, stop) {
                (true, _) => Some(wire::Outcome::Finished),
                (_, true) => Some(wire::Outcome::Stopped),
                _ => None,
            };
            process.turn = Turn::Flushing { assignment: assignment.clone(), outcome };
        }
        if saves || ends {
            let snapshot = Snapshot {
                job: assignment.job.clone(),
                step: if saves { step } else { 0 },
                generation: assignment.generation.0,
                rank: assignment.rank.0,
                world_size: u32::try_from(assignment.world_size()).unwrap(),
                ends,
            };
            let after = self.random(20..400);
            self.inside(place, after, Own::Written(snapshot));
        }
        self.urgent(place);
    }

    /// The store takes no files of jobs for a while, in the moment in which they matter most.
    fn refuse_parts(&mut self) {
        let until = self.millis() + self.random(200..8_000);
        self.tell(|| format!("the store takes no files of jobs until {until}"));
        self.store.refuses_until = until;
        self.summary.refusals += 1;
    }

    /// Whether the part is written again and again: nobody would make the steps before it again.
    fn keeps_trying(&self, place: usize, snapshot: &Snapshot) -> bool {
        let Some(process) = &self.places[place].process else { return false };
        let Turn::Flushing { assignment, outcome } = &process.turn else { return false };
        let is_of_turn = assignment.job == snapshot.job && assignment.generation.0 == snapshot.generation;
        is_of_turn && snapshot.ends && (outcome.is_some() || process.bars.draining())
    }

    /// The part is in the store, or isn't; who waited for that goes on. Step 0 stands for nothing to write.
    pub(crate) fn written(&mut self, place: usize, snapshot: Snapshot) {
        let fails = self.store.is_away_for_jobs(self.millis());
        if fails && snapshot.step > 0 && self.keeps_trying(place, &snapshot) {
            let after = self.random(200..2_000);
            return self.inside(place, after, Own::Written(snapshot));
        }
        let Snapshot { job, step, generation, rank, world_size, ends } = snapshot;
        if step > 0 {
            let job_id = job.to_string();
            let told = if fails {
                let error = "the store failed".into();
                Tell::CheckpointFailed(wire::CheckpointFailed { job_id, generation, step, rank, error })
            } else {
                self.store.parts.insert((job_id.clone(), step, generation, rank));
                let part = wire::Part { name: part_name(Rank(rank), world_size), bytes: 1, sha256: "00".into() };
                let parts = vec![part];
                Tell::PartsWritten(wire::PartsWritten {
                    job_id,
                    generation,
                    step,
                    rank,
                    world_size,
                    parts,
                    ..Default::default()
                })
            };
            self.process(place).book.checkpoint(Step(step), Generation(generation), told);
        }
        let process = self.process(place);
        if let Turn::Flushing { assignment, outcome } = &process.turn
            && assignment.generation.0 == generation
            && assignment.job == job
            && ends
        {
            let (assignment, outcome) = (assignment.clone(), *outcome);
            let Some(outcome) = outcome else {
                return self.leave(place, None);
            };
            let step = Step(process.state.as_ref().map_or(0, |state| state.step));
            process.turn = Turn::Idle;
            process.token += 1;
            process.bars.leave();
            process.turns.completed(&assignment, step, outcome, None, &mut process.book);
            self.take_orders(place);
        }
        self.urgent(place);
    }
}

fn rank_of(members: &[usize], place: usize) -> Rank {
    let rank = members.iter().position(|member| *member == place);
    Rank(u32::try_from(rank.unwrap_or(0)).unwrap())
}
