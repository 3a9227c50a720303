//! Durations between what workers say and what is decided because of it.
//!
//! They are observed as they happen and not from the log: a coordinator that starts has timed nothing yet.

use std::collections::HashMap;

use cappa_core::{BreakCause, Change, Command, Generation, JobId, Member, Presence, Record, Report, Step, Time};

use super::{Metrics, Phase};

/// What has begun and is not over yet.
#[derive(Debug)]
pub(crate) struct Durations {
    metrics: Metrics,
    /// When the first rank of an attempt at a checkpoint said that its parts are written.
    attempts: HashMap<(JobId, Step, Generation), Time>,
}

impl Durations {
    /// Observations go to these metrics.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, attempts: HashMap::new() }
    }

    /// A command was accepted.
    pub(crate) fn accepted(&mut self, now: Time, command: &Command) {
        if let Command::Worker(said) = command
            && let Report::PartsWritten { job, step, generation, .. } = &said.report
        {
            self.attempts.entry((job.clone(), *step, *generation)).or_insert(now);
        }
    }

    /// A record was logged. `members` are those of the job's newest group before it.
    pub(crate) fn logged(&mut self, record: &Record, members: &[Member], presence: &Presence) {
        let Record { at, job, change } = record;
        match change {
            Change::GroupBroken { cause: BreakCause::Lost { workers }, .. } => {
                let lost = members.iter().filter(|member| workers.iter().any(|(worker, _)| *worker == member.worker));
                lost.for_each(|member| self.detected(*at, member, presence));
            }
            Change::CheckpointCommitted { step, generation } => {
                if let Some(begun) = self.attempts.get(&(job.clone(), *step, *generation)) {
                    self.metrics.commit.observe(at.since(*begun).as_secs_f64());
                }
                // Attempts at this step or an older one come to nothing from here on.
                self.attempts.retain(|(of, attempted, _), _| of != job || attempted > step);
            }
            Change::CheckpointFailed { step, generation, .. } => {
                self.attempts.remove(&(job.clone(), *step, *generation));
            }
            Change::Ended { .. } => self.attempts.retain(|(of, ..), _| of != job),
            _ => {}
        }
    }

    /// Nothing is known of the silence of a member that this process has never heard, or whose
    /// place a new process has taken since.
    fn detected(&self, at: Time, member: &Member, presence: &Presence) {
        let known = presence.worker(&member.worker).filter(|known| known.incarnation == member.incarnation);
        if let Some(known) = known {
            let silence = at.since(known.last_heard).as_secs_f64();
            self.metrics.recovery.get_or_create(&Phase { phase: "detect" }).observe(silence);
        }
    }
}
