//! The head of the queue, and the first job of a namespace that its quota keeps waiting, wait for bounded things only, whatever
//! arrives: the proof that loans starve nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cappa_core::{Job, JobId, Policy, Quota, Reason, Submission, Wait};
use proptest::prelude::*;

use crate::yard::{Yard, ask};

/// What happens next.
#[derive(Debug, Clone)]
enum Happening {
    Arrives {
        namespace: usize,
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
        3 => (0..3usize, 0..3i32, 1..7u32, 0..4u32)
            .prop_map(|(namespace, priority, min, more)| Happening::Arrives { namespace, priority, min, more }),
        2 => any::<prop::sample::Index>().prop_map(Happening::Ends),
        1 => (1..8u64).prop_map(Happening::Passes),
    ]
}

/// The head of the queue, and by namespace the first job that waits for the quota; each with those who were running, other than
/// on loan from it, when it became that: of its namespace only where it is about the quota.
type Heads = BTreeMap<Option<String>, (JobId, BTreeSet<String>)>;

/// What a job is the first to wait for.
fn waits_for(wait: &Wait, job: &Job) -> Option<Option<String>> {
    match &wait.reason {
        Reason::Workers { .. } | Reason::Freeing { .. } => Some(None),
        Reason::Quota { .. } => Some(Some(job.submission.namespace.clone())),
        _ => None,
    }
}

fn check_heads(yard: &Yard, before: &Heads) -> Result<Heads, TestCaseError> {
    let plan = yard.plan();
    prop_assert!(plan.admissions.is_empty() && plan.preemptions.is_empty(), "{plan:?} is still to be done");
    let mut heads = Heads::new();
    for wait in &plan.waits {
        let head = yard.job(wait.job.as_str());
        if let Some(of) = waits_for(wait, head)
            && !heads.contains_key(&of)
        {
            let blockers = before.get(&of).filter(|(before, _)| *before == head.id).map(|(_, blockers)| blockers);
            let blockers = check_head(yard, of.as_deref(), head, blockers)?;
            heads.insert(of, (head.id.clone(), blockers));
        }
    }
    Ok(heads)
}

/// The head waits only as long as somebody runs who ran before it was the head, or who comes before it in the queue's order:
/// nobody else who starts later keeps it waiting.
fn check_head(
    yard: &Yard,
    namespace: Option<&str>,
    head: &Job,
    blockers: Option<&BTreeSet<String>>,
) -> Result<BTreeSet<String>, TestCaseError> {
    let share = |job: &Job| yard.core.state().usage(&job.submission.namespace).spent(yard.now);
    let key = |job: &Job| (-job.priority, share(job), job.submitted_at, job.id.clone());
    let is_lent = |job: &Job| job.is_loan && head.phase_since <= job.admitted_at.unwrap() && key(head) < key(job);
    let is_in = |job: &Job| namespace.is_none_or(|namespace| job.submission.namespace == namespace);
    let active = yard.active().into_iter();
    let running: BTreeSet<String> = active.filter(|id| is_in(yard.job(id)) && !is_lent(yard.job(id))).collect();
    let blockers = blockers.unwrap_or(&running);
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
    Ok(blockers.clone())
}

/// One namespace is bounded in its workers, one in its running jobs.
fn policy() -> Policy {
    let workers = Quota { max_workers: Some(4), ..Quota::default() };
    let running = Quota { max_running: Some(2), ..Quota::default() };
    let namespaces = BTreeMap::from([("a".to_owned(), workers), ("b".to_owned(), running)]);
    Policy { namespaces, reshape_every: Duration::from_secs(2), ..Policy::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_head_of_the_queue_or_of_a_namespace_is_never_starved(happenings in prop::collection::vec(happening(), 1..40)) {
        let mut yard = Yard::new(6, policy());
        let (mut heads, mut count) = (Heads::new(), 0);
        for happening in happenings {
            match happening {
                Happening::Arrives { namespace, priority, min, more } => {
                    count += 1;
                    let namespace = ["a", "b", "c"][namespace].to_owned();
                    let submission = Submission { namespace, priority, ..ask(min, min + more) };
                    // A minimum above the quota is refused.
                    let _ = yard.try_submit(&format!("job-{count:03}"), submission);
                    yard.obey();
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
            heads = check_heads(&yard, &heads)?;
        }
        // Once nothing arrives any more, as many ends as there are jobs bring everybody to its turn.
        for _ in 0..count {
            let active = yard.active();
            if let Some(id) = active.first() {
                yard.finish(id);
                yard.pass(4);
                heads = check_heads(&yard, &heads)?;
            }
        }
        let never: Vec<_> = yard.core.state().jobs().filter(|job| !job.has_ended()).map(|job| job.id.clone()).collect();
        prop_assert!(never.is_empty(), "{never:?} never had a turn");
        yard.audit();
    }
}
