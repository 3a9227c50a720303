//! What time and the present state call for: one transition at a time.

use super::{At, checkpoint, gang, group, limits, workers};
use crate::core::Core;
use crate::presence::Seen;
use crate::record::Event;

pub(super) fn review(core: &Core, at: At) -> Vec<Event> {
    let presence = core.presence();
    let stood_still = at.0.since(presence.reviewed_at);
    // A process that was stopped, or starved, has not listened: it must not judge who was silent.
    if stood_still > core.timings().detection / 2 {
        return vec![at.seen(Seen::Woke)];
    }
    let next = checkpoint::given_up(core, at).or_else(|| workers::review(core, at)).or_else(|| {
        let mut jobs = core.state().live_jobs();
        jobs.find_map(|job| group::review(core, at, job).or_else(|| limits::review(core, at, job)))
    });
    if let Some(event) = next {
        return vec![event];
    }
    let planned = gang::carry_out(core, at);
    match () {
        () if !planned.is_empty() => planned,
        () if at.0 > presence.reviewed_at => vec![at.seen(Seen::Reviewed)],
        () => Vec::new(),
    }
}
