//! The workers there are.

use crate::core::Core;
use crate::ids::{Time, WorkerId};

/// Connected workers and the free ones among them.
#[derive(Debug)]
pub(crate) struct Supply<'a> {
    /// Workers that can be talked to, are not quarantined, belong to no group and are at work in none that is over; by id.
    pub(crate) free: Vec<&'a WorkerId>,
    /// Workers that can be talked to, are not quarantined and don't end on purpose, busy ones included.
    pub(crate) connected: usize,
}

impl<'a> Supply<'a> {
    /// As they are seen now. Both tables are in the order of the ids, so one pass over them is enough.
    pub(crate) fn of(core: &'a Core, now: Time) -> Self {
        let detection = core.timings().detection;
        let mut members = core.state().members().peekable();
        let (mut free, mut connected) = (Vec::new(), 0);
        for (worker, presence) in core.presence().workers() {
            let is_quarantined = core.state().flaps().quarantine(worker).is_some();
            if !presence.is_live(now, detection) || presence.is_leaving() || is_quarantined {
                continue;
            }
            connected += 1;
            while members.next_if(|member| *member < worker).is_some() {}
            let is_member = members.peek().is_some_and(|member| *member == worker);
            if !is_member && presence.at_work().is_none() {
                free.push(worker);
            }
        }
        Self { free, connected }
    }
}
