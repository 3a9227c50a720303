//! What each namespace has and had: counts for its quota, and decayed use of workers for its share.

use serde::{Deserialize, Serialize};

use crate::ids::Time;
use crate::job::{Job, Phase};
use crate::policy::USAGE_HALF_LIFE;

/// What the jobs of one namespace use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Jobs in the queue, or on their way to it by an index of their data.
    pub queued: u32,
    /// Jobs with workers.
    pub running: u32,
    /// Their workers.
    pub workers: u32,
    /// Worker-seconds up to `at`, of which those of a half-life ago count half.
    #[serde(with = "bits")]
    spent: f64,
    at: Time,
}

/// What one job contributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    queued: u32,
    running: u32,
    workers: u32,
}

impl Load {
    pub(crate) fn of(job: &Job) -> Self {
        match &job.phase {
            Phase::Indexing | Phase::Queued => Self { queued: 1, ..Self::default() },
            Phase::Active(group) => {
                let workers = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
                Self { queued: 0, running: 1, workers }
            }
            Phase::Paused { .. } | Phase::Ended(_) => Self::default(),
        }
    }
}

impl Usage {
    /// Decayed worker-seconds as of `now`: the integral of the workers over time, weighted by 2^(-age / half-life).
    pub fn spent(&self, now: Time) -> f64 {
        let half_life = USAGE_HALF_LIFE.as_secs_f64();
        let halves = now.since(self.at).as_secs_f64() / half_life;
        let kept = (-halves).exp2();
        self.spent * kept + f64::from(self.workers) * half_life / std::f64::consts::LN_2 * (1.0 - kept)
    }

    /// A job's contribution changes.
    pub(crate) fn shift(&mut self, at: Time, before: Load, after: Load) {
        if before == after {
            return;
        }
        self.spent = self.spent(at);
        self.at = self.at.max(at);
        self.queued = self.queued - before.queued + after.queued;
        self.running = self.running - before.running + after.running;
        self.workers = self.workers - before.workers + after.workers;
    }

    /// Whether these are the contributions of exactly these jobs.
    pub(crate) fn counts<'a>(&self, jobs: impl Iterator<Item = &'a Job>) -> bool {
        let mut sum = Load::default();
        for load in jobs.map(Load::of) {
            sum.queued += load.queued;
            sum.running += load.running;
            sum.workers += load.workers;
        }
        sum == Load { queued: self.queued, running: self.running, workers: self.workers }
    }
}

/// A number as its bits: read back it is the same, so that whoever starts from a snapshot decides as others do.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(number.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(f64::from_bits(u64::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_counts_half_after_the_half_life_and_grows_while_workers_are_busy() {
        let hour = Time(3_600_000);
        let mut usage = Usage::default();
        usage.shift(Time(0), Load::default(), Load { queued: 0, running: 1, workers: 2 });
        let at_an_hour = usage.spent(hour);
        assert!((7_000.0..7_200.0).contains(&at_an_hour), "two workers for an hour, barely decayed: {at_an_hour}");
        usage.shift(hour, Load { queued: 0, running: 1, workers: 2 }, Load::default());
        let later = usage.spent(hour + USAGE_HALF_LIFE);
        assert!((later - at_an_hour / 2.0).abs() < 1e-6, "{later}");
    }
}
