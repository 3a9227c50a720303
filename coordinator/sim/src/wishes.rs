//! What the operator allows, and what people want to have run.

use std::time::Duration;

use cappa_core::{
    Command, Condition, Dependency, Flapping, JobId, OnPreemption, Policy, Quota, Scheduling, Step, Stragglers,
    Submission,
};
use cappa_shared::spec::{JobSpec, SpecBase};
use rand::Rng;
use rand::rngs::StdRng;

use crate::world::{Event, World};

/// The last one has no quota.
const NAMESPACES: [&str; 3] = ["red", "blue", "free"];

/// Two losses within the time of the faults are too many, slow workers are replaced soon and sizes change often, so that all
/// this is common.
pub(crate) fn policy(rng: &mut StdRng, places: u32) -> Policy {
    let flapping = Flapping { losses: 2, within: Duration::from_secs(60), cool_down: Duration::from_secs(20) };
    let stragglers = Stragglers { replace: true, ..Stragglers::default() };
    let namespaces = NAMESPACES[..2].iter().map(|namespace| ((*namespace).to_owned(), quota(rng, places))).collect();
    Policy { namespaces, flapping, stragglers, reshape_every: Duration::from_secs(5), ..Policy::default() }
}

fn quota(rng: &mut StdRng, places: u32) -> Quota {
    Quota {
        weight: rng.random_range(1..=3),
        max_workers: rng.random_bool(0.6).then(|| rng.random_range(1..=places)),
        max_running: rng.random_bool(0.4).then(|| rng.random_range(1..=2)),
        max_queued: rng.random_bool(0.1).then(|| rng.random_range(1..=2)),
    }
}

impl World<'_> {
    /// Somebody submits a job, once a coordinator leads.
    pub(crate) fn submit(&mut self, number: u64) {
        if self.leader().is_none() {
            return self.at(500, Event::Submit(number));
        }
        let job = JobId::from(format!("job-{number}"));
        let submission = self.wish(number);
        self.truth.asked.insert(job.clone(), submission.clone());
        self.jobs.push(job.clone());
        self.ask(Command::Submit { job, submission });
    }

    fn wish(&mut self, number: u64) -> Submission {
        let places = u32::try_from(self.places.len()).unwrap();
        let namespace = NAMESPACES[self.rng.random_range(0..NAMESPACES.len())].to_owned();
        let allowed = self.policy.quota(&namespace).max_workers.map_or(places, |limit| limit.min(places));
        let min_workers = self.rng.random_range(1..=allowed);
        let scheduling = self.scheduling(number);
        Submission {
            name: format!("job-{number}"),
            namespace,
            priority: self.rng.random_range(0..3),
            min_workers,
            max_workers: self.rng.random_range(min_workers..=places),
            lanes: self.lanes,
            keep: self.rng.random_range(1..=3),
            total_steps: Step(self.random(20..200)),
            needs_index: self.chance(0.3),
            spec_json: spec_json(),
            spec_digest: String::new(),
            data_digest: String::new(),
            folder: format!("memory:///jobs/job-{number}"),
            idempotency_key: None,
            scheduling,
        }
    }

    fn scheduling(&mut self, number: u64) -> Scheduling {
        let on_preemption = if self.chance(0.2) { OnPreemption::Cancel } else { OnPreemption::Requeue };
        let time_limit = self.chance(0.1).then(|| Duration::from_secs(self.random(5..60)));
        let condition = if self.chance(0.5) { Condition::Ended } else { Condition::Succeeded };
        let before = number.checked_sub(1).filter(|_| self.chance(0.2));
        let after = before.map(|before| Dependency { job: JobId::from(format!("job-{before}")), condition });
        Scheduling { on_preemption, time_limit, after: after.into_iter().collect(), ..Scheduling::default() }
    }
}

/// A small spec that is valid; the simulated workers read only what the order says besides.
fn spec_json() -> String {
    static SPEC: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let text = "apiVersion: cappa.dev/v1\nname: demo\nduration: {steps: 100}\nmodel: {preset: tiny}\n\
                data: {train: /data/manifest.json, tokenizer: /data/tokenizer.json}\n";
    SPEC.get_or_init(|| JobSpec::parse(text, &SpecBase::none()).unwrap().to_json()).clone()
}
