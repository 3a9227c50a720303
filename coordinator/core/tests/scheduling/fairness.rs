//! The head of the queue waits for bounded things only, whatever arrives: the proof that loans starve nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use cappa_core::{Job, JobId, Policy, Reason, Submission};
use proptest::prelude::*;

use crate::yard::{Yard, ask};

/// What happens next.
#[derive(Debug, Clone)]
enum Happening {
    Arrives {
        namespace: bool,
        priority: i32,
        min: u32,
        more: u32,
    },
    /// One of the running jobs is done.
    Ends(prop::sample::Index),
    Passes(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (any::<bool>(), 0..3i32, 1..7u32, 0..4u32)
            .prop_map(|(namespace, priority, min, more)| Happening::Arrives { namespace, priority, min, more }),
        2 => any::<prop::sample::Index>().prop_map(Happening::Ends),
        1 => (1..8u64).prop_map(Happening::Passes),
    ]
}

/// The head, and who was running, other than on loan from it, when it became that.
type Head = Option<(JobId, BTreeSet<String>)>;

/// The head waits only as long as somebody runs who ran before it was the head, or who comes before it in the queue's order:
/// nobody else who starts later keeps it waiting.
fn check_head(yard: &Yard, before: Head) -> Result<Head, TestCaseError> {
    let plan = yard.plan();
    prop_assert!(plan.admissions.is_empty() && plan.preemptions.is_empty(), "{plan:?} is still to be done");
    let waits_for_workers = |reason: &Reason| matches!(reason, Reason::Workers { .. } | Reason::Freeing { .. });
    let Some(head) = plan.waits.iter().find(|wait| waits_for_workers(&wait.reason)) else {
        return Ok(None);
    };
    let head = yard.job(head.job.as_str());
    let is_lent =
        |job: &Job| job.is_loan && job.priority <= head.priority && head.phase_since <= job.admitted_at.unwrap();
    let running: BTreeSet<String> = yard.active().into_iter().filter(|id| !is_lent(yard.job(id))).collect();
    let blockers = match before {
        Some((before, blockers)) if before == head.id => blockers,
        _ => running.clone(),
    };
    // Who comes before the head in the queue's order may start while it waits; nobody else.
    let comes_first = |job: &Job| {
        let (theirs, ours) = (&job.submission.namespace, &head.submission.namespace);
        let is_before = theirs != ours || (job.submitted_at, &job.id) < (head.submitted_at, &head.id);
        job.priority > head.priority || job.priority == head.priority && is_before
    };
    prop_assert!(
        running.iter().any(|id| blockers.contains(id) || comes_first(yard.job(id))),
        "{} is kept waiting by {running:?}, none of whom ran when it became the head ({blockers:?})",
        head.id
    );
    Ok(Some((head.id.clone(), blockers)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_head_of_the_queue_is_never_starved(happenings in prop::collection::vec(happening(), 1..40)) {
        let mut yard = Yard::new(6, Policy { reshape_every: Duration::from_secs(2), ..Policy::default() });
        let (mut head, mut count) = (None, 0);
        for happening in happenings {
            match happening {
                Happening::Arrives { namespace, priority, min, more } => {
                    count += 1;
                    let namespace = if namespace { "a" } else { "b" }.to_owned();
                    yard.submit(&format!("job-{count:03}"), Submission { namespace, priority, ..ask(min, min + more) });
                }
                Happening::Ends(which) => {
                    let active = yard.active();
                    if !active.is_empty() {
                        let id: &String = which.get(&active);
                        yard.finish(id);
                    }
                }
                Happening::Passes(seconds) => yard.pass(seconds),
            }
            // Long enough for reshaping, short enough for nothing else.
            yard.pass(4);
            head = check_head(&yard, head)?;
        }
        // Once nothing arrives any more, as many ends as there are jobs bring everybody to its turn.
        for _ in 0..count {
            let active = yard.active();
            if let Some(id) = active.first() {
                yard.finish(id);
                yard.pass(4);
                head = check_head(&yard, head)?;
            }
        }
        let never: Vec<_> = yard.core.state().jobs().filter(|job| !job.has_ended()).map(|job| job.id.clone()).collect();
        prop_assert!(never.is_empty(), "{never:?} never had a turn");
        yard.audit();
    }
}
