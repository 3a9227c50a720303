//! What a network starts from, and what of it stays as it is.

use super::Checker;
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
    let from = checker.url(path, raw.from);
    if !from.is_empty() && !from.ends_with("/MANIFEST.json") {
        let message =
            "is not the MANIFEST.json of a checkpoint; `cappactl checkpoints ls JOB` shows a job's checkpoints";
        checker.report(&[path], Mistake::BadUrl, message.into());
    }
    let given = raw.parts.unwrap_or_default();
    parts("init.parts", &given, objective, checker);
    Some(Init { from, parts: given })
}

pub(super) fn freeze(raw: Option<Vec<Part>>, objective: &Objective, checker: &mut Checker<'_>) -> Vec<Part> {
    let frozen = raw.unwrap_or_default();
    parts("freeze", &frozen, objective, checker);
    if frozen.contains(&Part::Encoder) && frozen.contains(&Part::Decoder) {
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
