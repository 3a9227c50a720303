//! The plan as readers see it: who is about to start and why the others wait.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use cappa_core::{JobId, Plan, Reason};

/// Readers share a plan for so many times as long as it took to make: where the queue is long, readers together take one in
/// twenty parts of the loop's time for it, and where it is short they see every change.
const SHARED: u32 = 20;

/// No plan is older than this.
const OLDEST: Duration = Duration::from_millis(500);

/// A plan, made when a reader first asks for it.
#[derive(Default)]
pub(super) struct Planned {
    plan: OnceCell<Made>,
}

struct Made {
    plan: Plan,
    /// Where each job is among those that wait.
    places: HashMap<JobId, usize>,
    at: Instant,
    took: Duration,
}

impl Planned {
    /// Others may have come to wait: a plan that is too old for them is made again when someone asks.
    pub(super) fn refresh(&mut self) {
        if self.plan.get().is_some_and(|made| made.at.elapsed() > (made.took * SHARED).min(OLDEST)) {
            self.plan.take();
        }
    }

    /// The plan.
    pub(super) fn plan(&self, make: impl FnOnce() -> Plan) -> &Plan {
        &self.made(make).plan
    }

    /// Why a job waits; nothing of one that has come to wait since the plan was made.
    pub(super) fn reason(&self, job: &JobId, make: impl FnOnce() -> Plan) -> Option<&Reason> {
        let Made { plan, places, .. } = self.made(make);
        places.get(job).map(|place| &plan.waits[*place].reason)
    }

    fn made(&self, make: impl FnOnce() -> Plan) -> &Made {
        self.plan.get_or_init(|| {
            let begun = Instant::now();
            let plan = make();
            let places = plan.waits.iter().enumerate().map(|(place, wait)| (wait.job.clone(), place)).collect();
            Made { plan, places, at: Instant::now(), took: begun.elapsed() }
        })
    }
}
