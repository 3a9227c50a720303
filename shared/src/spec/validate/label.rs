//! The classes of a classification.

use std::collections::HashSet;

use super::Checker;
use crate::spec::document::item;
use crate::spec::error::Mistake;
use crate::spec::raw::{RawLabel, RawSpec, Short};
use crate::spec::{Captions, Classes, Data, Label, Objective};

/// As many as ImageNet-21k and some more.
const MAX_CLASSES: u64 = 100_000;

/// Classification needs classes; other objectives have no use for them.
pub(super) fn check(objective: &Objective, spec: &RawSpec, checker: &mut Checker<'_>) {
    let Some(data) = &spec.data else { return };
    match (objective.is_classifying(), &data.label) {
        (true, None) => {
            let message = "is required for `classify`: the field of a sample's .json with its class, and all classes";
            checker.report(&["data.label", "objective.type", "objective"], Mistake::Missing, message.into());
        }
        (false, Some(_)) => {
            let message = format!("is for `classify` only; `{}` learns from captions", objective.name());
            checker.report(&["data.label", "objective.type", "objective"], Mistake::Inconsistent, message);
        }
        _ => {}
    }
    if data.prefix.is_some() && !objective.is_captioning() {
        let message = format!("is for `cap` and `cappa` only; `{}` has no decoder to see it", objective.name());
        checker.report(&["data.prefix", "objective.type", "objective"], Mistake::Inconsistent, message);
    }
    if data.prefix.as_deref() == Some("") {
        checker.report(&["data.prefix"], Mistake::Missing, "names no field of the .json".into());
    }
}

/// A classification has no use for captions. The usual setting is none's wish: a printed spec writes it.
pub(super) fn check_captions(objective: &Objective, data: &Data, checker: &mut Checker<'_>) {
    if objective.is_classifying() && data.captions != Captions::default() {
        let message = "is for objectives that learn from captions; `classify` learns from data.label".into();
        checker.report(&["data.captions"], Mistake::Inconsistent, message);
    }
}

pub(super) fn label(raw: Option<RawLabel>, checker: &mut Checker<'_>) -> Option<Label> {
    let raw = raw?;
    let path = "data.label.classes";
    let field = raw.field.unwrap_or_default();
    if field.is_empty() {
        checker.report(&["data.label.field", "data.label"], Mistake::Missing, "is required".into());
    }
    let classes = match raw.classes {
        None => Classes::Count(2),
        Some(Short::Name(count)) => {
            checker.within(path, count, 2..=MAX_CLASSES);
            Classes::Count(count)
        }
        Some(Short::Map(names)) => {
            checker.within(path, names.len() as u64, 2..=MAX_CLASSES);
            let mut seen = HashSet::new();
            for (index, name) in names.iter().enumerate() {
                if !seen.insert(name) {
                    checker.report(&[&item(path, index)], Mistake::DuplicateName, format!("`{name}` is given twice"));
                }
            }
            Classes::Names(names)
        }
    };
    Some(Label { field, classes })
}
