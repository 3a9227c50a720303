//! What time and the present state call for: one transition at a time.

use super::{At, checkpoint, gang, group, limits, workers};
use crate::core::Core;
use crate::ids::JobId;
use crate::job::Job;
use crate::presence::Seen;
use crate::record::Event;
use crate::work;

/// What a look comes to.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// The next transition, or that there is none.
    pub(crate) events: Vec<Event>,
    /// Jobs with a group of which nothing follows now.
    pub(crate) passed_over: Vec<JobId>,
}

impl From<Vec<Event>> for Looked {
    fn from(events: Vec<Event>) -> Self {
        Self { events, passed_over: Vec::new() }
    }
}

/// The next transition, looking at the jobs in a circle from `first` on: whoever repeats this goes on where it was, so that
/// many transitions at once cost little more than one look at every job.
pub(crate) fn review(core: &Core, at: At, first: Option<&JobId>) -> Looked {
    let presence = core.presence();
    let stood_still = at.0.since(presence.last_look);
    // A process that was stopped, or starved, has not listened: it must not judge who was silent.
    if stood_still > core.timings().detection / 2 {
        return vec![at.seen(Seen::Woke)].into();
    }
    if let Some(event) = checkpoint::given_up(core, at).or_else(|| workers::review(core, at)) {
        return vec![event].into();
    }
    debug_assert!(calm_groups_call_for_nothing(core, at));
    let mut passed_over = Vec::new();
    for job in core.state().live_jobs_from(first).filter(|job| !may_be_passed_over(core, at, job)) {
        if let Some(event) = group::review(core, at, job).or_else(|| limits::review(core, at, job)) {
            return Looked { events: vec![event], passed_over };
        }
        passed_over.extend(job.group().map(|_| job.id.clone()));
    }
    let planned = gang::carry_out(core, at);
    let events = match () {
        () if !planned.is_empty() => planned,
        () if at.0 > presence.reviewed_at => vec![at.seen(Seen::Reviewed)],
        () => Vec::new(),
    };
    Looked { events, passed_over }
}

fn may_be_passed_over(core: &Core, at: At, job: &Job) -> bool {
    job.group().is_some() && core.attention().may_pass_over(at.0, &job.id)
}

/// What makes it safe to pass over calm groups.
fn calm_groups_call_for_nothing(core: &Core, at: At) -> bool {
    let mut jobs = core.attention().calm(at.0).filter_map(|id| core.state().job(id));
    jobs.all(|job| group::review(core, at, job).is_none() && work::of_group(core, job).next().is_none())
}
