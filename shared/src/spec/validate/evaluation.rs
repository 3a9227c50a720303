//! What is measured when training is complete.

use std::collections::HashSet;

use super::Checker;
use crate::spec::document::{child, item};
use crate::spec::error::Mistake;
use crate::spec::raw::{RawEvaluation, RawTask, Short, TaskName};
use crate::spec::{Decoding, Evaluation, Task, Templates};

const MAX_EVALUATIONS: u64 = 64;
const MAX_LABELS: u64 = 10_000;
const MAX_TEMPLATES: u64 = 1_000;
const MAX_SHOTS: u64 = 10_000;
const MAX_DRAWS: u64 = 100;
const MAX_BEAMS: u64 = 64;
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
    let (caption, answer) = (TaskName::Caption, TaskName::Answer);
    let given: [(_, &[TaskName], _); 12] = [
        ("label", &[TaskName::Classify, TaskName::Fewshot], raw.label.is_some()),
        ("labels", &[TaskName::Classify], raw.labels.is_some()),
        ("template", &[TaskName::Classify], raw.template.is_some()),
        ("caption", &[TaskName::Choose], raw.caption.is_some()),
        ("negative", &[TaskName::Choose], raw.negative.is_some()),
        ("shuffle", &[TaskName::Choose], raw.shuffle.is_some()),
        ("train", &[TaskName::Fewshot], raw.train.is_some()),
        ("shots", &[TaskName::Fewshot], raw.shots.is_some()),
        ("draws", &[TaskName::Fewshot], raw.draws.is_some()),
        ("beams", &[caption, answer], raw.beams.is_some()),
        ("length_penalty", &[caption, answer], raw.length_penalty.is_some()),
        ("question", &[answer], raw.question.is_some()),
    ];
    for (key, of, is_given) in given.into_iter().chain([("answer", &[answer][..], raw.answer.is_some())]) {
        if is_given && !of.contains(&name) {
            let tasks: Vec<String> = of.iter().map(|task| format!("`{}`", word(*task))).collect();
            let noun = if tasks.len() == 1 { "task" } else { "tasks" };
            let message = format!("is for the {noun} {} only", tasks.join(" and "));
            checker.report(&[&child(path, key), path, &child(path, "type")], Mistake::Inconsistent, message);
        }
    }
    match name {
        TaskName::Accuracy => Task::Accuracy,
        TaskName::Caption => Task::Caption(decoding(&raw, path, checker)),
        TaskName::Perplexity => Task::Perplexity,
        TaskName::Retrieval => Task::Retrieval,
        TaskName::Answer => {
            let decoding = decoding(&raw, path, checker);
            let question = raw.question.unwrap_or_else(|| "question".into());
            Task::Answer {
                question: field(Some(question), path, "question", name, checker),
                answer: raw.answer,
                decoding,
            }
        }
        TaskName::Choose => choose(raw, path, checker),
        TaskName::Fewshot => fewshot(raw, path, checker),
        TaskName::Classify => {
            let labels = raw.labels.unwrap_or_default();
            checker.within(&child(path, "labels"), labels.len() as u64, 0..=MAX_LABELS);
            let template = templates(raw.template, &child(path, "template"), checker);
            Task::Classify { label: field(raw.label, path, "label", name, checker), labels, template }
        }
    }
}

fn templates(raw: Option<Short<String, Vec<String>>>, path: &str, checker: &mut Checker<'_>) -> Templates {
    let check = |template: &str, path: &str, checker: &mut Checker<'_>| {
        if template.matches("{}").count() != 1 {
            let message = format!("`{template}` does not have `{{}}` once, where the label goes");
            checker.report(&[path], Mistake::OutOfRange, message);
        }
    };
    match raw {
        None => Templates::new(vec!["{}".into()]),
        Some(Short::Name(template)) => {
            check(&template, path, checker);
            Templates::new(vec![template])
        }
        Some(Short::Map(templates)) => {
            checker.within(path, templates.len() as u64, 1..=MAX_TEMPLATES);
            for (index, template) in templates.iter().enumerate() {
                check(template, &item(path, index), checker);
            }
            Templates::new(templates)
        }
    }
}

fn choose(raw: RawTask, path: &str, checker: &mut Checker<'_>) -> Task {
    let shuffle = raw.shuffle.unwrap_or_default();
    if shuffle && raw.negative.is_some() {
        let message = "is given, but with shuffle the false caption is made of the true one; leave one out".into();
        checker.report(&[&child(path, "negative"), &child(path, "shuffle")], Mistake::Inconsistent, message);
    }
    let negative = (!shuffle).then(|| field(raw.negative, path, "negative", TaskName::Choose, checker));
    Task::Choose { caption: raw.caption, negative, shuffle }
}

fn decoding(raw: &RawTask, path: &str, checker: &mut Checker<'_>) -> Decoding {
    let default = Decoding::default();
    let decoding = Decoding {
        beams: raw.beams.unwrap_or(default.beams),
        length_penalty: raw.length_penalty.unwrap_or(default.length_penalty),
    };
    checker.within(&child(path, "beams"), decoding.beams, 1..=MAX_BEAMS);
    let penalty = decoding.length_penalty;
    checker.require((0.0..=10.0).contains(&penalty), &child(path, "length_penalty"), penalty, "is not from 0 to 10");
    decoding
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

pub(super) fn word(task: TaskName) -> &'static str {
    match task {
        TaskName::Classify => "classify",
        TaskName::Choose => "choose",
        TaskName::Fewshot => "fewshot",
        TaskName::Caption => "caption",
        TaskName::Perplexity => "perplexity",
        TaskName::Retrieval => "retrieval",
        TaskName::Answer => "answer",
        TaskName::Accuracy => "accuracy",
    }
}
