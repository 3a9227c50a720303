//! What is measured when training is complete.

use std::collections::HashSet;

use super::Checker;
use crate::spec::document::{child, item};
use crate::spec::error::Mistake;
use crate::spec::raw::{RawEvaluation, RawTask, Short, TaskName};
use crate::spec::{Evaluation, Task};

const MAX_EVALUATIONS: u64 = 64;
const MAX_LABELS: u64 = 10_000;
const MAX_SHOTS: u64 = 10_000;
const MAX_DRAWS: u64 = 100;
/// The authors' setting.
const SHOTS: [u32; 3] = [1, 5, 10];
const DRAWS: u32 = 3;

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
        ("labels", TaskName::Classify, raw.labels.is_some()),
        ("template", TaskName::Classify, raw.template.is_some()),
        ("negative", TaskName::Choose, raw.negative.is_some()),
        ("train", TaskName::Fewshot, raw.train.is_some()),
        ("shots", TaskName::Fewshot, raw.shots.is_some()),
        ("draws", TaskName::Fewshot, raw.draws.is_some()),
    ];
    if raw.label.is_some() && !matches!(name, TaskName::Classify | TaskName::Fewshot) {
        let message = "is for the tasks `classify` and `fewshot` only".into();
        checker.report(&[&child(path, "label"), path, &child(path, "type")], Mistake::Inconsistent, message);
    }
    for (key, of, is_given) in given {
        if is_given && of != name {
            let message = format!("is for the task `{}` only", word(of));
            checker.report(&[&child(path, key), path, &child(path, "type")], Mistake::Inconsistent, message);
        }
    }
    match name {
        TaskName::Caption => Task::Caption,
        TaskName::Choose => Task::Choose { negative: field(raw.negative, path, "negative", name, checker) },
        TaskName::Fewshot => fewshot(raw, path, checker),
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

fn fewshot(raw: RawTask, path: &str, checker: &mut Checker<'_>) -> Task {
    let at = child(path, "train");
    if raw.train.is_none() {
        let message = "is required for the task `fewshot`: the manifest that examples are drawn from".into();
        checker.report(&[&at, path], Mistake::Missing, message);
    }
    let mut shots = raw.shots.unwrap_or_else(|| SHOTS.to_vec());
    checker.within(&child(path, "shots"), shots.len() as u64, 1..=MAX_EVALUATIONS);
    for (index, &number) in shots.iter().enumerate() {
        checker.within(&item(&child(path, "shots"), index), number, 1..=MAX_SHOTS);
    }
    shots.sort_unstable();
    shots.dedup();
    let draws = raw.draws.unwrap_or(DRAWS);
    checker.within(&child(path, "draws"), draws, 1..=MAX_DRAWS);
    let train = checker.url(&at, raw.train);
    Task::Fewshot { label: field(raw.label, path, "label", TaskName::Fewshot, checker), train, shots, draws }
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
        TaskName::Fewshot => "fewshot",
        TaskName::Caption => "caption",
    }
}
