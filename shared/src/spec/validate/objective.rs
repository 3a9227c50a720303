//! What is trained, and what follows from it for the rest of the spec.

use super::{Checker, evaluation};
use crate::spec::Objective;
use crate::spec::document::{child, item};
use crate::spec::error::Mistake;
use crate::spec::raw::{ObjectiveName, RawObjective, RawSpec, Short, TaskName};

/// Share of examples predicted in parallel (paper, section 3.2).
const PARALLEL_FRACTION: f64 = 0.75;
/// Share of their places that are hidden (likewise).
const MASKING_RATIO: f64 = 1.0;

pub(super) fn objective(raw: Option<Short<ObjectiveName, RawObjective>>, checker: &mut Checker<'_>) -> Objective {
    let raw = match raw {
        None => RawObjective::default(),
        Some(Short::Name(name)) => RawObjective { name: Some(name), ..RawObjective::default() },
        Some(Short::Map(raw)) => raw,
    };
    let parallel_fraction = raw.parallel_fraction.unwrap_or(PARALLEL_FRACTION);
    let masking_ratio = raw.masking_ratio.unwrap_or(MASKING_RATIO);
    let label_smoothing = raw.label_smoothing.unwrap_or_default();
    let text_pooling = raw.text_pooling.unwrap_or_default();
    let at = "objective.label_smoothing";
    checker.require((0.0..1.0).contains(&label_smoothing), at, label_smoothing, "is not from 0 to below 1");
    let objective = match raw.name.unwrap_or(ObjectiveName::Cappa) {
        ObjectiveName::Cap => Objective::Cap { label_smoothing },
        ObjectiveName::Cappa => Objective::Cappa { parallel_fraction, masking_ratio, label_smoothing },
        ObjectiveName::Clip => Objective::Clip { text_pooling },
        ObjectiveName::Siglip => Objective::Siglip { text_pooling },
        ObjectiveName::Classify => Objective::Classify {
            pooling: raw.pooling.unwrap_or_default(),
            loss: raw.loss.unwrap_or_default(),
            label_smoothing,
        },
    };
    if let Objective::Cappa { .. } = objective {
        checker.fraction("objective.parallel_fraction", parallel_fraction);
        let hides_some = masking_ratio > 0.0 && masking_ratio <= 1.0;
        checker.require(hides_some, "objective.masking_ratio", masking_ratio, "is not above 0 and at most 1");
    }
    let parallel = [("parallel_fraction", raw.parallel_fraction), ("masking_ratio", raw.masking_ratio)];
    for (key, _) in parallel.into_iter().filter(|(_, given)| given.is_some()) {
        if !matches!(objective, Objective::Cappa { .. }) {
            let message = format!("is for `cappa` only; `{}` predicts nothing in parallel", objective.name());
            checker.report(&[&child("objective", key)], Mistake::Inconsistent, message);
        }
    }
    if objective.is_contrastive() && raw.label_smoothing.is_some() {
        let message = format!("is for `cap`, `cappa` and `classify` only; `{}` predicts no labels", objective.name());
        checker.report(&[at], Mistake::Inconsistent, message);
    }
    if raw.text_pooling.is_some() && !objective.is_contrastive() {
        let message = format!("is for `clip` and `siglip` only; `{}` trains no text tower", objective.name());
        checker.report(&["objective.text_pooling"], Mistake::Inconsistent, message);
    }
    for (key, is_given) in [("pooling", raw.pooling.is_some()), ("loss", raw.loss.is_some())] {
        if is_given && !objective.is_classifying() {
            let message = "is for `classify` only".into();
            checker.report(&[&child("objective", key)], Mistake::Inconsistent, message);
        }
    }
    objective
}

/// What two towers can't do.
pub(super) fn check_towers(objective: &Objective, spec: &RawSpec, checker: &mut Checker<'_>) {
    if !objective.is_contrastive() {
        return;
    }
    let name = objective.name();
    if let Some(Short::Map(lengths)) = raw_lengths(spec)
        && lengths.len() > 1
    {
        let message =
            format!("give one length: the text tower of `{name}` sees padding, so texts of a batch have one length");
        checker.report(&["data.text_length", "objective", "objective.type"], Mistake::Inconsistent, message);
    }
}

/// Which evaluations a network of the objective can't do.
pub(super) fn check_tasks(objective: &Objective, spec: &RawSpec, checker: &mut Checker<'_>) {
    let name = objective.name();
    for (index, evaluation) in spec.evaluate.iter().flatten().enumerate() {
        let task = match &evaluation.task {
            Some(Short::Name(task)) => Some(*task),
            Some(Short::Map(task)) => task.name,
            None => None,
        };
        let Some(task) = task else { continue };
        let message = match task {
            TaskName::Accuracy if !objective.is_classifying() => {
                format!(
                    "`accuracy` is that of a trained classifier, and `{name}` trains none; use `classify` or `fewshot`"
                )
            }
            TaskName::Accuracy | TaskName::Fewshot => continue,
            _ if objective.is_classifying() => {
                format!("needs a network that knows texts, and `{name}` trains none; use `accuracy` or `fewshot`")
            }
            TaskName::Caption | TaskName::Perplexity | TaskName::Answer if objective.is_contrastive() => {
                let task = evaluation::word(task);
                format!(
                    "`{task}` needs a decoder, and `{name}` trains none; use `classify`, `choose`, `fewshot` or `retrieval`"
                )
            }
            TaskName::Retrieval if !objective.is_contrastive() => {
                format!(
                    "`retrieval` compares the embeddings of two towers, and `{name}` trains none; use `clip` or `siglip`"
                )
            }
            _ => continue,
        };
        let path = child(&item("evaluate", index), "task");
        checker.report(&[&path, "objective", "objective.type"], Mistake::Inconsistent, message);
    }
}

fn raw_lengths(spec: &RawSpec) -> Option<&Short<u32, Vec<u32>>> {
    spec.data.as_ref()?.text_length.as_ref()
}
