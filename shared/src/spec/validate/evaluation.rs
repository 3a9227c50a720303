//! What is measured when training is complete.

use std::collections::HashSet;

use super::Checker;
use crate::spec::document::{child, item};
use crate::spec::error::Mistake;
use crate::spec::raw::{RawEvaluation, RawTask, Short, TaskName};
use crate::spec::{Evaluation, Task};

const MAX_EVALUATIONS: u64 = 64;
const MAX_LABELS: u64 = 10_000;

pub(super) fn evaluations(raw: Vec<RawEvaluation>, checker: &mut Checker<'_>) -> Vec<Evaluation> {
    checker.within("evaluate", raw.len() as u64, 0..=MAX_EVALUATIONS);
    let mut names = HashSet::new();
    let one = |(index, raw): (usize, RawEvaluation)| {
        let evaluation = evaluation(raw, &item("evaluate", index), checker);
        if !names.insert(evaluation.name.clone()) {
            let path = child(&item("evaluate", index), "name");
            let message = format!("`{}` is the name of another evaluation too", evaluation.name);
            checker.report(&[&path], Mistake::DuplicateName, message);
        }
        evaluation
    };
    raw.into_iter().enumerate().map(one).collect()
}

fn evaluation(raw: RawEvaluation, path: &str, checker: &mut Checker<'_>) -> Evaluation {
    let name = raw.name.unwrap_or_default();
    checker.label(&child(path, "name"), &name, 63);
    let data = checker.url(&child(path, "data"), raw.data);
    if let Some(limit) = raw.limit {
        checker.within(&child(path, "limit"), limit, 1..=u64::MAX);
    }
    let task_raw = match raw.task {
        None => RawTask::default(),
        Some(Short::Name(name)) => RawTask { name: Some(name), ..RawTask::default() },
        Some(Short::Map(raw)) => raw,
    };
    Evaluation { name, data, task: task(task_raw, &child(path, "task"), checker), limit: raw.limit }
}

fn task(raw: RawTask, path: &str, checker: &mut Checker<'_>) -> Task {
    // An absent task has been reported with the shape.
    let name = raw.name.unwrap_or(TaskName::Caption);
    let given = [
        ("label", TaskName::Classify, raw.label.is_some()),
        ("labels", TaskName::Classify, raw.labels.is_some()),
        ("template", TaskName::Classify, raw.template.is_some()),
        ("negative", TaskName::Choose, raw.negative.is_some()),
    ];
    for (key, of, is_given) in given {
        if is_given && of != name {
            let message = format!("is for the task `{}` only", word(of));
            checker.report(&[&child(path, key), path, &child(path, "type")], Mistake::Inconsistent, message);
        }
    }
    match name {
        TaskName::Caption => Task::Caption,
        TaskName::Choose => Task::Choose { negative: field(raw.negative, path, "negative", name, checker) },
        TaskName::Classify => {
            let labels = raw.labels.unwrap_or_default();
            checker.within(&child(path, "labels"), labels.len() as u64, 0..=MAX_LABELS);
            let template = raw.template.unwrap_or_else(|| "{}".into());
            if template.matches("{}").count() != 1 {
                let message = format!("`{template}` does not have `{{}}` once, where the label goes");
                checker.report(&[&child(path, "template")], Mistake::OutOfRange, message);
            }
            Task::Classify { label: field(raw.label, path, "label", name, checker), labels, template }
        }
    }
}

/// The name of a field in a sample's `.json`, which the task can't do without.
fn field(given: Option<String>, path: &str, key: &str, task: TaskName, checker: &mut Checker<'_>) -> String {
    let given = given.unwrap_or_default();
    if given.is_empty() {
        let message = format!("is required for the task `{}`: the field of a sample's .json", word(task));
        checker.report(&[&child(path, key), path], Mistake::Missing, message);
    }
    given
}

fn word(task: TaskName) -> &'static str {
    match task {
        TaskName::Classify => "classify",
        TaskName::Choose => "choose",
        TaskName::Caption => "caption",
    }
}
