//! The training thread's side of the protocol: what an order asks of it, and what it answers.

use cappa_proto as wire;
use cappa_proto::worker_message::Message as Tell;
use cappa_shared::ids::{Generation, JobId, Step};

use crate::assignment::{Assignment, Order};
use crate::book::Book;

/// The state of a job that the process holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'a> {
    /// The job.
    pub job: &'a JobId,
    /// Completed updates.
    pub step: Step,
}

/// What an order asks of the training thread.
#[derive(Debug)]
pub enum Duty {
    /// Drop what is held of any other job, and unless `keep` of this one too, then take the place in the group. Whoever
    /// assigned it counts on that: state that nobody knows of could come back after its job was rolled back or went on
    /// elsewhere.
    Serve {
        /// The place.
        assignment: Box<Assignment>,
        /// Whether what is held of the job may be gone on from.
        keep: bool,
    },
    /// Drop the state.
    Drop,
    /// Nothing: it was answered already.
    Rest,
    /// End.
    Exit,
}

/// What was answered so far.
#[derive(Debug, Default)]
pub struct Turns {
    left: Option<(JobId, Generation)>,
}

impl Turns {
    /// Takes an order. `held` is what the process holds, `is_draining` whether it is about to end.
    pub fn take(&mut self, order: Order, held: Option<Held<'_>>, is_draining: bool, book: &mut Book) -> Duty {
        match order {
            Order::Form(assignment) if is_draining => {
                self.left(&assignment.job, assignment.generation, held, None, book);
                Duty::Rest
            }
            Order::Form(assignment) => {
                let keep = book.holding().is_none_or(|held| held.generation > assignment.discarded.0);
                let held = held.filter(|held| keep && *held.job == assignment.job);
                book.hold(&assignment.job, assignment.generation, held.map(|held| held.step).unwrap_or_default(), true);
                book.speak(assignment.rank.0 == 0);
                Duty::Serve { assignment, keep }
            }
            Order::Leave { job, generation } => {
                // It may come when the thread was out already, or before it was in.
                let answered = self.left.as_ref().is_some_and(|(j, g)| *j == job && *g >= generation);
                if !answered {
                    self.left(&job, generation, held, None, book);
                }
                Duty::Rest
            }
            Order::Release(job) if held.is_none_or(|held| *held.job == job) => {
                book.release();
                Duty::Drop
            }
            Order::Release(_) => Duty::Rest,
            Order::Exit => Duty::Exit,
        }
    }

    /// The members have agreed on a state of this step.
    pub fn agreed(&self, assignment: &Assignment, step: Step, book: &mut Book) {
        book.hold(&assignment.job, assignment.generation, step, true);
    }

    /// The group has done all it was formed for, or has checkpointed and stopped.
    pub fn completed(
        &self,
        assignment: &Assignment,
        step: Step,
        outcome: wire::Outcome,
        summary: Option<String>,
        book: &mut Book,
    ) {
        book.complete(wire::Completed {
            job_id: assignment.job.to_string(),
            generation: assignment.generation.0,
            step: step.0,
            outcome: outcome.into(),
            summary_json: summary.unwrap_or_default(),
        });
    }

    /// The thread is out of the group; `failure` says why, unless it was told to leave.
    pub fn left(
        &mut self,
        job: &JobId,
        generation: Generation,
        held: Option<Held<'_>>,
        failure: Option<wire::Failure>,
        book: &mut Book,
    ) {
        let state = held.filter(|held| held.job == job);
        let step = state.map(|held| held.step).unwrap_or_default();
        match (state, held) {
            (Some(_), _) => book.hold(job, generation, step, false),
            // It was never in that group, and what it holds is as it was told before.
            (None, Some(_)) => {}
            (None, None) => book.release(),
        }
        book.notice(Tell::Left(wire::Left {
            job_id: job.to_string(),
            generation: generation.0,
            step: step.0,
            has_state: state.is_some(),
            failure,
        }));
        self.left = Some((job.clone(), generation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_shared::spec::{JobSpec, SpecBase};

    #[test]
    fn an_order_to_leave_is_answered_once_with_the_state_that_is_held() {
        let (mut turns, mut book) = (Turns::default(), Book::default());
        let job: JobId = "demo-1".parse().unwrap();
        let held = Some(Held { job: &job, step: Step(7) });
        let leave = || Order::Leave { job: job.clone(), generation: Generation(2) };
        turns.take(leave(), held, false, &mut book);
        turns.take(leave(), held, false, &mut book);
        let told = book.due(&mut Default::default());
        let [Tell::Left(left)] = &told[..] else { panic!("told {told:?}") };
        assert_eq!((left.step, left.has_state, left.generation), (7, true, 2));
    }

    #[test]
    fn what_is_held_of_one_job_stays_told_when_the_group_of_another_is_left() {
        let (mut turns, mut book) = (Turns::default(), Book::default());
        let (mine, other): (JobId, JobId) = ("mine-1".parse().unwrap(), "other-1".parse().unwrap());
        book.hold(&mine, Generation(2), Step(46), false);
        let held = Some(Held { job: &mine, step: Step(46) });
        let leave = Order::Leave { job: other.clone(), generation: Generation(3) };
        turns.take(leave, held, false, &mut book);
        let told = book.holding().map(|held| (held.job_id.as_str(), held.generation, held.step));
        assert_eq!(told, Some(("mine-1", 2, 46)));
        let [Tell::Left(left)] = &book.due(&mut Default::default())[..] else { panic!("nothing is told") };
        assert_eq!((left.job_id.as_str(), left.has_state), ("other-1", false));
    }

    #[test]
    fn state_from_before_a_rollback_is_dropped_before_the_next_group() {
        let (mut turns, mut book) = (Turns::default(), Book::default());
        let job: JobId = "demo-1".parse().unwrap();
        let form = |generation, discarded| {
            let spec = "apiVersion: cappa.dev/v1\nname: demo\nduration: {steps: 100}\nmodel: {preset: tiny}\n\
                        data: {train: /data/manifest.json, tokenizer: /data/tokenizer.json}\n";
            let peer = wire::Peer { worker_id: "worker-0".into(), ..Default::default() };
            let form = wire::Form {
                job_id: "demo-1".into(),
                generation,
                discarded,
                members: vec![peer],
                spec_json: JobSpec::parse(spec, &SpecBase::none()).unwrap().to_json(),
                ..Default::default()
            };
            Order::Form(Box::new(form.try_into().unwrap()))
        };
        book.hold(&job, Generation(4), Step(37), false);
        let held = Some(Held { job: &job, step: Step(37) });
        let told = |book: &Book| book.holding().map(|held| (held.generation, held.step));
        let duty = turns.take(form(5, 3), held, false, &mut book);
        assert!(matches!(duty, Duty::Serve { keep: true, .. }), "its state is of a later generation");
        assert_eq!(told(&book), Some((5, 37)));
        let duty = turns.take(form(6, 5), held, false, &mut book);
        assert!(matches!(duty, Duty::Serve { keep: false, .. }), "the job went back after generation 5");
        assert_eq!(told(&book), Some((6, 0)));
    }

    #[test]
    fn state_of_another_job_is_kept_when_one_is_released() {
        let (mut turns, mut book) = (Turns::default(), Book::default());
        let (mine, other): (JobId, JobId) = ("mine-1".parse().unwrap(), "other-1".parse().unwrap());
        let held = Some(Held { job: &mine, step: Step(7) });
        assert!(matches!(turns.take(Order::Release(other), held, false, &mut book), Duty::Rest));
        assert!(matches!(turns.take(Order::Release(mine.clone()), held, false, &mut book), Duty::Drop));
    }
}
