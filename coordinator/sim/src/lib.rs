//! Seeded schedules of faults around the production core and the production session logic, in virtual time.
//!
//! A schedule is a function of its seed alone. Everything that is random or slow lies here: workers, streams, the store and the
//! coordinators' processes. What is decided, told and obeyed is the code that runs in production: `cappa-core`, `cappa-wire` and
//! `cappa-session`. See README.md for what is varied and what is checked.

#![allow(clippy::unwrap_used, reason = "code of tests")]

mod coordinator;
mod engine;
mod faults;
mod streams;
mod tamper;
mod truth;
mod wishes;
mod worker;
mod world;

use std::fmt;

pub use tamper::Tamper;
use world::World;

/// Where the steps of a schedule are told.
pub type Trace<'a> = Option<&'a mut dyn FnMut(String)>;

/// A schedule that broke a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The schedule.
    pub seed: u64,
    /// Virtual milliseconds since its beginning.
    pub at_ms: u64,
    /// The promise.
    pub broken: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} after {} ms: {}", self.seed, self.at_ms, self.broken)
    }
}

/// What happened in a schedule that kept every promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events of the world, each followed by the checks.
    pub events: u64,
    /// Faults.
    pub faults: u64,
    /// Groups that were formed.
    pub groups: u64,
    /// Updates that were completed by a whole group, or a part of it.
    pub steps: u64,
    /// Times that the store took no files as a group was about to save for the last time.
    pub refusals: u64,
    /// Checkpoints that were committed.
    pub checkpoints: u64,
    /// Times that a job went back to a checkpoint.
    pub rollbacks: u64,
    /// Checkpoints that turned out to be damaged.
    pub damages: u64,
    /// Times that a group found its checkpoints unreadable for a while.
    pub waits: u64,
    /// Workers that were lost too often and kept out of groups for a while.
    pub quarantines: u64,
    /// Devices that failed in the middle of a group's work.
    pub devices: u64,
    /// Slow workers that an idle one was to replace.
    pub replacements: u64,
    /// Gangs that started with workers, or within a quota, reserved for others.
    pub loans: u64,
    /// Jobs that gave way: shrunk, loans called in, pre-empted, out of time.
    pub yields: [u64; 4],
    /// Losses by what gave them away: the stream's end, heartbeats, peers, a new process, absence.
    pub losses: [u64; 5],
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.faults += other.faults;
        self.groups += other.groups;
        self.steps += other.steps;
        self.refusals += other.refusals;
        self.checkpoints += other.checkpoints;
        self.rollbacks += other.rollbacks;
        self.damages += other.damages;
        self.waits += other.waits;
        self.quarantines += other.quarantines;
        self.devices += other.devices;
        self.replacements += other.replacements;
        self.loans += other.loans;
        self.yields.iter_mut().zip(other.yields).for_each(|(sum, more)| *sum += more);
        self.losses.iter_mut().zip(other.losses).for_each(|(sum, more)| *sum += more);
    }
}

/// A schedule step by step, the last line being what it came to: what a failing test shows.
pub fn rendered(seed: u64, tamper: Tamper) -> String {
    let mut told = String::new();
    let ran = run(seed, tamper, Some(&mut |line| told.extend([line.as_str(), "\n"])));
    match ran {
        Ok(summary) => told + &format!("every promise was kept: {summary:?}"),
        Err(failure) => told + &failure.to_string(),
    }
}

/// Runs one schedule.
///
/// # Errors
/// The promise that it broke, a panic of the code under test included.
pub fn run(seed: u64, tamper: Tamper, trace: Trace<'_>) -> Result<Summary, Failure> {
    let mut world = World::new(seed, tamper, trace);
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    ran.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(world.failure(format!("NoPanic: {}", text.unwrap_or_default())))
    })
}
