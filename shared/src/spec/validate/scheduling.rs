//! When a job runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::checker::Checker;
use crate::ids::Namespace;
use crate::spec::error::Mistake;
use crate::spec::raw::{RawDependency, RawRetry, Short};
use crate::spec::{Dependency, Priority, Retry};
use crate::timing::Span;

/// Characters of a namespace or a job id, which are DNS labels.
pub(super) const MAX_LABEL: usize = 63;
/// New tries after failures of one class.
const MAX_RETRIES: u64 = 1000;
/// Jobs that one waits for.
const MAX_DEPENDENCIES: usize = 100;

pub(super) fn namespace(name: Option<String>, checker: &mut Checker<'_>) -> Option<Namespace> {
    let name = name?;
    checker.label("namespace", &name, MAX_LABEL);
    name.parse().ok()
}

pub(super) fn priority(raw: Option<Short<i32, String>>, checker: &mut Checker<'_>) -> Priority {
    match raw {
        None => Priority::default(),
        Some(Short::Name(number)) => Priority::Number(number),
        Some(Short::Map(class)) => {
            checker.label("priority", &class, MAX_LABEL);
            Priority::Class(class)
        }
    }
}

pub(super) fn retry(raw: &RawRetry, checker: &mut Checker<'_>) -> Retry {
    let usual = Retry::default();
    let backoff = raw.backoff.as_deref().and_then(|text| span("retry.backoff", text, checker));
    let retry = Retry {
        data: raw.data.unwrap_or(usual.data),
        user: raw.user.unwrap_or(usual.user),
        infrastructure: raw.infrastructure.unwrap_or(usual.infrastructure),
        backoff: backoff.unwrap_or(usual.backoff),
    };
    checker.within("retry.data", retry.data, 0..=MAX_RETRIES);
    checker.within("retry.user", retry.user, 0..=MAX_RETRIES);
    checker.within("retry.infrastructure", retry.infrastructure, 0..=MAX_RETRIES);
    retry
}

pub(super) fn after(raw: Vec<RawDependency>, checker: &mut Checker<'_>) -> Vec<Dependency> {
    if raw.len() > MAX_DEPENDENCIES {
        let message = format!("{} jobs are more than {MAX_DEPENDENCIES}, the most", raw.len());
        checker.report(&["after"], Mistake::OutOfRange, message);
    }
    let mut seen = BTreeSet::new();
    let mut after = Vec::with_capacity(raw.len());
    for (place, RawDependency { job, condition }) in raw.into_iter().enumerate() {
        let (job, path) = (job.unwrap_or_default(), format!("after[{place}].job"));
        checker.label(&path, &job, MAX_LABEL);
        if !seen.insert(job.clone()) {
            checker.report(&[&path], Mistake::Inconsistent, format!("`{job}` is listed twice"));
        }
        after.push(Dependency { job, condition: condition.unwrap_or_default() });
    }
    after
}

/// A time that something must not exceed.
pub(super) fn limit(path: &str, text: Option<&str>, checker: &mut Checker<'_>) -> Option<Span> {
    let limit = span(path, text?, checker)?;
    if limit.0 == Duration::ZERO {
        checker.report(
            &[path],
            Mistake::OutOfRange,
            "nothing can be done in no time; leave it out for no limit".into(),
        );
    }
    Some(limit)
}

fn span(path: &str, text: &str, checker: &mut Checker<'_>) -> Option<Span> {
    let span = text.parse::<Span>();
    if let Err(error) = &span {
        checker.report(&[path], Mistake::OutOfRange, error.to_string());
    }
    span.ok()
}
