//! What the coordinator says, and what it leads to in this process.

use cappa_proto::coordinator_message::Message as Told;
use cappa_shared::ids::{Generation, JobId};
use thiserror::Error;

use crate::assignment::{Assignment, BadForm, Order};
use crate::bars::Bars;
use crate::book::Book;

/// What is to be done after a message, in this order.
#[derive(Debug)]
pub struct Reaction<H> {
    /// The group that is to be aborted, from outside of any lock: what is in flight there fails.
    pub abort: Option<H>,
    /// What the training thread is told.
    pub order: Option<Order>,
}

/// The message leads to nothing.
#[derive(Debug, Error)]
pub enum Unwanted {
    /// It can't be meant; the session goes on.
    #[error("an order to form a group was refused")]
    BadForm(#[from] BadForm),
    /// The coordinator does not want this worker; the session ends for good.
    #[error("the coordinator refused this worker ({code}): {reason}")]
    Refused {
        /// The error's code.
        code: String,
        /// What to do about it.
        reason: String,
    },
}

impl<H> Reaction<H> {
    fn nothing() -> Self {
        Self { abort: None, order: None }
    }
}

/// Takes in a message of the coordinator.
///
/// # Errors
/// See [`Unwanted`].
pub fn obey<H>(told: Told, book: &mut Book, bars: &mut Bars<H>) -> Result<Reaction<H>, Unwanted> {
    Ok(match told {
        Told::Form(form) => {
            let assignment = Assignment::try_from(form)?;
            // Whoever is in an older group leaves it for the new one.
            let abort = bars.bar(&assignment.job, Generation(assignment.generation.0.saturating_sub(1)));
            Reaction { abort, order: Some(Order::Form(Box::new(assignment))) }
        }
        Told::Abort(abort) => job(&abort.job_id).map_or_else(Reaction::nothing, |job| {
            let generation = Generation(abort.generation);
            let abort = bars.bar(&job, generation);
            Reaction { abort, order: Some(Order::Leave { job, generation }) }
        }),
        Told::Release(release) => job(&release.job_id).map_or_else(Reaction::nothing, |job| {
            let held = book.holding().filter(|held| held.job_id == job.as_str());
            let abort = bars.bar(&job, Generation(held.map_or(0, |held| held.generation)));
            Reaction { abort, order: Some(Order::Release(job)) }
        }),
        Told::Stop(stop) => {
            if let Some(job) = job(&stop.job_id) {
                bars.stop(&job, Generation(stop.generation));
            }
            Reaction::nothing()
        }
        Told::Drain(drain) => {
            bars.drain(&drain.reason);
            Reaction::nothing()
        }
        Told::Committed(committed) => {
            book.settled(committed.step, committed.generation);
            Reaction::nothing()
        }
        Told::Refused(refused) => return Err(Unwanted::Refused { code: refused.code, reason: refused.reason }),
        Told::Welcome(_) => Reaction::nothing(),
    })
}

fn job(id: &str) -> Option<JobId> {
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_proto as wire;

    #[test]
    fn an_order_to_leave_aborts_the_group_it_names_and_none_that_is_newer() {
        let (mut book, mut bars) = (Book::default(), Bars::default());
        let id: JobId = "demo-1".parse().unwrap();
        bars.enter(&id, Generation(3), "group").unwrap();
        let abort =
            |generation| Told::Abort(wire::Abort { job_id: "demo-1".into(), generation, reason: "test".into() });
        let late = obey(abort(2), &mut book, &mut bars).unwrap();
        assert_eq!(late.abort, None);
        let hit = obey(abort(3), &mut book, &mut bars).unwrap();
        assert_eq!(hit.abort, Some("group"));
        assert!(matches!(hit.order, Some(Order::Leave { generation: Generation(3), .. })));
    }

    #[test]
    fn a_form_that_cannot_be_meant_changes_nothing() {
        let (mut book, mut bars) = (Book::default(), Bars::<()>::default());
        let form = wire::Form { job_id: "demo-1".into(), generation: 9, ..Default::default() };
        assert!(matches!(obey(Told::Form(form), &mut book, &mut bars), Err(Unwanted::BadForm(_))));
        assert_eq!(bars.check(&"demo-1".parse().unwrap(), Generation(8)), Ok(()));
    }
}
