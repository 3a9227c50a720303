//! Durations between what workers say and what is decided because of it.
//!
//! They are observed as they happen and not from the log: a coordinator that starts has timed nothing yet.

use std::collections::HashMap;

use cappa_core::{BreakCause, Change, Command, Generation, JobId, Member, Presence, Record, Report, Sign, Step, Time};

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
        let Record { at, job: Some(job), change } = record else { return };
        match change {
            Change::GroupBroken { cause, .. } => self.detected(*at, cause, members, presence),
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

    /// Members are lost: how long ago each gave its last sign of life. A peer that reports a broken collective does
    /// not know whom it lost: the member is taken that has been silent for longest.
    fn detected(&self, at: Time, cause: &BreakCause, members: &[Member], presence: &Presence) {
        let last_sign = |member: &Member| presence.worker(&member.worker)?.last_sign_of(&member.incarnation);
        let lost: Vec<Time> = match cause {
            BreakCause::Lost { workers, .. } => {
                let is_lost = |member: &&Member| workers.iter().any(|(worker, _)| *worker == member.worker);
                members.iter().filter(is_lost).filter_map(last_sign).collect()
            }
            BreakCause::Failure { worker, .. } if cause.sign() == Some(Sign::PeerReport) => {
                let others = members.iter().filter(|member| member.worker != *worker);
                others.filter_map(last_sign).min().into_iter().collect()
            }
            _ => Vec::new(),
        };
        for last in lost {
            let silence = at.since(last).as_secs_f64();
            self.metrics.recovery.get_or_create(&Phase { phase: "detect" }).observe(silence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_core::{Core, Incarnation, Link, Observation, Rank, Seen, Timings, WorkerId};
    use prometheus_client::encoding::text;
    use std::time::Duration;

    fn hello(worker: &str, incarnation: &str, at: u64) -> cappa_core::Event {
        cappa_core::Event::Observation(Observation {
            at: Time(at),
            seen: Seen::Connected {
                worker: WorkerId::from(worker),
                link: Link(at),
                incarnation: Incarnation::from(incarnation),
                host: "host".into(),
                store_address: "host:1".into(),
                holding: None,
            },
        })
    }

    fn member(worker: &str) -> Member {
        Member {
            worker: WorkerId::from(worker),
            incarnation: Incarnation::from("first"),
            store_address: "host:1".into(),
            step: Step(0),
            has_state: false,
        }
    }

    /// The seconds to detection, after a group of `a`, heard at 1 s, and `b`, heard at 3 s, broke at 4 s.
    fn detection(cause: BreakCause, meanwhile: Option<cappa_core::Event>) -> Option<String> {
        let second = Duration::from_secs(1);
        let timings = Timings { detection: second, grace: second, settle: second, forming: second, sweep: second };
        let mut core = Core::recover(timings, Time(0), []);
        core.apply(&hello("a", "first", 1_000));
        core.apply(&hello("b", "first", 3_000));
        meanwhile.iter().for_each(|event| core.apply(event));
        let metrics = Metrics::new();
        let change = Change::GroupBroken { generation: Generation(1), cause, step: Step(0) };
        let record = Record { at: Time(4_000), job: Some(JobId::from("demo-1")), change };
        Durations::new(metrics.clone()).logged(&record, &[member("a"), member("b")], core.presence());
        let mut page = String::new();
        text::encode_registry(&mut page, &metrics.registry.lock()).unwrap();
        let sum = page.lines().find(|line| line.contains("_sum{phase=\"detect\"}"))?;
        Some(sum.split_whitespace().last()?.to_owned())
    }

    fn lost(sign: Sign) -> BreakCause {
        BreakCause::Lost { workers: vec![(WorkerId::from("a"), "test".into())], sign: Some(sign) }
    }

    fn failed(code: &str) -> BreakCause {
        BreakCause::Failure { rank: Rank(1), worker: WorkerId::from("b"), code: code.into(), message: "test".into() }
    }

    #[test]
    fn detection_lasts_from_the_last_sign_of_life_to_the_decision_whatever_gave_the_loss_away() {
        let three = Some("3.0".to_owned());
        assert_eq!(detection(lost(Sign::Heartbeat), None), three);
        let replaced = hello("a", "second", 3_900);
        assert_eq!(detection(lost(Sign::ProcessExit), Some(replaced)), three, "the process before was heard at 1 s");
        let ended = Seen::Disconnected { worker: WorkerId::from("a") };
        let ended = cappa_core::Event::Observation(Observation { at: Time(3_900), seen: ended });
        assert_eq!(detection(lost(Sign::StreamEnd), Some(ended)), three);
        assert_eq!(detection(failed("COLLECTIVE_FAILED"), None), three, "the peer that was silent for longest");
    }

    #[test]
    fn an_error_of_a_members_own_detects_no_loss() {
        assert_eq!(detection(failed("DATA"), None), None);
    }
}
