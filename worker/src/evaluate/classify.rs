//! Zero-shot classification by scoring: the label whose prompts suit the image best, by log-likelihood or similarity.

use std::collections::{BTreeSet, HashMap};

use cappa_shared::evaluation::Finding;
use cappa_shared::spec::Templates;

use super::samples::{Samples, add_images, field};
use super::{Evaluator, accuracy};
use crate::train::outcome::Departure;

/// Scores every label of every sample that has one; gives the number of samples and the accuracies.
pub(super) fn classify(
    evaluator: &Evaluator<'_>,
    samples: &Samples,
    key: &str,
    labels: &[String],
    templates: &Templates,
) -> Result<(u64, Finding), Departure> {
    let labels = match labels.is_empty() {
        true => occurring(evaluator, samples, key)?,
        false => labels.to_vec(),
    };
    let place: HashMap<&str, usize> = labels.iter().enumerate().map(|(i, label)| (label.as_str(), i)).collect();
    let model = &evaluator.state.model;
    let prompts = evaluator.tokens(&templates.prompts(&labels))?;
    let candidates = model.candidates(prompts, templates.all().len())?;

    // Right answers, then how often each label occurs.
    let mut counts = vec![0f64; 1 + labels.len()];
    let mut images_sum = None;
    let suit = |record: &cappa_data::records::Record| field(record, key).map(str::to_owned);
    samples.chunks(evaluator, suit, |images, chunk| {
        add_images(&mut images_sum, &images);
        let scores = model.score(&model.encode(&images)?, &candidates)?;
        let best = Vec::<i64>::try_from(scores.argmax(1, false)).expect("one label a sample");
        for ((record, label), best) in chunk.iter().zip(best) {
            let known = place.get(label.as_str()).copied().ok_or_else(|| {
                Departure::Unsuitable(format!(
                    "sample {} has the label `{label}`, which task.labels does not list",
                    record.key
                ))
            })?;
            counts[1 + known] += 1.0;
            counts[0] += if best as usize == known { 1.0 } else { 0.0 };
        }
        Ok(())
    })?;

    let mine: f64 = counts[1..].iter().sum();
    let blind = match model.captioner() {
        Some(_) => {
            let mean = evaluator.encode_mean(images_sum, mine as i64)?;
            Some(model.score(&mean, &candidates)?.argmax(1, false).int64_value(&[0]))
        }
        None => None,
    };
    let counts = evaluator.sum(&counts)?;
    let total: f64 = counts[1..].iter().sum();
    if total == 0.0 {
        return Err(Departure::Unsuitable(format!("no sample has the field `{key}`; see `cappactl data inspect`")));
    }
    let blind = blind.map(|label| counts[1 + label as usize]);
    Ok((total as u64, Finding::Classify(accuracy(counts[0], blind, total, labels.len()))))
}

/// The labels that occur in the set, in alphabetical order, on whatever rank they are.
fn occurring(evaluator: &Evaluator<'_>, samples: &Samples, key: &str) -> Result<Vec<String>, Departure> {
    let mut found = BTreeSet::new();
    samples.chunks(
        evaluator,
        |record| field(record, key).map(str::to_owned),
        |_, chunk| {
            found.extend(chunk.into_iter().map(|(_, label)| label));
            Ok(())
        },
    )?;
    let mine = serde_json::to_string(&found).expect("labels are texts");
    let lists = evaluator.gather(&mine)?;
    let lists = lists.iter().map(|list| serde_json::from_str::<BTreeSet<String>>(list));
    let all = lists.collect::<Result<Vec<_>, _>>().expect("the ranks wrote them");
    Ok(all.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect())
}
