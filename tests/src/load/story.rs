//! What the coordinator tells of the jobs, held against what was done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cappa_proto as wire;
use parking_lot::Mutex;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use wire::job_update::Update;
use wire::jobs_client::JobsClient;

use super::faults::{Fault, Loss};

/// The events of all jobs, as their watchers heard them.
#[derive(Clone, Default)]
pub(crate) struct Story {
    jobs: Arc<Mutex<BTreeMap<String, Vec<wire::JobEvent>>>>,
}

/// What became of the losses.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Milliseconds from the loss to its record, of those that were killed.
    pub(crate) killed: Vec<f64>,
    /// The same of those that hung.
    pub(crate) hung: Vec<f64>,
    /// Losses that were told too late or never.
    pub(crate) missed: Vec<String>,
    /// Workers that were told to be lost and were not, and groups that broke for other reasons.
    pub(crate) false_ones: Vec<String>,
    /// Milliseconds from a loss to the first step of the next group.
    pub(crate) recovered: Vec<f64>,
    /// Losses after which no group has made a step.
    pub(crate) unrecovered: usize,
}

impl Story {
    /// Follows jobs, as `cappactl watch` does, until the coordinator ends.
    pub(crate) fn follow(&self, jobs: &[String], channel: &Channel) {
        for job in jobs {
            let (story, job) = (self.clone(), job.clone());
            let mut client = JobsClient::new(channel.clone());
            tokio::spawn(async move {
                let request = wire::WatchRequest { job_id: job.clone(), after_event: 0 };
                let Ok(updates) = client.watch(request).await else { return };
                let mut updates = updates.into_inner();
                while let Some(Ok(wire::JobUpdate { update: Some(update) })) = updates.next().await {
                    if let Update::Event(event) = update {
                        story.jobs.lock().entry(job.clone()).or_default().push(event);
                    }
                }
            });
        }
    }

    /// How many jobs have made a step in their newest group.
    pub(crate) fn running(&self) -> usize {
        let jobs = self.jobs.lock();
        let newest = |events: &&Vec<wire::JobEvent>| {
            let mut stages = events.iter().rev().filter(|event| !event.kind.starts_with("checkpoint"));
            stages.next().is_some_and(|event| event.kind == "group_running")
        };
        jobs.values().filter(newest).count()
    }

    /// Milliseconds from the forming of each group to its first step, of all that came so far.
    pub(crate) fn forming(&self) -> Vec<f64> {
        let jobs = self.jobs.lock();
        let of_job = |events: &Vec<wire::JobEvent>| {
            let mut formed = None;
            let mut times = Vec::new();
            for event in events {
                match event.kind.as_str() {
                    "group_formed" => formed = Some(event.unix_ms),
                    "group_running" => times.extend(formed.take().map(|formed| (event.unix_ms - formed) as f64)),
                    _ => {}
                }
            }
            times
        };
        jobs.values().flat_map(of_job).collect()
    }

    /// Holds the story against the losses, of which those are missed that are told later than after `limit_ms`.
    pub(crate) fn judge(&self, losses: &[Loss], limit_ms: i64) -> Verdict {
        let jobs = self.jobs.lock();
        let mut verdict = Verdict::default();
        let mut told = BTreeSet::new();
        for loss in losses {
            let events = jobs.get(&loss.job).map_or(&[][..], Vec::as_slice);
            let names = |event: &&wire::JobEvent| {
                event.kind == "worker_lost"
                    && event.unix_ms >= loss.unix_ms - 1
                    && lost_workers(&event.message).any(|worker| worker == loss.worker)
            };
            let record = events.iter().find(names);
            let Some(record) = record.filter(|record| record.unix_ms - loss.unix_ms <= limit_ms) else {
                verdict.missed.push(format!("{} of {}, which {:?}", loss.worker, loss.job, loss.fault));
                continue;
            };
            told.insert((loss.job.as_str(), loss.worker.as_str()));
            let late = (record.unix_ms - loss.unix_ms) as f64;
            match loss.fault {
                Fault::Killed => verdict.killed.push(late),
                Fault::Hangs => verdict.hung.push(late),
            }
            let is_next = |event: &&wire::JobEvent| event.sequence > record.sequence && event.kind == "group_running";
            match events.iter().find(is_next) {
                Some(running) => verdict.recovered.push((running.unix_ms - loss.unix_ms) as f64),
                None => verdict.unrecovered += 1,
            }
        }
        for (job, events) in jobs.iter() {
            for event in events {
                let innocent = lost_workers(&event.message).filter(|worker| !told.contains(&(job.as_str(), *worker)));
                match event.kind.as_str() {
                    "worker_lost" => verdict.false_ones.extend(innocent.map(|worker| format!("{worker} of {job}"))),
                    "group_failed" | "failed" | "requeued" | "worker_quarantined" | "checkpoint_failed" => {
                        verdict.false_ones.push(format!("{job}: {}: {}", event.kind, event.message));
                    }
                    _ => {}
                }
            }
        }
        verdict
    }
}

/// The workers that a message of the kind `worker_lost` names: `generation 3 at step 7: worker-1 ended its stream; …`.
fn lost_workers(message: &str) -> impl Iterator<Item = &str> {
    let losses = message.split_once(": ").map_or("", |(_, losses)| losses);
    losses.split("; ").filter_map(|loss| loss.split(' ').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(events: &[(&str, i64, &str)]) -> Story {
        let event = |(sequence, (kind, unix_ms, message)): (u64, &(&str, i64, &str))| wire::JobEvent {
            sequence,
            unix_ms: *unix_ms,
            kind: (*kind).to_owned(),
            message: (*message).to_owned(),
        };
        let story = Story::default();
        story.jobs.lock().insert("a-1".into(), (1..).zip(events).map(event).collect());
        story
    }

    fn loss(worker: &str, fault: Fault) -> Loss {
        Loss { job: "a-1".into(), worker: worker.into(), fault, unix_ms: 1_000 }
    }

    #[test]
    fn a_loss_that_is_told_in_time_counts_up_to_the_next_groups_first_step() {
        let told = "generation 1 at step 4: worker-1 ended its stream; worker-2 was silent for 5.0 s";
        let story = story(&[("worker_lost", 1_200, told), ("group_formed", 1_300, ""), ("group_running", 1_450, "")]);
        let verdict = story.judge(&[loss("worker-1", Fault::Killed), loss("worker-2", Fault::Hangs)], 6_000);
        let expected =
            Verdict { killed: vec![200.0], hung: vec![200.0], recovered: vec![450.0, 450.0], ..Verdict::default() };
        assert_eq!(verdict, expected);
        assert_eq!((story.running(), story.forming()), (1, vec![150.0]));
    }

    #[test]
    fn what_is_told_late_or_of_the_living_counts_against_the_coordinator() {
        let late = "generation 1 at step 4: worker-1 ended its stream";
        let wrong = "generation 2 at step 5: worker-3 was silent for 5.1 s";
        let story =
            story(&[("worker_lost", 8_000, late), ("worker_lost", 9_000, wrong), ("group_failed", 9_500, "x: y")]);
        let verdict = story.judge(&[loss("worker-1", Fault::Killed)], 6_000);
        assert_eq!(verdict.missed, ["worker-1 of a-1, which Killed"]);
        assert_eq!(verdict.false_ones, ["worker-1 of a-1", "worker-3 of a-1", "a-1: group_failed: x: y"]);
    }
}
