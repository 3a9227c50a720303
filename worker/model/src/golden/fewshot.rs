//! Check of few-shot classification: scores and accuracies of each regularisation, and the protocol of shots.

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::compare::{Comparison, Tolerance};
use super::reference::{GoldenError, Reference};
use crate::fewshot::FewShot;

/// f32 eigendecompositions lose digits against the constant feature.
const SCORES: Tolerance = Tolerance::absolute(1e-2);
/// Test examples whose two best scores are this close may fall on either side.
const TIE: f64 = 0.01;

#[derive(Deserialize)]
struct Problem {
    name: String,
    num_classes: i64,
    l2_regs: Vec<f64>,
    shots: Vec<i64>,
    seeds: Vec<i64>,
    protocol_l2: f64,
}

/// Features and labels of one problem.
struct Examples {
    features: Tensor,
    labels: Tensor,
}

impl Examples {
    fn of(reference: &Reference, problem: &str, part: &str) -> Result<Self, GoldenError> {
        let tensor = |letter: &str| reference.tensor(&format!("inputs/{problem}/{letter}_{part}"));
        Ok(Self { features: tensor("x")?.shallow_clone(), labels: tensor("y")?.to_kind(Kind::Int64) })
    }
}

/// `fewshot`: every problem of the file.
pub(super) fn fewshot(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    for problem in reference.describe::<Vec<Problem>>("/problems")? {
        let train = Examples::of(reference, &problem.name, "train")?;
        let test = Examples::of(reference, &problem.name, "test")?;
        strengths(reference, &problem, [&train, &test], comparison)?;
        protocol(reference, &problem, [&train, &test], comparison)?;
    }
    Ok(())
}

/// All training examples, for each strength of regularisation.
fn strengths(
    reference: &Reference,
    problem: &Problem,
    [train, test]: [&Examples; 2],
    comparison: &mut Comparison,
) -> Result<(), GoldenError> {
    let fit = FewShot::new(&train.features, &train.labels, problem.num_classes);
    let scores: Vec<_> = problem.l2_regs.iter().map(|&l2| fit.classifier(l2).scores(&test.features)).collect();
    let outputs = format!("outputs/{}", problem.name);
    accuracies(reference, &format!("{outputs}/accuracy"), &scores, test, comparison)?;
    let scores = Tensor::stack(&scores, 0);
    comparison.check(&format!("{outputs}/scores"), &scores, SCORES)?;
    comparison.check(&format!("{outputs}/score_margin"), &margins(&scores), SCORES)
}

/// Some examples of each class, drawn several times.
fn protocol(
    reference: &Reference,
    problem: &Problem,
    [train, test]: [&Examples; 2],
    comparison: &mut Comparison,
) -> Result<(), GoldenError> {
    let outputs = format!("outputs/{}/protocol", problem.name);
    let mut scores = Vec::new();
    for seed in &problem.seeds {
        for shots in &problem.shots {
            let drawn = reference.tensor(&format!("{outputs}/indices_seed{seed}_shots{shots}"))?;
            let [features, labels] = [&train.features, &train.labels].map(|all| all.index_select(0, drawn));
            let fit = FewShot::new(&features, &labels, problem.num_classes);
            scores.push(fit.classifier(problem.protocol_l2).scores(&test.features));
        }
    }
    accuracies(reference, &format!("{outputs}/accuracy"), &scores, test, comparison)
}

/// The best score minus the second best: `[.., C]` → `[..]`.
fn margins(scores: &Tensor) -> Tensor {
    let best = scores.topk(2, -1, true, true).0;
    best.select(-1, 0) - best.select(-1, 1)
}

/// The accuracies of several classifiers, from their scores `[M, C]`, are the reference's, but for ties.
fn accuracies(
    reference: &Reference,
    name: &str,
    scores: &[Tensor],
    test: &Examples,
    comparison: &mut Comparison,
) -> Result<(), GoldenError> {
    let expected = reference.tensor(name)?.to_kind(Kind::Double).flatten(0, -1);
    let expected = Vec::<f64>::try_from(expected).expect("a vector of doubles");
    comparison.equal(&format!("number of {name}"), &scores.len(), &expected.len());
    let labels = test.labels.to_device(Device::Cpu);
    for (i, (scores, expected)) in scores.iter().zip(expected).enumerate() {
        let share = |which: Tensor| which.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        let found = share(scores.argmax(1, false).eq_tensor(&labels));
        let ties = share(margins(scores).lt(TIE));
        // The reference stores f32.
        comparison.numbers(&format!("{name}[{i}]"), found, expected, Tolerance::absolute(ties + 1e-6));
    }
    Ok(())
}
