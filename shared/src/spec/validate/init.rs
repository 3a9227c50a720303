//! What a network starts from, and what of it stays as it is.

use super::Checker;
use super::scheduling::MAX_LABEL;
use crate::spec::document::item;
use crate::spec::error::Mistake;
use crate::spec::raw::{RawInit, Short};
use crate::spec::{Init, Objective, Part};

pub(super) fn init(
    raw: Option<Short<String, RawInit>>,
    objective: &Objective,
    checker: &mut Checker<'_>,
) -> Option<Init> {
    let (path, raw) = match raw? {
        Short::Name(from) => ("init", RawInit { from: Some(from), parts: None }),
        Short::Map(raw) => ("init.from", raw),
    };
    let from = manifest(path, raw.from, checker);
    let given = raw.parts.unwrap_or_default();
    parts("init.parts", &given, objective, checker);
    Some(Init { from, parts: given })
}

/// What a job that only evaluates starts from: a checkpoint, or the newest one of a job that comes before it.
pub(super) fn evaluated(from: Option<String>, checker: &mut Checker<'_>) -> Option<Init> {
    const PATH: &str = "from";
    let from = from?;
    let is_job = !from.is_empty() && !from.contains('/');
    if is_job {
        checker.label(PATH, &from, MAX_LABEL);
    }
    let from = if is_job { from } else { manifest(PATH, Some(from), checker) };
    Some(Init { from, parts: Vec::new() })
}

/// The URL of a checkpoint's manifest.
fn manifest(path: &str, given: Option<String>, checker: &mut Checker<'_>) -> String {
    let from = checker.url(path, given);
    if !from.is_empty() && !from.ends_with("/MANIFEST.json") {
        let message =
            "is not the MANIFEST.json of a checkpoint; `cappactl checkpoints ls JOB` shows a job's checkpoints";
        checker.report(&[path], Mistake::BadUrl, message.into());
    }
    from
}

pub(super) fn freeze(raw: Option<Vec<Part>>, objective: &Objective, checker: &mut Checker<'_>) -> Vec<Part> {
    let frozen = raw.unwrap_or_default();
    parts("freeze", &frozen, objective, checker);
    let all = |parts: [Part; 2]| parts.iter().all(|part| frozen.contains(part));
    if all([Part::Encoder, Part::Decoder]) || objective.is_classifying() && all([Part::Encoder, Part::Head]) {
        checker.report(&["freeze"], Mistake::Inconsistent, "leaves nothing to train".into());
    }
    frozen
}

/// Each part once, and only those that the network has.
fn parts(path: &str, given: &[Part], objective: &Objective, checker: &mut Checker<'_>) {
    for (index, part) in given.iter().enumerate() {
        let at = item(path, index);
        if given[..index].contains(part) {
            checker.report(&[&at], Mistake::DuplicateName, format!("`{part}` is given twice"));
        }
        if !part.is_of(objective) {
            let message = format!("a network of `{}` has no part `{part}`", objective.name());
            checker.report(&[&at, "objective", "objective.type"], Mistake::Inconsistent, message);
        }
    }
}
