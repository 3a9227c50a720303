//! A worker as the protocol sees it: it forms, steps, checkpoints and completes, without training.

use cappa_core::{
    Generation, Holding, Incarnation, JobId, Link, Outcome, Part, Rank, RankParts, Report, Step, Time, Work, WorkerId,
};

/// One worker's place, and the process in it if one lives.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) process: Option<Process>,
}

/// A living process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    /// Its stream, while it has one.
    pub(crate) link: Option<Link>,
    /// It does nothing and says nothing until then.
    pub(crate) hangs_until: Time,
    /// The state it holds.
    pub(crate) state: Option<Held>,
    /// Reports that were never acknowledged.
    pub(crate) unacknowledged: Vec<Report>,
}

/// What a process knows of the job it is in.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) job: JobId,
    pub(crate) generation: Generation,
    pub(crate) step: Step,
    pub(crate) has_state: bool,
    /// Its group, while it is in one.
    pub(crate) group: Option<Membership>,
}

#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) rank: Rank,
    pub(crate) world_size: u32,
    pub(crate) stops: bool,
    pub(crate) entered: bool,
}

impl Process {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            incarnation: Incarnation(incarnation.to_string()),
            link: None,
            hangs_until: Time(0),
            state: None,
            unacknowledged: Vec::new(),
        }
    }

    pub(crate) fn hello(&self, id: &WorkerId) -> Report {
        let holding = self.state.as_ref().filter(|held| held.has_state || held.group.is_some()).map(|held| Holding {
            job: held.job.clone(),
            generation: held.generation,
            step: held.step,
            has_state: held.has_state,
            stepping: held.group.is_some(),
        });
        Report::Hello {
            incarnation: self.incarnation.clone(),
            host: "host".to_owned(),
            store_address: format!("{id}:1"),
            holding,
        }
    }

    pub(crate) fn heartbeat(&self) -> Report {
        let at = self.state.as_ref().map(|held| (held.job.clone(), held.generation, held.step));
        Report::Heartbeat { at }
    }

    /// Leaves its group, and says so.
    pub(crate) fn leave(&mut self, failure: Option<cappa_core::Failure>) -> Option<Report> {
        let held = self.state.as_mut()?;
        held.group.take()?;
        Some(Report::Left {
            job: held.job.clone(),
            generation: held.generation,
            step: held.step,
            has_state: held.has_state,
            failure,
        })
    }

    pub(crate) fn parts(held: &Held, group: &Membership) -> Report {
        let part = Part { name: format!("part-{}", group.rank), bytes: 1, sha256: "00".to_owned() };
        Report::PartsWritten {
            job: held.job.clone(),
            generation: held.generation,
            step: held.step,
            rank: group.rank,
            world_size: group.world_size,
            parts: RankParts { parts: vec![part], quarantined: Vec::new() },
        }
    }

    pub(crate) fn complete(held: &Held, outcome: Outcome) -> Report {
        Report::Completed {
            job: held.job.clone(),
            generation: held.generation,
            step: held.step,
            outcome,
            summary: None,
        }
    }

    /// Whether the report is settled by this message.
    pub(crate) fn settles(work: &Work, report: &Report) -> bool {
        match (work, report) {
            (
                Work::Acknowledge { job, step, generation, .. },
                Report::PartsWritten { job: j, step: s, generation: g, .. },
            ) => (job, step, generation) == (j, s, g),
            (Work::Release { job, .. }, Report::Completed { job: j, .. }) => job == j,
            _ => false,
        }
    }
}
